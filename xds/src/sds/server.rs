//! The gRPC service: one task per stream, which turns requests, new identities and changed files
//! into responses. A slow peer gets the newest state and never a backlog.

use std::{pin::Pin, sync::Arc};

use ithildin_proto::pb::envoy::service::{
    discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    },
    secret::v3::secret_discovery_service_server::{
        SecretDiscoveryService, SecretDiscoveryServiceServer,
    },
};
use ithildin_spiffe::{Caller, IdentityState, Provider};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, warn};

use super::{
    feeds::SecretFeeds, files::FileSecrets, lines::Lines, options::SdsOptions, resolve::Answer,
    session::Session, validator::Validator,
};
use crate::{
    ResourceKind,
    subscription::{Claims, DeltaServer, Heard, Interest, Server, SotwServer},
};

/// The most names of one stream. Envoy opens a stream for each secret; each name costs us a secret.
const MAX_NAMES: usize = 1024;

/// The longest name, in bytes: those of files have two paths, each of up to 4 KiB.
const MAX_NAME: usize = 16 << 10;

/// Streams at a time of all peers together, each of some 20 KB.
const MAX_STREAMS: usize = 8192;

/// Bytes of the names of all streams together, each with [`NAME`].
const MAX_HELD: usize = 64 << 20;

/// Bytes that a name costs besides its own: why there is no such secret, and places in maps.
const NAME: usize = 256;

/// The longest request, in bytes: many names, and what a Pod's labels and annotations make of a node.
const MAX_REQUEST: usize = 1 << 20;

/// The secret discovery service over a provider of identities. A clone serves the same.
#[derive(Clone)]
pub struct SdsServer {
    provider: Arc<dyn Provider>,
    options: Arc<SdsOptions>,
    files: FileSecrets,
    feeds: SecretFeeds,
    lines: Lines,
    places: Arc<Semaphore>,
    /// In bytes.
    names: Arc<Semaphore>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl SdsServer {
    /// Must be called inside a tokio runtime, which then watches the files of file secrets.
    pub fn new(provider: Arc<dyn Provider>, options: SdsOptions) -> Self {
        Self {
            provider,
            files: FileSecrets::new(options.files.clone()),
            options: Arc::new(options),
            feeds: SecretFeeds::default(),
            lines: Lines::default(),
            places: Arc::new(Semaphore::new(MAX_STREAMS)),
            names: Arc::new(Semaphore::new(MAX_HELD)),
        }
    }

    /// Serves `feeds` before all else, to whoever may connect.
    pub fn with_feeds(self, feeds: SecretFeeds) -> Self {
        Self { feeds, ..self }
    }

    /// The service to add to a gRPC server.
    pub fn into_service(self) -> SecretDiscoveryServiceServer<Self> {
        SecretDiscoveryServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    fn open<M: Server>(
        &self,
        request: Request<Streaming<M::Request>>,
    ) -> Result<Response<Responses<M::Response>>, Status> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| {
            Status::resource_exhausted(format!("there are {MAX_STREAMS} streams already"))
        })?;
        let caller = Caller::of(&request);
        debug!(?caller, "an SDS stream begins");
        // One slot: a response is made when the peer has taken the one before.
        let (sender, responses) = mpsc::channel(1);
        let stream = SdsStream {
            machine: M::new(ResourceKind::Secret),
            session: self.session(caller),
            identity: self.provider.identities(&caller),
            validator: Validator::for_node(None, self.options.disable_spiffe_cert_validation),
            options: Arc::clone(&self.options),
            lines: self.lines.clone(),
            names: Held::new(&self.names),
        };
        tokio::spawn(async move {
            let _place = place;
            stream.run(request.into_inner(), sender).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    fn session(&self, caller: Caller) -> Session {
        let (files, feeds) = (self.files.clone(), self.feeds.clone());
        let options = Arc::clone(&self.options);
        Session::new(options, caller, files, feeds, self.lines.clone())
    }
}

#[async_trait::async_trait]
impl SecretDiscoveryService for SdsServer {
    type StreamSecretsStream = Responses<DiscoveryResponse>;
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        self.open::<SotwServer>(request)
    }

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        self.open::<DeltaServer>(request)
    }

    /// Answers the names that can be answered; fails if none can.
    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        check_type(&request.type_url)?;
        let identity = self.provider.identities(&caller).borrow().clone();
        let disabled = self.options.disable_spiffe_cert_validation;
        let validator = Validator::for_node(request.node.as_ref(), disabled);
        let mut machine = SotwServer::new(ResourceKind::Secret);
        machine.request(&request);
        check_names(machine.interest())?;
        let mut session = self.session(caller);
        let view = session.refresh(machine.interest(), &identity, validator);
        match machine.respond(&view.catalog, &view.undecided) {
            Some(response) => Ok(Response::new(DiscoveryResponse {
                nonce: String::new(),
                ..response
            })),
            None => Err(refusal(&session, &identity)),
        }
    }
}

/// One stream of either protocol.
struct SdsStream<M> {
    machine: M,
    session: Session,
    identity: watch::Receiver<IdentityState>,
    validator: Validator,
    options: Arc<SdsOptions>,
    lines: Lines,
    names: Held,
}

/// What the names of one stream take of [`MAX_HELD`].
struct Held {
    all: Arc<Semaphore>,
    own: Option<OwnedSemaphorePermit>,
    /// Of what the peer had before this stream.
    claimed: usize,
}

impl Held {
    fn new(all: &Arc<Semaphore>) -> Self {
        Self {
            all: Arc::clone(all),
            own: None,
            claimed: 0,
        }
    }

    fn claim(&mut self, claims: &Claims) {
        self.claimed = match claims {
            Claims::Names(names) => names.iter().map(|it| it.len() + NAME).sum(),
            Claims::Everything => 0,
        };
    }

    /// Holds as much as `interest` needs. Returns whether it is there.
    fn fit(&mut self, interest: &Interest) -> bool {
        let names = interest.names().iter().map(|it| it.len() + NAME);
        let needed = names.sum::<usize>() + self.claimed;
        let own = self
            .own
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        if let Some(less) = own.checked_sub(needed) {
            drop(self.own.as_mut().and_then(|own| own.split(less)));
            return true;
        }
        let more = u32::try_from(needed - own).ok();
        let more = more.and_then(|it| Arc::clone(&self.all).try_acquire_many_owned(it).ok());
        match (&mut self.own, more) {
            (_, None) => false,
            (Some(own), Some(more)) => {
                own.merge(more);
                true
            }
            (own, more) => {
                *own = more;
                true
            }
        }
    }
}

impl<M: Server> SdsStream<M> {
    async fn run(
        mut self,
        mut requests: Streaming<M::Request>,
        responses: mpsc::Sender<Result<M::Response, Status>>,
    ) {
        let end = loop {
            let step = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.take(&request),
                    Ok(None) => return,
                    Err(status) => {
                        debug!(%status, "an SDS stream is lost");
                        // Who is still there is told what was wrong with the request.
                        Err(status)
                    }
                },
                changed = self.identity.changed() => {
                    changed.map_err(|_| Status::unavailable("the source of identities has ended"))
                }
                () = self.session.file_changed() => Ok(()),
            };
            if let Err(status) = step {
                break status;
            }
            let Ok(permit) = responses.reserve().await else {
                return;
            };
            if let Some(response) = self.respond() {
                permit.send(Ok(response));
            }
        };
        let _ = responses.send(Err(end)).await;
    }

    fn take(&mut self, request: &M::Request) -> Result<(), Status> {
        check_type(M::type_url(request))?;
        if let Some(node) = M::node(request) {
            let disabled = self.options.disable_spiffe_cert_validation;
            self.validator = Validator::for_node(Some(node), disabled);
        }
        let heard = self.machine.request(request);
        check_names(self.machine.interest())?;
        let claims = (heard == Heard::First).then(|| M::claims(request));
        if let Some(claims) = &claims {
            self.names.claim(claims);
        }
        if !self.names.fit(self.machine.interest()) {
            return Err(Status::resource_exhausted(format!(
                "the names that all streams ask for have {MAX_HELD} bytes already"
            )));
        }
        match heard {
            Heard::First => self.session.claim(claims.unwrap_or_default()),
            Heard::Nack(reason) if self.lines.admit() => warn!(
                names = ?self.machine.interest().names(),
                reason, "a peer refuses a secret"
            ),
            Heard::Stale => debug!("an SDS request answers an older response"),
            Heard::Ack | Heard::Nack(_) | Heard::Spontaneous => {}
        }
        Ok(())
    }

    fn respond(&mut self) -> Option<M::Response> {
        let identity = self.identity.borrow_and_update().clone();
        let interest = self.machine.interest();
        let view = self.session.refresh(interest, &identity, self.validator);
        self.machine.respond(&view.catalog, &view.undecided)
    }
}

fn check_type(url: &str) -> Result<(), Status> {
    match url.is_empty() || url == ResourceKind::Secret.url() {
        true => Ok(()),
        false => Err(Status::invalid_argument(format!(
            "this service has secrets and no {url:?}"
        ))),
    }
}

fn check_names(interest: &Interest) -> Result<(), Status> {
    let names = interest.names();
    if let Some(name) = names.iter().find(|name| name.len() > MAX_NAME) {
        return Err(Status::invalid_argument(format!(
            "a secret's name has {MAX_NAME} bytes at most, and one of this stream has {}",
            name.len()
        )));
    }
    match names.len() {
        0..=MAX_NAMES => Ok(()),
        count => Err(Status::resource_exhausted(format!(
            "a stream may ask for {MAX_NAMES} secrets, and this one asks for {count}"
        ))),
    }
}

/// Why a unary call has nothing to return.
fn refusal(session: &Session, identity: &IdentityState) -> Status {
    let reasons: Vec<_> = session
        .answers()
        .values()
        .filter_map(|answer| match answer {
            Answer::Secret(_) => None,
            Answer::Pending(reason) | Answer::Unknown(reason) | Answer::Gone { reason, .. } => {
                Some(reason.to_string())
            }
        })
        .collect();
    let pending = matches!(identity, IdentityState::Waiting(_));
    match (reasons.is_empty(), pending) {
        (_, true) => Status::unavailable(reasons.join("; ")),
        (true, false) => Status::not_found("there is no secret"),
        (false, false) => Status::not_found(reasons.join("; ")),
    }
}
