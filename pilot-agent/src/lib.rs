//! A drop-in replacement for Istio's agent: identities from the SPIFFE Workload API, secrets over SDS,
//! configuration over xDS, and a data plane that runs on them.

pub mod authority;
pub mod cli;
pub mod demo;
mod http_client;
mod log;
mod proxy;
mod request;
mod sds;
mod svid;
mod wait;
