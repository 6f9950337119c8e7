//! The cluster that this proxy belongs to (`cluster_manager.local_cluster_name`): zone-aware routing
//! compares its localities with an upstream's.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::cluster::EndpointSet;

#[derive(Debug)]
pub struct LocalCluster {
    pub name: Arc<str>,
    /// Where we run, in the form of [`Endpoint::locality`](super::cluster::Endpoint::locality).
    pub locality: Arc<str>,
    /// Empty until the cluster has some.
    pub endpoints: ArcSwap<EndpointSet>,
}
