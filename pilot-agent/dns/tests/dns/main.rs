//! The DNS proxy over real sockets, with name servers of ours behind it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sockets;
mod support;
mod upstream;
