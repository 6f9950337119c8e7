//! Traffic capture as its users see it: what flags mean, the rules that they make, and what becomes of real packets.

#![allow(
    clippy::unwrap_used,
    reason = "a test whose surroundings cannot be made has failed"
)]

mod common;
mod dns;
mod lifecycle;
mod net;
mod packets;
mod rules;
mod settings;
mod tools;
