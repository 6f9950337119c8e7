//! The SPIFFE Workload API, client and server (SPIFFE_Workload_API.md, SPIFFE_Workload_Endpoint.md).

pub mod client;
pub mod endpoint;
pub mod server;

pub use client::{BundleSource, BundleState, SourceOptions, WorkloadApiClient, WorkloadApiSource};
pub use endpoint::{ENDPOINT_ENV, EndpointError, WorkloadEndpoint};
pub use server::WorkloadApiServer;

/// Metadata that each call must carry, so that a server cannot be reached by forged web requests.
pub const SECURITY_HEADER: &str = "workload.spiffe.io";
/// The value of [`SECURITY_HEADER`].
pub const SECURITY_HEADER_VALUE: &str = "true";

/// The largest message that is read, in bytes. A bundle of hundreds of expired roots of 2 KB, for a
/// few federated domains, fits.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
