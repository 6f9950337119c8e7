//! The crate over real sockets.

mod clients;
mod common;
mod envoy;
mod sds;
