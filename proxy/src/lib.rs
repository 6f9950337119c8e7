//! The built-in proxy: listeners, routes, clusters and secrets in Envoy's words, executed by
//! single-threaded workers.

pub mod access_log;
pub mod admin;
pub mod causes;
pub mod config;
pub mod control;
mod ext_authz;
pub mod hashing;
pub mod http;
pub mod io;
pub mod istio;
pub mod log_levels;
pub mod metadata;
pub mod outlier;
pub mod proxy_protocol;
pub mod rbac;
pub mod runtime;
pub mod scripts;
pub mod server;
pub mod stats;
pub mod tcp;
#[cfg(test)]
mod testing;
pub mod tls_session;
pub mod upstream;
pub mod worker;

pub use server::{Proxy, ProxyOptions, Readiness, StartError};
