//! Resources to xDS, in the shape that istiod gives it.
//!
//! One difference is on purpose: istiod's inbound listeners accept clients of the own trust domain
//! and its aliases only, by SAN prefix. Ours carry no such list. Which bundle may verify which
//! trust domain is the SPIFFE validator's part of `ROOTCA`, so federated peers come in at once,
//! and no others do.

mod access_log;
mod cluster;
mod data_plane;
mod destinations;
mod endpoints;
mod gateway;
mod hcm;
mod inbound;
mod listener;
mod outbound;
mod retry;
mod route;
mod tls;
mod vhost;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use ithildin_proto::pb::envoy::config::{
    cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
    route::v3::RouteConfiguration,
};
use ithildin_xds::ResourceSet;

use crate::{
    error::ConfigError,
    model::MeshConfig,
    mtls::MtlsPolicies,
    names::name_table,
    node::{Locality, Node, NodeKind},
    registry::{self, Registry, Service},
    resources::{Built, Resources},
    rules::Rules,
};

/// Builds the configuration of `node`.
///
/// # Errors
///
/// What the resources ask for and the node's data plane cannot honour.
pub fn build(resources: &Resources, node: &Node) -> Result<Built, Vec<ConfigError>> {
    let mut warnings = Vec::new();
    let registry = Registry::new(resources, &node.cluster_domain, &mut warnings);
    let root_namespace = resources.mesh.root_namespace();
    let mut build = Build {
        node,
        resources,
        mesh: &resources.mesh,
        registry: &registry,
        rules: Rules::new(&resources.destination_rules, node, root_namespace),
        mtls: MtlsPolicies::new(&resources.peer_authentications, root_namespace),
        locality: locality(resources, node),
        output: ResourceSet::default(),
        warnings,
        errors: data_plane::check(resources, node),
    };
    build.clusters();
    match node.kind {
        NodeKind::Router => build.gateways(),
        NodeKind::Sidecar => {
            build.outbound();
            build.inbound();
        }
    }
    if build.errors.is_empty() {
        Ok(Built {
            names: name_table(build.services()),
            resources: build.output,
            warnings: build.warnings,
        })
    } else {
        Err(build.errors)
    }
}

/// All that the steps of one build share.
struct Build<'a> {
    node: &'a Node,
    resources: &'a Resources,
    mesh: &'a MeshConfig,
    registry: &'a Registry,
    rules: Rules<'a>,
    mtls: MtlsPolicies<'a>,
    /// Where the proxy itself is.
    locality: Locality,
    output: ResourceSet,
    warnings: Vec<ConfigError>,
    errors: Vec<ConfigError>,
}

impl<'a> Build<'a> {
    /// The services that the proxy may reach, by host name.
    fn services(&self) -> impl Iterator<Item = &'a Service> + use<'a> {
        self.registry.visible(&self.node.namespace)
    }

    /// The trust domain of the mesh, and its aliases.
    fn trust_domains(&self) -> Vec<&'a str> {
        let own = self.mesh.trust_domain.as_deref();
        let aliases = self.mesh.trust_domain_aliases.iter().map(String::as_str);
        std::iter::once(own.unwrap_or(&self.node.trust_domain))
            .chain(aliases)
            .collect()
    }

    fn add_cluster(&mut self, cluster: Cluster) {
        self.output
            .clusters
            .insert(cluster.name.clone(), Arc::new(cluster));
    }

    fn add_endpoints(&mut self, endpoints: ClusterLoadAssignment) {
        self.output
            .endpoints
            .insert(endpoints.cluster_name.clone(), Arc::new(endpoints));
    }

    fn add_listener(&mut self, listener: Listener) {
        self.output
            .listeners
            .insert(listener.name.clone(), Arc::new(listener));
    }

    fn add_routes(&mut self, routes: RouteConfiguration) {
        self.output
            .routes
            .insert(routes.name.clone(), Arc::new(routes));
    }

    /// A warning that no single resource is to blame for.
    fn warn(&mut self, message: String) {
        self.warnings.push(ConfigError {
            file: None,
            object: None,
            field: String::new(),
            message,
        });
    }
}

/// As the node says, else where its own Pod runs.
fn locality(resources: &Resources, node: &Node) -> Locality {
    if let Some(locality) = &node.locality {
        return locality.clone();
    }
    resources
        .pods
        .iter()
        .find(|pod| pod.namespace() == node.namespace && pod.name() == node.name)
        .map(|pod| registry::locality(pod, resources))
        .unwrap_or_default()
}
