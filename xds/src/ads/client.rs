//! An ADS client: keeps a set of resources equal to what a server sends, across lost streams.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ithildin_panics::essential;
use ithildin_proto::pb::envoy::config::core::v3::Node;
use tokio::sync::watch;
use tracing::warn;

use super::{
    ads_secrets::AdsSecrets,
    client_store::{ResourceCheck, Store},
    follow::{Errand, Follower, StreamStatus, Upstream, Want, follow},
};
use crate::{
    ResourceKind, ResourceSet,
    subscription::{Update, Verdict},
};

/// The variant of the protocol (`api_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdsProtocol {
    /// `GRPC`.
    StateOfTheWorld,
    /// `DELTA_GRPC`.
    Delta,
}

/// What an ADS client needs to know.
#[derive(Clone)]
pub struct AdsClientOptions {
    pub server: Upstream,
    /// Introduces us.
    pub node: Node,
    pub protocol: AdsProtocol,
    /// Load assignments to ask for besides those of the server's clusters: of clusters that it does not send.
    pub endpoints: Vec<String>,
    pub check: ResourceCheck,
}

/// What became of what the server sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdsClientStatus {
    /// Of what there was an answer that was not refused in all it had.
    pub accepted: BTreeSet<ResourceKind>,
    /// What we refused of the newest response of a type, with the reason.
    pub refused: BTreeMap<ResourceKind, String>,
    /// Responses so far of which something was refused.
    pub refusals: u64,
}

/// Follows a server for as long as it, or a receiver of its resources, lives.
#[derive(Debug)]
pub struct AdsClient {
    resources: watch::Receiver<Arc<ResourceSet>>,
    status: watch::Receiver<AdsClientStatus>,
    stream: watch::Receiver<StreamStatus>,
    secrets: AdsSecrets,
}

impl AdsClient {
    /// Must be called inside a tokio runtime.
    pub fn start(options: AdsClientOptions) -> Self {
        Self::start_with(options, |follower| follower)
    }

    /// As [`AdsClient::start`], with more on the same stream: `wrap` adds it.
    pub fn start_with<F: Follower>(
        options: AdsClientOptions,
        wrap: impl FnOnce(ResourceFollower) -> F,
    ) -> Self {
        let (sender, resources) = watch::channel(Arc::default());
        let (status_sender, status) = watch::channel(AdsClientStatus::default());
        let (stream_sender, stream) = watch::channel(StreamStatus::default());
        let secrets = AdsSecrets::new(&options.server.name);
        let follower = ResourceFollower {
            store: Store::new(options.endpoints, options.check),
            node: options.node,
            secrets: secrets.clone(),
            resources: sender.clone(),
            status: status_sender,
            renew: BTreeSet::new(),
        };
        let follower = wrap(follower);
        let following = async move {
            tokio::select! {
                () = follow(options.server, options.protocol, follower, stream_sender) => {}
                () = sender.closed() => {}
            }
        };
        tokio::spawn(essential("ADS client", following));
        Self {
            resources,
            status,
            stream,
            secrets,
        }
    }

    /// All accepted resources. Empty until the server has answered.
    pub fn resources(&self) -> watch::Receiver<Arc<ResourceSet>> {
        self.resources.clone()
    }

    pub fn status(&self) -> watch::Receiver<AdsClientStatus> {
        self.status.clone()
    }

    pub fn stream(&self) -> watch::Receiver<StreamStatus> {
        self.stream.clone()
    }

    /// Secrets that come over the same stream.
    pub fn secrets(&self) -> AdsSecrets {
        self.secrets.clone()
    }
}

/// The types in the order in which they are asked for.
const ORDER: [ResourceKind; 5] = [
    ResourceKind::Cluster,
    ResourceKind::Listener,
    ResourceKind::Endpoints,
    ResourceKind::Route,
    ResourceKind::Secret,
];

/// Fills a set of resources.
pub struct ResourceFollower {
    store: Store,
    node: Node,
    secrets: AdsSecrets,
    resources: watch::Sender<Arc<ResourceSet>>,
    status: watch::Sender<AdsClientStatus>,
    /// Endpoints of clusters that have changed: the server may have more to say of them.
    renew: BTreeSet<String>,
}

impl Follower for ResourceFollower {
    fn node(&self) -> Option<Node> {
        Some(self.node.clone())
    }

    fn wanted(&mut self) -> Vec<Want> {
        let interest = |kind| match kind {
            ResourceKind::Secret => self.secrets.wanted(),
            kind => self.store.wanted(kind),
        };
        ORDER
            .map(|kind| Want::Resources(kind.into(), interest(kind)))
            .into()
    }

    fn take(&mut self, update: Update) -> Option<Verdict> {
        let kind = update.url.kind()?;
        let verdict = match kind {
            ResourceKind::Secret => self.secrets.take(&update),
            kind => {
                let taken = self.store.take(kind, &update);
                self.renew.extend(taken.renew);
                taken.verdict
            }
        };
        self.store.note(kind, &update, &verdict);
        self.publish(kind, &update);
        self.report(kind, verdict.reason());
        Some(verdict)
    }

    fn errands(&mut self) -> Vec<Errand> {
        let names = std::mem::take(&mut self.renew);
        match names.is_empty() {
            true => Vec::new(),
            false => vec![Errand::Renew(ResourceKind::Endpoints.into(), names)],
        }
    }

    async fn changed(&mut self) {
        self.secrets.changed().await;
    }
}

impl ResourceFollower {
    fn publish(&mut self, kind: ResourceKind, update: &Update) {
        self.store.drop_unwanted(kind, update);
        self.resources
            .send_replace(Arc::new(self.store.set().clone()));
    }

    fn report(&self, kind: ResourceKind, refusal: Option<String>) {
        if let Some(reason) = &refusal {
            warn!(
                kind = kind.short(),
                reason, "resources are refused; what was in force stays"
            );
        }
        self.status.send_modify(|status| {
            if refusal.is_none() || self.store.has(kind) {
                status.accepted.insert(kind);
            }
            status.refusals += u64::from(refusal.is_some());
            match refusal {
                Some(reason) => status.refused.insert(kind, reason),
                None => status.refused.remove(&kind),
            };
        });
    }
}
