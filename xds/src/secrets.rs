//! How a data plane asks for secrets, whoever serves them.

use std::{fmt, sync::Arc};

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

/// The last word on one secret. A key is not printed with it.
#[derive(Clone, PartialEq)]
pub enum SecretState {
    /// Not answered yet; the text says what is waited for.
    Pending(Arc<str>),
    Ready(Arc<Secret>),
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

#[cfg(test)]
mod tests {
    use ithildin_proto::pb::envoy::{
        config::core::v3::{DataSource, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{TlsCertificate, secret},
    };

    use super::*;

    #[test]
    fn a_key_is_not_printed() {
        let key = DataSource {
            specifier: Some(Specifier::InlineString("the key".into())),
            ..Default::default()
        };
        let certificate = TlsCertificate {
            private_key: Some(key),
            ..Default::default()
        };
        let state = SecretState::Ready(Arc::new(Secret {
            name: "default".into(),
            r#type: Some(secret::Type::TlsCertificate(certificate)),
        }));
        assert_eq!(format!("{state:?}"), "Ready(\"default\")");
    }
}
