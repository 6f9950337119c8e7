//! The aggregated discovery service: the whole configuration of a proxy on one stream.

mod ads_secrets;
mod call;
mod client;
mod client_store;
mod follow;
mod listeners;
mod server;
mod session;
mod status;
#[cfg(test)]
mod tests;
mod world;

pub use ads_secrets::AdsSecrets;
pub use client::{AdsClient, AdsClientOptions, AdsClientStatus, AdsProtocol, ResourceFollower};
pub use client_store::{Candidate, ResourceCheck};
pub use follow::{
    Connect, Errand, Follower, Prepare, StreamCounts, StreamStatus, Upstream, Want, follow,
};
pub use server::AdsServer;
pub use status::{AdsStatus, KindStatus, Recorder, StreamGuard};

/// The longest response, in bytes. tonic's 4 MiB are less than the clusters of a large mesh.
pub const MAX_MESSAGE: usize = 256 << 20;

/// The longest request of a proxy, in bytes: the names of some 100,000 resources, with their versions.
pub const MAX_REQUEST: usize = 16 << 20;
