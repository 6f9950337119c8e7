//! xDS: the one configuration language of the data plane.
//!
//! Subscription state machines without I/O, ADS and SDS clients and servers around them, and the
//! loading of bootstrap files.

pub mod kind;
pub mod resources;
pub mod secrets;
pub mod subscription;

pub use kind::ResourceKind;
pub use resources::ResourceSet;
pub use secrets::{SecretRef, SecretState, SecretSubscriber};
