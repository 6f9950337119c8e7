//! The agent as a process: what its operator sees.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod authority;
mod dns;
mod identity;
mod lab;
mod proxy;
mod sds;
mod status;
mod status_hostile;
