//! Istio and Kubernetes resources, read from files, become xDS for one proxy.
//!
//! [`load`] reads a folder, [`build`] makes the configuration of a [`Node`] of it, and [`Watcher`]
//! does both whenever a file changes. Nothing that a resource says is passed over: a field that we
//! cannot honour is an error with its path.

mod build;
mod error;
mod host;
mod load;
mod model;
mod mtls;
mod names;
mod node;
mod protocol;
mod read;
mod registry;
mod resources;
mod rules;
#[cfg(test)]
mod testing;
mod validate;
mod watch;

pub use build::build;
pub use error::{ConfigError, ObjectId};
pub use load::load;
pub use node::{
    DEFAULT_CLUSTER_DOMAIN, DEFAULT_CLUSTER_ID, DEFAULT_SDS_CLUSTER, DataPlane, Interception,
    Locality, Node, NodeKind, NodePorts,
};
pub use resources::{Built, Resources};
pub use watch::Watcher;
