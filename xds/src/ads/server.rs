//! The aggregated discovery service over a set of resources that changes.

use std::{pin::Pin, sync::Arc};

use ithildin_panics::essential;
use ithildin_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::{
        AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
    },
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use super::{
    MAX_REQUEST,
    session::Session,
    status::{AdsStatus, Recorder},
    world::{Revisions, World},
};
use crate::{
    ResourceKind, ResourceSet,
    sds::lines::Lines,
    subscription::{DeltaServer, Heard, Server, SotwServer},
};

/// Streams at a time. A proxy has one; each costs a copy of the names and versions of all that it was sent.
const MAX_STREAMS: usize = 64;

/// Serves one set of resources to every node that asks. A clone serves the same.
#[derive(Clone, Debug)]
pub struct AdsServer {
    world: watch::Receiver<Arc<World>>,
    recorder: Recorder,
    places: Arc<Semaphore>,
    lines: Lines,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl AdsServer {
    /// Must be called inside a tokio runtime, which then follows `resources`.
    pub fn new(mut resources: watch::Receiver<Arc<ResourceSet>>) -> Self {
        let mut revisions = Revisions::new();
        let first = World::default().next(&resources.borrow_and_update(), &revisions.next());
        let (sender, world) = watch::channel(Arc::new(first));
        let following = follow(resources, revisions, sender);
        tokio::spawn(essential("resources of the ADS server", following));
        Self {
            world,
            recorder: Recorder::new(),
            places: Arc::new(Semaphore::new(MAX_STREAMS)),
            lines: Lines::default(),
        }
    }

    /// The service to add to a gRPC server.
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    /// What the peers say of what they were sent, now and later.
    pub fn status(&self) -> watch::Receiver<AdsStatus> {
        self.recorder.subscribe()
    }

    fn open<M: Server>(
        &self,
        request: Request<Streaming<M::Request>>,
    ) -> Result<Response<Responses<M::Response>>, Status> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| {
            Status::resource_exhausted(format!("there are {MAX_STREAMS} streams already"))
        })?;
        // One slot: a response is made when the peer has taken the one before.
        let (sender, responses) = mpsc::channel(1);
        let stream = AdsStream {
            session: Session::<M>::new(),
            world: self.world.clone(),
            recorder: self.recorder.clone(),
            lines: self.lines.clone(),
        };
        tokio::spawn(async move {
            let _place = place;
            stream.run(request.into_inner(), sender).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}

#[async_trait::async_trait]
impl AggregatedDiscoveryService for AdsServer {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.open::<SotwServer>(request)
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.open::<DeltaServer>(request)
    }
}

/// One stream of either protocol.
struct AdsStream<M> {
    session: Session<M>,
    world: watch::Receiver<Arc<World>>,
    recorder: Recorder,
    lines: Lines,
}

impl<M: Server> AdsStream<M> {
    async fn run(
        mut self,
        mut requests: Streaming<M::Request>,
        responses: mpsc::Sender<Result<M::Response, Status>>,
    ) {
        let _guard = self.recorder.stream();
        loop {
            let wake = self.session.wake();
            tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.take(&request),
                    Ok(None) => return,
                    Err(status) => {
                        debug!(%status, "an ADS stream is lost");
                        // Who is still there is told what was wrong with the request.
                        let _ = responses.try_send(Err(status));
                        return;
                    }
                },
                changed = self.world.changed() => if changed.is_err() {
                    return;
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
            if !self.flush(&responses).await {
                return;
            }
        }
    }

    /// Sends all that is due. Returns false when the peer is gone.
    async fn flush(&mut self, responses: &mpsc::Sender<Result<M::Response, Status>>) -> bool {
        loop {
            let Ok(permit) = responses.reserve().await else {
                return false;
            };
            let world = Arc::clone(&self.world.borrow_and_update());
            let Some((kind, response)) = self.session.next(&world, Instant::now()) else {
                return true;
            };
            self.recorder.sent(kind);
            permit.send(Ok(response));
        }
    }

    fn take(&mut self, request: &M::Request) {
        let url = M::type_url(request);
        let kind = ResourceKind::from_url(url);
        let heard = kind.and_then(|kind| Some((kind, self.session.request(kind, request)?)));
        let Some((kind, heard)) = heard else {
            debug!(url, "a peer asks for a type that is not served");
            return;
        };
        match heard {
            Heard::First => {
                let node = M::node(request).map(|node| node.id.as_str());
                info!(node, kind = kind.short(), "a proxy subscribes");
            }
            Heard::Ack => self.recorder.accepted(kind),
            Heard::Nack(reason) => {
                if self.lines.admit() {
                    warn!(
                        kind = kind.short(),
                        reason, "a proxy refuses its configuration"
                    );
                }
                self.recorder.refused(kind, reason);
            }
            Heard::Spontaneous | Heard::Stale => {}
        }
    }
}

/// Encodes each new set once, for all streams.
async fn follow(
    mut resources: watch::Receiver<Arc<ResourceSet>>,
    mut revisions: Revisions,
    sender: watch::Sender<Arc<World>>,
) {
    loop {
        tokio::select! {
            changed = resources.changed() => if changed.is_err() {
                // The last set goes on being served.
                sender.closed().await;
                return;
            },
            () = sender.closed() => return,
        }
        let set = Arc::clone(&resources.borrow_and_update());
        let next = sender.borrow().next(&set, &revisions.next());
        sender.send_replace(Arc::new(next));
    }
}
