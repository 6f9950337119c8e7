//! xDS: the one configuration language of the data plane.
//!
//! Subscription state machines without I/O, ADS and SDS clients and servers around them, and the
//! loading of bootstrap files.

mod accept;
pub mod ads;
pub mod bootstrap;
mod connect;
pub mod kind;
mod name_map;
mod provenance;
pub mod resources;
pub mod sds;
pub mod secret_message;
mod secrets;
pub mod serve;
mod sever;
pub mod subscription;
mod type_url;
pub mod watch_paths;

pub use ads::{AdsClient, AdsServer};
pub use connect::ServerAddress;
pub use kind::ResourceKind;
pub use name_map::NameMap;
pub use provenance::{KindProvenance, Provenance, RefusedResource};
pub use resources::ResourceSet;
pub use sds::{FileIdentity, LocalSecrets, SdsClients, SdsOptions, SdsServer, SecretFeeds};
pub use secret_message::SecretMessage;
pub use secrets::{SecretRef, SecretState, SecretSubscriber};
pub use type_url::TypeUrl;
