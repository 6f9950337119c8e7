//! How a data plane asks for secrets, whoever serves them.

use std::{fmt, sync::Arc};

use ithildin_proto::pb::envoy::config::core::v3::{
    ConfigSource, config_source::ConfigSourceSpecifier, grpc_service::TargetSpecifier,
};
use tokio::sync::watch;

use crate::SecretMessage;

/// A secret by name and where to get it (`SdsSecretConfig`).
#[derive(Clone, Debug, PartialEq)]
pub struct SecretRef {
    pub name: String,
    /// `None` for a secret of the bootstrap's `static_resources.secrets`.
    pub source: Option<ConfigSource>,
}

impl SecretRef {
    /// Whether the aggregated stream carries it (`sds_config.ads`).
    pub fn is_from_ads(&self) -> bool {
        let source = self.source.as_ref();
        let specifier = source.and_then(|source| source.config_source_specifier.as_ref());
        matches!(specifier, Some(ConfigSourceSpecifier::Ads(_)))
    }

    /// The cluster of the SDS server, if one is named.
    pub fn grpc_cluster(&self) -> Option<&str> {
        let specifier = self.source.as_ref()?.config_source_specifier.as_ref()?;
        let ConfigSourceSpecifier::ApiConfigSource(api) = specifier else {
            return None;
        };
        match api.grpc_services.first()?.target_specifier.as_ref()? {
            TargetSpecifier::EnvoyGrpc(grpc) => Some(&grpc.cluster_name),
            TargetSpecifier::GoogleGrpc(_) => None,
        }
    }
}

/// The last word on one secret. A key is not printed with it.
#[derive(Clone, PartialEq)]
pub enum SecretState {
    /// Not answered yet; the text says what is waited for.
    Pending(Arc<str>),
    Ready(Arc<SecretMessage>),
    /// Refused or withdrawn: whoever uses it must fail closed. The text says why.
    Unavailable(Arc<str>),
}

impl fmt::Debug for SecretState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending(reason) => f.debug_tuple("Pending").field(reason).finish(),
            Self::Ready(secret) => f.debug_tuple("Ready").field(&secret.name).finish(),
            Self::Unavailable(reason) => f.debug_tuple("Unavailable").field(reason).finish(),
        }
    }
}

/// Serves secrets to the built-in proxy: from SDS servers, or in process from the agent.
pub trait SecretSubscriber: Send + Sync + 'static {
    /// The current state and each later one. Subscriptions of one name share one stream.
    fn subscribe(&self, secret: &SecretRef) -> watch::Receiver<SecretState>;
}
