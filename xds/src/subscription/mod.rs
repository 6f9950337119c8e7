//! The xDS subscription protocol without I/O: four state machines, client and server, for the
//! state-of-the-world and for the incremental ("delta") variant.
//!
//! A machine serves one resource type on one stream. The server machines take requests and are
//! asked for the response that is due, after a request as after an update: they compare what the
//! peer has with what it should have. The client machines produce the requests. Names, versions and
//! nonces are all that they look at; the bodies pass through.
//!
//! Invariants:
//! - A NACK is never answered by what was refused; only a new version of it is sent.
//! - A resource is sent once per version, unless the peer asks for it anew.
//! - A request with the nonce of an older response says nothing about the newest one.
//!
//! Source: the xDS protocol page of Envoy's documentation.

mod client;
mod client_delta;
mod client_sotw;
mod interest;
mod server;
mod server_delta;
mod server_sotw;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use ithildin_proto::pb::google::protobuf::Any;
use zeroize::Zeroize;

pub use client::{Client, Incoming, Receipt, Update, Verdict};
pub use client_delta::DeltaClient;
pub use client_sotw::SotwClient;
pub use interest::Interest;
pub use server::{Claims, Server};
pub use server_delta::DeltaServer;
pub use server_sotw::SotwServer;

/// A resource's version: opaque, equal exactly when the content is.
pub type Version = Arc<str>;

/// One resource as a server sends it. It may be a secret: it is not printed, and zeroised on drop.
#[derive(Clone, PartialEq)]
pub struct Resource {
    pub version: Version,
    pub body: Any,
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource")
            .field("version", &self.version)
            .field("type_url", &self.body.type_url)
            .finish_non_exhaustive()
    }
}

impl Drop for Resource {
    fn drop(&mut self) {
        self.body.value.zeroize();
    }
}

/// What a server has, by name.
pub type Catalog = BTreeMap<String, Arc<Resource>>;

/// What a request said about the responses before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The first request of its type on this stream.
    First,
    /// The newest response is accepted.
    Ack,
    /// The newest response is refused, with the peer's reason. What was in force before stays so.
    Nack(String),
    /// Changes the subscription and judges no response.
    Spontaneous,
    /// Answers an older response than the newest; it is ignored.
    Stale,
}

/// The version of a set of resources: its only member's own, or a hash over names and versions, so
/// that it changes exactly when the set does and is the same on every stream.
fn set_version<'a>(members: impl Iterator<Item = (&'a str, &'a Version)> + Clone) -> String {
    let mut rest = members.clone();
    if let (Some((_, version)), None) = (rest.next(), rest.next()) {
        return version.to_string();
    }
    let mut hasher = DefaultHasher::new();
    for (name, version) in members {
        name.hash(&mut hasher);
        version.hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}
