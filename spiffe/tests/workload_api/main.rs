//! The Workload API over real sockets: our client and our server with each other, with a server that
//! misbehaves, with the published `spiffe` crate, and with a real SPIRE.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails by panic")]

mod misbehaving;
mod ours;
mod published;
mod spire;
mod support;
