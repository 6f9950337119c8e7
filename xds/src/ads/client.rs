//! An ADS client: keeps a set of resources equal to what a server sends, across lost streams.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ithildin_proto::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};
use tracing::{info, warn};

use super::{
    MAX_MESSAGE,
    client_store::{ResourceCheck, Store},
};
use crate::{
    ResourceKind, ResourceSet, ServerAddress,
    backoff::Backoff,
    connect,
    subscription::{DeltaClient, Interest, SotwClient},
};

/// The variant of the protocol (`api_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdsProtocol {
    /// `GRPC`.
    StateOfTheWorld,
    /// `DELTA_GRPC`.
    Delta,
}

/// Requests that the server has not read yet; a server that answers one by one reads each soon.
const REQUESTS: usize = 256;

/// What an ADS client needs to know.
#[derive(Clone)]
pub struct AdsClientOptions {
    pub server: ServerAddress,
    /// Introduces us.
    pub node: Node,
    pub protocol: AdsProtocol,
    pub check: ResourceCheck,
}

/// How it stands with the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdsClientStatus {
    pub connected: bool,
    /// Why the last stream ended, or could not begin.
    pub error: Option<Arc<str>>,
    /// What has been answered at least once.
    pub received: BTreeSet<ResourceKind>,
    /// What we refused of the newest response of a type, with the reason.
    pub refused: BTreeMap<ResourceKind, String>,
}

/// Follows a server for as long as it, or a receiver of its resources, lives.
#[derive(Debug)]
pub struct AdsClient {
    resources: watch::Receiver<Arc<ResourceSet>>,
    status: watch::Receiver<AdsClientStatus>,
}

impl AdsClient {
    /// Must be called inside a tokio runtime.
    pub fn start(options: AdsClientOptions) -> Self {
        let (sender, resources) = watch::channel(Arc::default());
        let (status_sender, status) = watch::channel(AdsClientStatus::default());
        let task = Task {
            channel: connect::channel(&options.server),
            store: Store::new(options.check),
            server: options.server,
            node: options.node,
            resources: sender.clone(),
            status: status_sender,
        };
        tokio::spawn(async move {
            tokio::select! {
                () = task.run(options.protocol) => {}
                () = sender.closed() => {}
            }
        });
        Self { resources, status }
    }

    /// All accepted resources. Empty until the server has answered.
    pub fn resources(&self) -> watch::Receiver<Arc<ResourceSet>> {
        self.resources.clone()
    }

    pub fn status(&self) -> watch::Receiver<AdsClientStatus> {
        self.status.clone()
    }
}

struct Task {
    channel: Channel,
    store: Store,
    server: ServerAddress,
    node: Node,
    resources: watch::Sender<Arc<ResourceSet>>,
    status: watch::Sender<AdsClientStatus>,
}

/// The types whose names depend on resources of others.
const REFERRED: [ResourceKind; 2] = [ResourceKind::Endpoints, ResourceKind::Route];

impl Task {
    async fn run(mut self, protocol: AdsProtocol) {
        let mut backoff = Backoff::new();
        let mut sotw = machines(SotwClient::new);
        let mut delta = machines(DeltaClient::new);
        loop {
            let end = match protocol {
                AdsProtocol::StateOfTheWorld => self.sotw(&mut sotw, &mut backoff).await,
                AdsProtocol::Delta => self.delta(&mut delta, &mut backoff).await,
            };
            self.ended(
                &end.err()
                    .unwrap_or_else(|| Status::unavailable("the stream ended")),
            );
            sleep(backoff.pause()).await;
        }
    }

    async fn sotw(
        &mut self,
        machines: &mut BTreeMap<ResourceKind, SotwClient>,
        backoff: &mut Backoff,
    ) -> Result<(), Status> {
        let (requests, receiver) = mpsc::channel::<DiscoveryRequest>(REQUESTS);
        let mut node = Some(self.node.clone());
        for request in machines.values_mut().filter_map(SotwClient::connect) {
            let node = node.take();
            enqueue(&requests, DiscoveryRequest { node, ..request })?;
        }
        let mut client = self.client();
        let stream = client.stream_aggregated_resources(ReceiverStream::new(receiver));
        let mut responses = stream.await?.into_inner();
        self.connected();
        while let Some(response) = responses.message().await? {
            backoff.reset();
            for request in self.take_sotw(machines, &response) {
                enqueue(&requests, request)?;
            }
        }
        Ok(())
    }

    async fn delta(
        &mut self,
        machines: &mut BTreeMap<ResourceKind, DeltaClient>,
        backoff: &mut Backoff,
    ) -> Result<(), Status> {
        let (requests, receiver) = mpsc::channel::<DeltaDiscoveryRequest>(REQUESTS);
        let mut node = Some(self.node.clone());
        for request in machines.values_mut().filter_map(DeltaClient::connect) {
            let node = node.take();
            enqueue(&requests, DeltaDiscoveryRequest { node, ..request })?;
        }
        let mut client = self.client();
        let stream = client.delta_aggregated_resources(ReceiverStream::new(receiver));
        let mut responses = stream.await?.into_inner();
        self.connected();
        while let Some(response) = responses.message().await? {
            backoff.reset();
            for request in self.take_delta(machines, &response) {
                enqueue(&requests, request)?;
            }
        }
        Ok(())
    }

    /// The answer, and what the response makes us ask for.
    fn take_sotw(
        &mut self,
        machines: &mut BTreeMap<ResourceKind, SotwClient>,
        response: &DiscoveryResponse,
    ) -> Vec<DiscoveryRequest> {
        let Some((kind, machine)) = ours(machines, &response.type_url) else {
            return Vec::new();
        };
        let verdict = self.store.replace(kind, &response.resources);
        self.taken(kind, verdict.as_ref().err().cloned());
        let mut requests = vec![machine.answer(response, verdict)];
        requests.extend(machines.iter_mut().filter_map(|(kind, machine)| {
            let referred = REFERRED.contains(kind);
            referred.then(|| machine.subscribe(self.store.wanted(*kind)))?
        }));
        requests
    }

    fn take_delta(
        &mut self,
        machines: &mut BTreeMap<ResourceKind, DeltaClient>,
        response: &DeltaDiscoveryResponse,
    ) -> Vec<DeltaDiscoveryRequest> {
        let Some((kind, machine)) = ours(machines, &response.type_url) else {
            return Vec::new();
        };
        let verdict = self.store.change(kind, response);
        self.taken(kind, verdict.reason());
        let mut requests = vec![machine.answer(response, &verdict)];
        requests.extend(machines.iter_mut().filter_map(|(kind, machine)| {
            let referred = REFERRED.contains(kind);
            referred.then(|| machine.subscribe(self.store.wanted(*kind)))?
        }));
        requests
    }

    /// Publishes what a response of `kind` has left in force.
    fn taken(&mut self, kind: ResourceKind, refusal: Option<String>) {
        self.store.drop_unwanted();
        self.resources
            .send_replace(Arc::new(self.store.set().clone()));
        if let Some(reason) = &refusal {
            warn!(
                kind = kind.short(),
                reason, "resources are refused; what was in force stays"
            );
        }
        self.status.send_modify(|status| {
            status.received.insert(kind);
            match refusal {
                Some(reason) => status.refused.insert(kind, reason),
                None => status.refused.remove(&kind),
            };
        });
    }

    fn client(&self) -> AggregatedDiscoveryServiceClient<Channel> {
        AggregatedDiscoveryServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
    }

    fn connected(&self) {
        info!(server = %self.server, "connected to the xDS server");
        self.status.send_modify(|status| {
            status.connected = true;
            status.error = None;
        });
    }

    fn ended(&self, end: &Status) {
        let reason: Arc<str> = format!("{}: {}", self.server, connect::reason(end)).into();
        let changed = self.status.send_if_modified(|status| {
            let changed = status.connected || status.error.as_ref() != Some(&reason);
            status.connected = false;
            status.error = Some(Arc::clone(&reason));
            changed
        });
        if changed {
            warn!(%reason, "no xDS stream; the last configuration stays in force");
        }
    }
}

/// Waiting for room could be for ever: the server may be waiting for us to read.
fn enqueue<T>(requests: &mpsc::Sender<T>, request: T) -> Result<(), Status> {
    let full = |_| Status::resource_exhausted("the server sends and does not read our requests");
    requests.try_send(request).map_err(full)
}

fn machines<M>(new: impl Fn(ResourceKind, Interest) -> M) -> BTreeMap<ResourceKind, M> {
    let interest = |kind: ResourceKind| match kind.full_state() {
        true => Interest::everything(),
        false => Interest::default(),
    };
    let machine = |kind| (kind, new(kind, interest(kind)));
    ResourceKind::AGGREGATED.map(machine).into()
}

fn ours<'a, M>(
    machines: &'a mut BTreeMap<ResourceKind, M>,
    url: &str,
) -> Option<(ResourceKind, &'a mut M)> {
    let kind = ResourceKind::from_url(url);
    let ours = kind.and_then(|kind| Some((kind, machines.get_mut(&kind)?)));
    if ours.is_none() {
        warn!(
            url,
            "a response of a type that was not asked for is ignored"
        );
    }
    ours
}
