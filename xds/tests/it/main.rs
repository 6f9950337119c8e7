//! The crate over real sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ads;
mod clients;
mod common;
mod envoy;
mod files;
mod hostile;
mod sds;
mod serve;
mod trust;
