//! The built-in proxy: listeners, routes, clusters and secrets in Envoy's words, executed by
//! single-threaded workers.

pub mod access_log;
pub mod config;
pub mod stats;
