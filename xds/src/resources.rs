//! A set of xDS resources: what every source produces and every data plane consumes.

use std::sync::Arc;

use ithildin_proto::pb::envoy::config::{
    cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
    route::v3::RouteConfiguration,
};

use crate::{NameMap, Provenance};

/// Everything that a data plane serves, by resource name. Cheap to clone; an unchanged resource
/// keeps its `Arc`, so that work per update follows what changed.
#[derive(Clone, Debug, Default)]
pub struct ResourceSet {
    pub listeners: NameMap<Listener>,
    pub clusters: NameMap<Cluster>,
    pub routes: NameMap<RouteConfiguration>,
    /// By cluster name, or by `eds_cluster_config.service_name`.
    pub endpoints: NameMap<ClusterLoadAssignment>,
    /// What a control plane said of them, where one sends them.
    pub provenance: Option<Arc<Provenance>>,
}

impl ResourceSet {
    /// Whether there is no resource at all.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
            && self.clusters.is_empty()
            && self.routes.is_empty()
            && self.endpoints.is_empty()
    }
}
