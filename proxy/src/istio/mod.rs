//! What the proxies of an Istio mesh tell one another, and what they count.
//!
//! Istio adds filters of its own to Envoy's. What their configuration says is compiled like all
//! other; here is what they share: who a workload is ([`Workload`]), how it says so on the wire,
//! what istiod says of clusters, and the metrics of the mesh. Nothing here decides about access:
//! what a peer tells of itself is for statistics and logs only.

mod cluster;
mod node;
mod peer_exchange;
mod peer_metadata;
pub mod telemetry;
mod wire;
mod workload;

pub use cluster::{MeshCluster, Service};
pub use node::Node;
pub use peer_exchange::{Hello, PeerExchange};
pub use peer_metadata::{ID_HEADER, METADATA_HEADER, PeerCache, PeerMetadata, Tell};
pub use telemetry::Telemetry;
pub use workload::{Owner, Workload};
