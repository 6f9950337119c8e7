//! The aggregated discovery service: the whole configuration of a proxy on one stream.

mod server;
mod session;
mod status;
#[cfg(test)]
mod tests;
mod world;

pub use server::AdsServer;
pub use status::{AdsStatus, KindStatus};

/// The largest message either way. tonic's 4 MiB are less than the clusters of a large mesh.
const MAX_MESSAGE: usize = 256 << 20;
