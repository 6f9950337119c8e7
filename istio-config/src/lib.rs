//! Istio and Kubernetes resources, read from files, become xDS for one proxy.

mod error;
mod node;

pub use error::{ConfigError, ObjectId};
pub use node::{DataPlane, Interception, Locality, Node, NodeKind, NodePorts};
