//! The agent: identity, SDS, configuration and supervision of a data plane.

pub mod authority;
pub mod demo;
