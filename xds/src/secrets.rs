//! How a data plane asks for secrets, whoever serves them.

use std::sync::Arc;

use ithildin_proto::pb::envoy::{
    config::core::v3::ConfigSource, extensions::transport_sockets::tls::v3::Secret,
};
use tokio::sync::watch;

/// A secret by name and where to get it (`SdsSecretConfig`).
#[derive(Clone, Debug, PartialEq)]
pub struct SecretRef {
    pub name: String,
    /// `None` for a secret of the bootstrap's `static_resources.secrets`.
    pub source: Option<ConfigSource>,
}

/// The last word on one secret.
#[derive(Clone, Debug, PartialEq)]
pub enum SecretState {
    /// Not answered yet; the text says what is waited for.
    Pending(Arc<str>),
    Ready(Arc<Secret>),
    /// Refused or withdrawn: whoever uses it must fail closed. The text says why.
    Unavailable(Arc<str>),
}

/// Serves secrets to the built-in proxy: from SDS servers, or in process from the agent.
pub trait SecretSubscriber: Send + Sync + 'static {
    /// The current state and each later one. Subscriptions of one name share one stream.
    fn subscribe(&self, secret: &SecretRef) -> watch::Receiver<SecretState>;
}
