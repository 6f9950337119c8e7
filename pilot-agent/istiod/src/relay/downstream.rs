//! The relay as Envoy's server.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    pin::Pin,
    sync::Arc,
};

use ithildin_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::{
        AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
    },
};
use ithildin_xds::{
    TypeUrl,
    ads::MAX_REQUEST,
    subscription::{DeltaServer, Heard, Server, SotwServer},
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use super::{
    Shared,
    state::{Ticket, rank},
};

/// Responses that Envoy has not answered. It answers each, so there are a few at most.
const MAX_UNANSWERED: usize = 256;
/// Foreign types that are logged, each once.
const MAX_FOREIGN: usize = 16;
const ENVOY_TYPES: &str = "type.googleapis.com/envoy.";
const WORKLOAD: &str = "type.googleapis.com/istio.workload.Workload";

/// The aggregated discovery service for one Envoy at a time.
#[derive(Clone, Debug)]
pub struct RelayServer {
    shared: Arc<Shared>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl RelayServer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The service to add to a gRPC server.
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    fn open<M: Server>(&self, requests: Streaming<M::Request>) -> Responses<M::Response> {
        // One slot: a response is made when the one before is on its way.
        let (sender, responses) = mpsc::channel(1);
        let envoy = EnvoyStream::<M>::new(Arc::clone(&self.shared));
        tokio::spawn(envoy.run(requests, sender));
        Box::pin(ReceiverStream::new(responses))
    }
}

#[async_trait::async_trait]
impl AggregatedDiscoveryService for RelayServer {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.open::<SotwServer>(request.into_inner())))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(Response::new(
            self.open::<DeltaServer>(request.into_inner()),
        ))
    }
}

/// One stream of either protocol, as long as it is the newest.
pub(super) struct EnvoyStream<M> {
    shared: Arc<Shared>,
    number: u64,
    machines: BTreeMap<TypeUrl, M>,
    unanswered: VecDeque<Sent>,
    /// Envoy's last word on each type, if it was a refusal.
    refusals: BTreeMap<TypeUrl, String>,
    foreign: BTreeSet<String>,
}

/// A response under way to Envoy.
struct Sent {
    url: TypeUrl,
    nonce: String,
    /// The response of istiod that Envoy's answer answers.
    ticket: Option<Ticket>,
}

impl<M: Server> EnvoyStream<M> {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let mut number = 0;
        shared.registered.send_modify(|newest| {
            *newest += 1;
            number = *newest;
        });
        shared.state.lock().register(Instant::now());
        Self {
            shared,
            number,
            machines: BTreeMap::new(),
            unanswered: VecDeque::new(),
            refusals: BTreeMap::new(),
            foreign: BTreeSet::new(),
        }
    }

    async fn run(
        mut self,
        mut requests: Streaming<M::Request>,
        responses: mpsc::Sender<Result<M::Response, Status>>,
    ) {
        let _guard = self.shared.recorder.stream();
        let mut changes = self.shared.down.subscribe();
        let mut due = true;
        loop {
            tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => if let Err(status) = self.take(&request) {
                        let _ = responses.try_send(Err(status));
                        return;
                    },
                    Ok(None) => return,
                    Err(status) => {
                        debug!(%status, "Envoy's stream is lost");
                        // If it is still there, it is told what was wrong with its request.
                        let _ = responses.try_send(Err(status));
                        return;
                    }
                },
                _ = changes.changed() => {}
                permit = responses.reserve(), if due => {
                    let Ok(permit) = permit else {
                        return;
                    };
                    due = match self.next() {
                        Some(response) => {
                            permit.send(Ok(response));
                            true
                        }
                        None => false,
                    };
                    continue;
                }
                () = replaced(self.shared.registered.subscribe(), self.number) => {
                    info!("a newer stream of Envoy replaces this one");
                    return;
                }
            }
            due = true;
        }
    }

    /// # Errors
    /// When Envoy does not say who it is.
    pub(super) fn take(&mut self, request: &M::Request) -> Result<(), Status> {
        let url = M::type_url(request);
        if !is_for_envoy(url) {
            if self.foreign.len() < MAX_FOREIGN && self.foreign.insert(url.to_owned()) {
                warn!(
                    url,
                    "Envoy asks for a type that is not for it; it gets none"
                );
            }
            return Ok(());
        }
        let url = TypeUrl::new(url);
        let mut state = self.shared.state.lock();
        match (M::node(request), state.node()) {
            (Some(node), _) => state.introduce(node),
            (None, Some(_)) => {}
            (None, None) => return Err(Status::invalid_argument("the first request has no node")),
        }
        drop(state);
        self.hear(&url, request);
        let new = || M::new(url.clone());
        let machine = self.machines.entry(url.clone()).or_insert_with(new);
        if machine.request(request) == Heard::First {
            info!(kind = %url, "Envoy subscribes");
        }
        let wanted = self.shared.state.lock().want(&url, machine.interest());
        if !wanted {
            warn!(kind = %url, "Envoy asks for too many types");
            self.machines.remove(&url);
        }
        self.shared.up.notify_one();
        Ok(())
    }

    /// Hands on what Envoy says of a response.
    fn hear(&mut self, url: &TypeUrl, request: &M::Request) {
        let nonce = M::nonce(request);
        let is_it = |sent: &Sent| sent.url == *url && sent.nonce == nonce;
        let Some(at) = self.unanswered.iter().position(is_it) else {
            return;
        };
        let ticket = self.unanswered.remove(at).and_then(|sent| sent.ticket);
        let refusal = M::refusal(request).map(ToOwned::to_owned);
        if let Some(reason) = &refusal {
            warn!(kind = %url, reason, "Envoy refuses its configuration");
            self.refusals.insert(url.clone(), reason.clone());
        } else {
            self.refusals.remove(url);
        }
        if let Some(kind) = url.kind() {
            match &refusal {
                Some(reason) => self.shared.recorder.refused(kind, reason.clone()),
                None => self.shared.recorder.accepted(kind),
            }
        }
        self.shared.state.lock().judge(url, ticket, refusal);
    }

    /// The next response that is due; ask again until there is none.
    pub(super) fn next(&mut self) -> Option<M::Response> {
        let mut urls: Vec<_> = self.machines.keys().cloned().collect();
        urls.sort_by_key(rank);
        let response = urls.iter().find_map(|url| self.next_of(url));
        if response.is_none() {
            let asked = |url: &TypeUrl| self.machines.contains_key(url);
            if self.shared.state.lock().accept_unasked(asked) {
                self.shared.up.notify_one();
            }
        }
        response
    }

    fn next_of(&mut self, url: &TypeUrl) -> Option<M::Response> {
        let machine = self.machines.get_mut(url)?;
        let mut state = self.shared.state.lock();
        let held = state.get_mut(url)?;
        if machine.interest().is_wildcard() && !held.is_known() {
            return None;
        }
        let rewarm = std::mem::take(&mut held.rewarm);
        if !rewarm.is_empty() {
            machine.forget(rewarm.iter().map(String::as_str));
            machine.allow_repeat();
        }
        let undecided = held.undecided(machine.interest().names());
        let response = machine.respond(&held.catalog, &undecided);
        if let Some(response) = response {
            let ticket = held.take_ticket();
            drop(state);
            self.sent(url, M::response_nonce(&response).to_owned(), ticket);
            return Some(response);
        }
        // Nothing in it was new to Envoy, so that its last word holds.
        let unanswered = self.unanswered.iter().any(|sent| sent.url == *url);
        if held.is_waiting() && !unanswered {
            let ticket = held.take_ticket();
            state.judge(url, ticket, self.refusals.get(url).cloned());
            self.shared.up.notify_one();
        }
        None
    }

    fn sent(&mut self, url: &TypeUrl, nonce: String, ticket: Option<Ticket>) {
        if let Some(kind) = url.kind() {
            self.shared.recorder.sent(kind);
        }
        if self.unanswered.len() == MAX_UNANSWERED {
            self.unanswered.pop_front();
        }
        self.unanswered.push_back(Sent {
            url: url.clone(),
            nonce,
            ticket,
        });
    }
}

fn is_for_envoy(url: &str) -> bool {
    url.starts_with(ENVOY_TYPES) || url == WORKLOAD
}

async fn replaced(mut newest: watch::Receiver<u64>, number: u64) {
    let _ = newest.wait_for(|newest| *newest > number).await;
}
