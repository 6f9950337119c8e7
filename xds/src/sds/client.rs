//! SDS clients: secrets from the servers that a proxy's configuration names.
//!
//! As Envoy does: one HTTP/2 connection for each server and one stream for each secret. A server may
//! appear late, vanish and return; meanwhile what it sent last stays in force. Unlike Envoy: a server
//! that says that we may not have a secret any more takes it away.

use std::{collections::HashMap, sync::Arc};

use ithildin_panics::essential;
use ithildin_proto::pb::envoy::{
    config::core::v3::{
        ApiConfigSource, ConfigSource, Node, api_config_source::ApiType,
        config_source::ConfigSourceSpecifier, grpc_service::TargetSpecifier,
    },
    extensions::transport_sockets::tls::v3::Secret,
};
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::watch};
use tonic::transport::Channel;

use super::{
    client_stream::{self, Protocol, Subscription},
    files::{FileName, FileSecrets},
    options::FileOptions,
};
use crate::{SecretMessage, SecretRef, SecretState, SecretSubscriber, ServerAddress, connect};

/// Finds a cluster of the configuration by name.
pub type ClusterLookup = Arc<dyn Fn(&str) -> Option<ServerAddress> + Send + Sync>;

/// Accepts a secret, or says why not: the server is told, and the secret before it stays in force.
pub type SecretCheck = Arc<dyn Fn(&Secret) -> Result<(), String> + Send + Sync>;

/// Secrets by gRPC, from files of resources, and those of the bootstrap's `static_resources`.
#[derive(Clone)]
pub struct SdsClients {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node,
    clusters: ClusterLookup,
    check: SecretCheck,
    runtime: Handle,
    files: FileSecrets,
    fixed: HashMap<String, Arc<SecretMessage>>,
    channels: Mutex<HashMap<ServerAddress, Channel>>,
    subscriptions: Mutex<HashMap<Key, watch::Sender<SecretState>>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    server: ServerAddress,
    protocol: Protocol,
    name: String,
}

impl SdsClients {
    /// Must be called inside a tokio runtime, on which the streams then run. `node` introduces us.
    pub fn new(
        node: Node,
        clusters: ClusterLookup,
        static_secrets: Vec<Secret>,
        check: SecretCheck,
    ) -> Self {
        let fixed = static_secrets.into_iter();
        let inner = Inner {
            node,
            clusters,
            check,
            runtime: Handle::current(),
            files: FileSecrets::new(FileOptions::default()),
            fixed: fixed
                .map(|secret| (secret.name.clone(), Arc::new(secret.into())))
                .collect(),
            channels: Mutex::default(),
            subscriptions: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl SecretSubscriber for SdsClients {
    fn subscribe(&self, secret: &SecretRef) -> watch::Receiver<SecretState> {
        if let Some(file) = secret.source.as_ref().and_then(file) {
            return self.inner.files.subscribe(&secret.name, file);
        }
        let followed = match &secret.source {
            None => Err(self.inner.fixed(&secret.name)),
            Some(source) => self.inner.key(&secret.name, source).map_err(|reason| {
                let text = format!("secret {:?}: {reason}", secret.name);
                SecretState::Unavailable(text.into())
            }),
        };
        match followed {
            Ok(key) => self.inner.follow(key),
            Err(state) => watch::channel(state).1,
        }
    }
}

impl Inner {
    fn fixed(&self, name: &str) -> SecretState {
        match self.fixed.get(name) {
            Some(secret) => SecretState::Ready(Arc::clone(secret)),
            None => SecretState::Unavailable(
                format!("static_resources.secrets has no secret {name:?}").into(),
            ),
        }
    }

    fn key(&self, name: &str, source: &ConfigSource) -> Result<Key, String> {
        let Some(ConfigSourceSpecifier::ApiConfigSource(api)) = &source.config_source_specifier
        else {
            return Err("sds_config must be an api_config_source or a path_config_source".into());
        };
        let protocol = match api.api_type() {
            ApiType::Grpc => Protocol::StateOfTheWorld,
            ApiType::DeltaGrpc => Protocol::Delta,
            other => return Err(format!("api_type {} is not supported", other.as_str_name())),
        };
        let cluster = cluster_name(api)?;
        let server = (self.clusters)(cluster)
            .ok_or_else(|| format!("there is no cluster {cluster:?} to get it from"))?;
        Ok(Key {
            server,
            protocol,
            name: name.to_owned(),
        })
    }

    fn follow(&self, key: Key) -> watch::Receiver<SecretState> {
        let mut subscriptions = self.subscriptions.lock();
        subscriptions.retain(|_, sender| sender.receiver_count() > 0);
        if let Some(sender) = subscriptions.get(&key) {
            return sender.subscribe();
        }
        let waiting = format!("secret {:?}: waiting for {}", key.name, key.server);
        let (sender, receiver) = watch::channel(SecretState::Pending(waiting.into()));
        let subscription = Subscription {
            name: key.name.clone(),
            server: key.server.clone(),
            protocol: key.protocol,
            channel: self.channel(&key.server),
            node: self.node.clone(),
            check: Arc::clone(&self.check),
            state: sender.clone(),
        };
        let stream = client_stream::run(subscription);
        self.runtime.spawn(essential("SDS client", stream));
        subscriptions.insert(key, sender);
        receiver
    }

    /// One for each server, whoever asks.
    fn channel(&self, server: &ServerAddress) -> Channel {
        let _inside = self.runtime.enter();
        let mut channels = self.channels.lock();
        let channel = channels.entry(server.clone());
        channel.or_insert_with(|| connect::channel(server)).clone()
    }
}

/// The file that `source` names, if it names one.
fn file(source: &ConfigSource) -> Option<FileName> {
    match source.config_source_specifier.as_ref()? {
        ConfigSourceSpecifier::PathConfigSource(source) => Some(FileName::Discovery {
            path: source.path.clone().into(),
            folder: source
                .watched_directory
                .as_ref()
                .map(|folder| folder.path.clone().into()),
        }),
        _ => None,
    }
}

fn cluster_name(api: &ApiConfigSource) -> Result<&str, String> {
    let service = api
        .grpc_services
        .first()
        .ok_or("api_config_source has no grpc_services")?;
    match &service.target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(envoy)) => Ok(&envoy.cluster_name),
        _ => Err("grpc_services must be envoy_grpc".into()),
    }
}
