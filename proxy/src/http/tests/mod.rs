//! The connection manager in process, between peers that see every byte.

mod authorization;
mod basics;
mod collectors;
mod failures;
mod headers;
mod http2;
mod limits;
mod mesh;
mod mirrors;
mod retries;
mod smuggling;
mod support;
mod upgrades;
