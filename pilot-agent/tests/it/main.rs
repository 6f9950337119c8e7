//! The agent as a process: what its operator sees.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod authority;
mod compatibility;
mod control_plane;
mod credentials;
mod dns;
mod identity;
mod istiod;
mod lab;
mod proxy;
mod sds;
mod status;
mod status_hostile;
