//! What the proxies of an Istio mesh tell one another, and what they count.
//!
//! Istio adds filters of its own to Envoy's. What their configuration says is compiled like all
//! other; here is what they share: who a workload is ([`Workload`]), how it says so on the wire,
//! and what istiod says of clusters. Nothing here decides about access: what a peer tells of itself
//! is for statistics and logs only.

mod cluster;
mod node;
mod wire;
mod workload;

pub use cluster::{MeshCluster, Service};
pub use node::Node;
pub use workload::{Owner, Workload};
