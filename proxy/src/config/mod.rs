//! The compiled configuration: what the data path reads, immutable once published.
//!
//! Everything that can be decided per target is decided here, when xDS resources are compiled, and
//! not per request. Compiling happens on the control runtime; publishing is one atomic swap.

mod chains;
pub mod cluster;
pub mod custom_tag;
pub mod ext_authz;
pub mod filters;
pub mod forward;
pub mod hash_policy;
mod hash_tables;
pub mod http;
pub mod jwt;
pub mod jwt_keys;
pub mod limit_rules;
pub mod limit_service;
pub mod listener;
mod listener_filters;
mod listeners;
mod local_cluster;
pub mod lua;
pub mod matchers;
pub mod rate_limit;
pub mod route;
pub mod trace;

use std::sync::Arc;

pub use cluster::Cluster;
pub use hash_tables::{HashTables, Placed};
pub use http::HttpManager;
pub use listener::{FilterChain, FilterChains, Listener};
pub use listeners::Listeners;
pub use local_cluster::LocalCluster;
pub use route::RouteTable;

/// Hash map of the data path: fast, and keyed by strings that a control plane sent.
pub type Map<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// What all workers serve from. A request takes the `Arc` once and keeps it to its end.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub version: u64,
    pub listeners: Listeners,
    /// Warm clusters only: a cluster enters when its endpoints and secrets are there.
    pub clusters: Map<Arc<str>, Arc<Cluster>>,
}
