//! What an ADS client holds: decoded, checked resources, and which others they refer to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ithildin_proto::{
    pb::{
        envoy::{
            config::{
                cluster::v3::Cluster,
                endpoint::v3::ClusterLoadAssignment,
                listener::v3::{Listener, filter},
                route::v3::RouteConfiguration,
            },
            extensions::filters::network::http_connection_manager::v3::{
                HttpConnectionManager, http_connection_manager::RouteSpecifier,
            },
            service::discovery::v3::DeltaDiscoveryResponse,
        },
        google::protobuf::Any,
    },
    unpack,
};
use prost::{Message, Name};

use super::world::endpoints_of;
use crate::{
    ResourceKind, ResourceSet,
    subscription::{Interest, Verdict},
};

/// A resource that is to be accepted or refused.
#[derive(Clone, Copy, Debug)]
pub enum Candidate<'a> {
    Cluster(&'a Cluster),
    Endpoints(&'a ClusterLoadAssignment),
    Listener(&'a Listener),
    Route(&'a RouteConfiguration),
}

/// Accepts a resource, or says why not: the server is told, and the form before it stays in force.
pub type ResourceCheck = Arc<dyn Fn(Candidate<'_>) -> Result<(), String> + Send + Sync>;

pub(super) struct Store {
    set: ResourceSet,
    check: ResourceCheck,
}

impl Store {
    pub(super) fn new(check: ResourceCheck) -> Self {
        Self {
            set: ResourceSet::default(),
            check,
        }
    }

    pub(super) fn set(&self) -> &ResourceSet {
        &self.set
    }

    /// What to subscribe to: all clusters and listeners, and the endpoints and routes that these name.
    pub(super) fn wanted(&self, kind: ResourceKind) -> Interest {
        match kind {
            ResourceKind::Cluster | ResourceKind::Listener => Interest::everything(),
            ResourceKind::Endpoints => {
                Interest::of(self.set.clusters.values().filter_map(|c| endpoints_of(c)))
            }
            ResourceKind::Route => {
                Interest::of(self.set.listeners.values().flat_map(|l| routes_of(l)))
            }
            ResourceKind::Secret => Interest::default(),
        }
    }

    /// Takes a state-of-the-world response. Good resources are in force even if others are refused.
    pub(super) fn replace(&mut self, kind: ResourceKind, resources: &[Any]) -> Result<(), String> {
        match kind {
            ResourceKind::Cluster => self.replace_typed::<Cluster>(kind, resources),
            ResourceKind::Endpoints => self.replace_typed::<ClusterLoadAssignment>(kind, resources),
            ResourceKind::Listener => self.replace_typed::<Listener>(kind, resources),
            ResourceKind::Route => self.replace_typed::<RouteConfiguration>(kind, resources),
            ResourceKind::Secret => Err("secrets are not asked for here".into()),
        }
    }

    /// Takes an incremental response.
    pub(super) fn change(
        &mut self,
        kind: ResourceKind,
        response: &DeltaDiscoveryResponse,
    ) -> Verdict {
        match kind {
            ResourceKind::Cluster => self.change_typed::<Cluster>(response),
            ResourceKind::Endpoints => self.change_typed::<ClusterLoadAssignment>(response),
            ResourceKind::Listener => self.change_typed::<Listener>(response),
            ResourceKind::Route => self.change_typed::<RouteConfiguration>(response),
            ResourceKind::Secret => Verdict::default(),
        }
    }

    /// Drops endpoints and routes that nothing refers to: a server may never remove them.
    pub(super) fn drop_unwanted(&mut self) {
        let endpoints = self.wanted(ResourceKind::Endpoints);
        let routes = self.wanted(ResourceKind::Route);
        self.set
            .endpoints
            .retain(|name, _| endpoints.contains(name));
        self.set.routes.retain(|name, _| routes.contains(name));
    }

    fn replace_typed<T: Typed>(
        &mut self,
        kind: ResourceKind,
        resources: &[Any],
    ) -> Result<(), String> {
        let mut reasons = Vec::new();
        let mut seen = BTreeSet::new();
        for any in resources {
            match unpack::<T>(any) {
                Ok(resource) => {
                    let name = resource.name().to_owned();
                    if let Err(reason) = self.accept(resource) {
                        reasons.push(format!("{name}: {reason}"));
                    }
                    seen.insert(name);
                }
                Err(error) => reasons.push(error.to_string()),
            }
        }
        if kind.full_state() {
            T::of(&mut self.set).retain(|name, _| seen.contains(name));
        }
        match reasons.is_empty() {
            true => Ok(()),
            false => Err(reasons.join("; ")),
        }
    }

    fn change_typed<T: Typed>(&mut self, response: &DeltaDiscoveryResponse) -> Verdict {
        let mut verdict = Verdict::default();
        for wire in &response.resources {
            let accepted = match &wire.resource {
                Some(any) => unpack::<T>(any)
                    .map_err(|error| error.to_string())
                    .and_then(|resource| self.accept(resource)),
                None => Err("the resource is empty".to_owned()),
            };
            if let Err(reason) = accepted {
                verdict.refused.insert(wire.name.clone(), reason);
            }
        }
        for name in &response.removed_resources {
            T::of(&mut self.set).remove(name);
        }
        verdict
    }

    /// An equal resource keeps its `Arc`.
    fn accept<T: Typed>(&mut self, resource: T) -> Result<(), String> {
        let name = resource.name().to_owned();
        if name.is_empty() {
            return Err("the resource has no name".into());
        }
        (self.check)(resource.candidate())?;
        let held = T::of(&mut self.set);
        if held.get(&name).is_none_or(|old| **old != resource) {
            held.insert(name, Arc::new(resource));
        }
        Ok(())
    }
}

/// What the four types have in common.
trait Typed: Message + Name + Default + PartialEq {
    fn name(&self) -> &str;
    fn candidate(&self) -> Candidate<'_>;
    fn of(set: &mut ResourceSet) -> &mut BTreeMap<String, Arc<Self>>;
}

impl Typed for Cluster {
    fn name(&self) -> &str {
        &self.name
    }

    fn candidate(&self) -> Candidate<'_> {
        Candidate::Cluster(self)
    }

    fn of(set: &mut ResourceSet) -> &mut BTreeMap<String, Arc<Self>> {
        &mut set.clusters
    }
}

impl Typed for ClusterLoadAssignment {
    fn name(&self) -> &str {
        &self.cluster_name
    }

    fn candidate(&self) -> Candidate<'_> {
        Candidate::Endpoints(self)
    }

    fn of(set: &mut ResourceSet) -> &mut BTreeMap<String, Arc<Self>> {
        &mut set.endpoints
    }
}

impl Typed for Listener {
    fn name(&self) -> &str {
        &self.name
    }

    fn candidate(&self) -> Candidate<'_> {
        Candidate::Listener(self)
    }

    fn of(set: &mut ResourceSet) -> &mut BTreeMap<String, Arc<Self>> {
        &mut set.listeners
    }
}

impl Typed for RouteConfiguration {
    fn name(&self) -> &str {
        &self.name
    }

    fn candidate(&self) -> Candidate<'_> {
        Candidate::Route(self)
    }

    fn of(set: &mut ResourceSet) -> &mut BTreeMap<String, Arc<Self>> {
        &mut set.routes
    }
}

/// The route configurations that a listener's HTTP connection managers name.
fn routes_of(listener: &Listener) -> Vec<String> {
    let chains = listener
        .filter_chains
        .iter()
        .chain(&listener.default_filter_chain);
    chains
        .flat_map(|chain| &chain.filters)
        .filter_map(|filter| {
            let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
                return None;
            };
            match unpack::<HttpConnectionManager>(any).ok()?.route_specifier? {
                RouteSpecifier::Rds(rds) => Some(rds.route_config_name),
                _ => None,
            }
        })
        .collect()
}
