//! The crate over real sockets.

mod clients;
mod common;
mod sds;
