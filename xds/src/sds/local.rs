//! The same secrets inside one process, for the built-in proxy.

use std::{collections::HashMap, sync::Arc};

use ithildin_panics::essential;
use ithildin_proto::pb::envoy::config::core::v3::{
    ConfigSource, api_config_source::ApiType, config_source::ConfigSourceSpecifier,
    grpc_service::TargetSpecifier,
};
use ithildin_spiffe::IdentityState;
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{
    feeds::SecretFeeds,
    files::{FileName, FileSecrets},
    options::SdsOptions,
    resolve::{Answer, resolve},
    validator::Validator,
};
use crate::{SecretRef, SecretState, SecretSubscriber};

/// Answers what the SDS server would, without a stream in between. What is withdrawn becomes
/// [`SecretState::Unavailable`]: a subscriber in the same process needs no tombstone.
#[derive(Clone)]
pub struct LocalSecrets {
    inner: Arc<Inner>,
}

struct Inner {
    options: SdsOptions,
    identity: watch::Receiver<IdentityState>,
    files: FileSecrets,
    feeds: SecretFeeds,
    /// By name, whoever subscribed first.
    states: Mutex<HashMap<String, watch::Sender<SecretState>>>,
}

impl LocalSecrets {
    /// Must be called inside a tokio runtime, which then follows `identity` and files.
    pub fn new(
        identity: watch::Receiver<IdentityState>,
        options: SdsOptions,
        feeds: SecretFeeds,
    ) -> Self {
        let inner = Arc::new(Inner {
            identity: identity.clone(),
            files: FileSecrets::new(options.files.clone()),
            options,
            feeds,
            states: Mutex::default(),
        });
        let following = follow_identity(Arc::downgrade(&inner), identity);
        tokio::spawn(essential("secrets of the identity", following));
        Self { inner }
    }
}

impl SecretSubscriber for LocalSecrets {
    fn subscribe(&self, secret: &SecretRef) -> watch::Receiver<SecretState> {
        if let Some(source) = &secret.source
            && !is_grpc(source)
        {
            let name = &secret.name;
            let reason = format!("secret {name:?}: its sds_config does not name a gRPC cluster");
            return watch::channel(SecretState::Unavailable(reason.into())).1;
        }
        if let Some(fed) = self.inner.feeds.get(&secret.name) {
            return fed;
        }
        if let Some(Ok(file)) = FileName::parse(&secret.name) {
            return self.inner.files.subscribe(&secret.name, file);
        }
        let mut states = self.inner.states.lock();
        states.retain(|_, sender| sender.receiver_count() > 0);
        if let Some(sender) = states.get(&secret.name) {
            return sender.subscribe();
        }
        let state = self.inner.state(&secret.name, None);
        let (sender, receiver) = watch::channel(state);
        states.insert(secret.name.clone(), sender);
        receiver
    }
}

impl Inner {
    /// What `name` is now; `before` stays where nobody can tell.
    fn state(&self, name: &str, before: Option<&SecretState>) -> SecretState {
        if let Some(Err(reason)) = FileName::parse(name) {
            return SecretState::Unavailable(reason.into());
        }
        let identity = self.identity.borrow();
        match resolve(name, &identity, &self.options, Validator::Spiffe) {
            Answer::Secret(secret) => SecretState::Ready(secret),
            Answer::Pending(reason) => match before {
                Some(ready @ SecretState::Ready(_)) => ready.clone(),
                _ => SecretState::Pending(reason),
            },
            Answer::Gone { reason, .. } | Answer::Unknown(reason) => {
                SecretState::Unavailable(reason)
            }
        }
    }

    fn update_all(&self) {
        for (name, sender) in self.states.lock().iter() {
            let new = self.state(name, Some(&sender.borrow()));
            publish(name, sender, new);
        }
    }
}

async fn follow_identity(
    inner: std::sync::Weak<Inner>,
    mut identity: watch::Receiver<IdentityState>,
) {
    loop {
        let ended = identity.changed().await.is_err();
        let Some(inner) = inner.upgrade() else {
            return;
        };
        inner.update_all();
        if ended {
            return;
        }
    }
}

/// Publishes what differs, and says so.
fn publish(name: &str, sender: &watch::Sender<SecretState>, new: SecretState) {
    if *sender.borrow() == new {
        return;
    }
    match &new {
        SecretState::Ready(_) => debug!(name, "a secret has changed"),
        SecretState::Pending(reason) => debug!(name, %reason, "a secret is waited for"),
        SecretState::Unavailable(reason) => warn!(name, %reason, "a secret is withdrawn"),
    }
    sender.send_replace(new);
}

/// A gRPC cluster of the bootstrap is the agent itself; other kinds of source are somebody else's.
fn is_grpc(source: &ConfigSource) -> bool {
    let Some(ConfigSourceSpecifier::ApiConfigSource(api)) = &source.config_source_specifier else {
        return false;
    };
    matches!(api.api_type(), ApiType::Grpc | ApiType::DeltaGrpc)
        && api.grpc_services.iter().any(|service| {
            matches!(
                service.target_specifier,
                Some(TargetSpecifier::EnvoyGrpc(_))
            )
        })
}
