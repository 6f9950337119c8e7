//! A set of resources as a server sends it: encoded once per change, for all streams.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use ithildin_proto::{
    pack,
    pb::envoy::config::{
        cluster::v3::{Cluster, cluster},
        endpoint::v3::ClusterLoadAssignment,
        listener::v3::Listener,
        route::v3::RouteConfiguration,
    },
};
use prost::{Message, Name};

use crate::{
    NameMap, ResourceSet,
    subscription::{Catalog, Resource, Version},
};

/// All resources with their versions. A resource that did not change keeps its version.
#[derive(Debug, Default)]
pub(super) struct World {
    clusters: Typed<Cluster>,
    endpoints: Typed<ClusterLoadAssignment>,
    listeners: Typed<Listener>,
    routes: Typed<RouteConfiguration>,
    /// Name of the endpoints by cluster, for the clusters that get theirs by discovery.
    discovered: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Typed<T> {
    sources: NameMap<T>,
    catalog: Catalog,
}

impl<T> Default for Typed<T> {
    fn default() -> Self {
        Self {
            sources: NameMap::default(),
            catalog: Catalog::new(),
        }
    }
}

impl World {
    /// The world after this one. A cluster that discovers its endpoints always has some resource to
    /// discover: Envoy would wait for it for ever.
    pub(super) fn next(&self, set: &ResourceSet, revision: &Version) -> Self {
        let discovered: BTreeMap<_, _> = set
            .clusters
            .iter()
            .filter_map(|(name, cluster)| Some((name.clone(), endpoints_of(cluster)?)))
            .collect();
        let mut endpoints = set.endpoints.clone();
        for name in discovered.values() {
            if !endpoints.contains_key(name) {
                endpoints.insert(name.clone(), self.no_endpoints(name));
            }
        }
        Self {
            clusters: self.clusters.next(&set.clusters, revision),
            endpoints: self.endpoints.next(&endpoints, revision),
            listeners: self.listeners.next(&set.listeners, revision),
            routes: self.routes.next(&set.routes, revision),
            discovered,
        }
    }

    pub(super) fn clusters(&self) -> &Catalog {
        &self.clusters.catalog
    }

    pub(super) fn endpoints(&self) -> &Catalog {
        &self.endpoints.catalog
    }

    pub(super) fn listeners(&self) -> &Catalog {
        &self.listeners.catalog
    }

    pub(super) fn routes(&self) -> &Catalog {
        &self.routes.catalog
    }

    /// Names of endpoints by cluster.
    pub(super) fn discovered(&self) -> &BTreeMap<String, String> {
        &self.discovered
    }

    fn no_endpoints(&self, name: &str) -> Arc<ClusterLoadAssignment> {
        let empty = ClusterLoadAssignment {
            cluster_name: name.into(),
            ..Default::default()
        };
        Arc::new(empty)
    }
}

impl<T: Message + Name + PartialEq> Typed<T> {
    /// Encoded bytes are not compared: the order of their maps is arbitrary.
    fn next(&self, sources: &NameMap<T>, revision: &Version) -> Self {
        let entry = |name: &String, source: &Arc<T>| {
            let before = self.sources.get(name);
            let same = before.is_some_and(|old| Arc::ptr_eq(old, source) || old == source);
            match self.catalog.get(name) {
                Some(resource) if same => Arc::clone(resource),
                _ => Arc::new(Resource {
                    version: Arc::clone(revision),
                    body: pack(source.as_ref()),
                }),
            }
        };
        let catalog = sources
            .iter()
            .map(|(name, source)| (name.clone(), entry(name, source)))
            .collect();
        Self {
            sources: sources.clone(),
            catalog,
        }
    }
}

/// Numbers revisions, so that those of two processes differ.
#[derive(Debug)]
pub(super) struct Revisions {
    start: u128,
    count: u64,
}

impl Revisions {
    pub(super) fn new() -> Self {
        let start = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            start: start.map_or(0, |start| start.as_millis()),
            count: 0,
        }
    }

    pub(super) fn next(&mut self) -> Version {
        self.count += 1;
        format!("{:x}-{}", self.start, self.count).into()
    }
}

/// The name under which `cluster` discovers its endpoints, if it does.
pub(super) fn endpoints_of(cluster: &Cluster) -> Option<String> {
    let kind = cluster.cluster_discovery_type.as_ref()?;
    let cluster::ClusterDiscoveryType::Type(kind) = kind else {
        return None;
    };
    if *kind != i32::from(cluster::DiscoveryType::Eds) {
        return None;
    }
    let service = cluster
        .eds_cluster_config
        .as_ref()
        .map(|eds| &eds.service_name);
    let name = service
        .filter(|name| !name.is_empty())
        .unwrap_or(&cluster.name);
    Some(name.clone())
}
