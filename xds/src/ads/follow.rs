//! One aggregated stream from a server, kept up: connects, asks, answers, and begins again when it
//! is lost. What is asked for and what becomes of it is a [`Follower`]'s.
//!
//! A stream that was answered and then ends is no fault: servers end them every half hour. Nothing is
//! waited for that only the server could do, so neither side can hold up the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::pending,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use ithildin_proto::pb::{envoy::config::core::v3::Node, google::rpc};
use prost::Message;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tonic::{Request, Status, transport::Channel};
use tracing::{debug, info, warn};

use super::{
    AdsProtocol,
    call::{Aggregated, Messages, open},
};
use crate::{
    ServerAddress, TypeUrl, connect,
    subscription::{Client, DeltaClient, Interest, Receipt, SotwClient, Update, Verdict},
};

/// Requests that the server has not read yet; a server that answers one by one reads each soon.
const REQUESTS: usize = 1024;
/// A server that was asked and sends nothing for so long is left: another one may be behind its name.
const FIRST_ANSWER: Duration = Duration::from_secs(30);
/// Types that were not asked for and are logged.
const MAX_FOREIGN: usize = 16;

/// Decides what is asked for on an aggregated stream, and takes what comes.
pub trait Follower: Send + 'static {
    /// A new stream begins: what was not judged yet need not be judged any more.
    fn begin(&mut self) {}

    /// Who asks. `None`: nobody yet, so no stream is opened.
    fn node(&self) -> Option<Node>;

    /// What is wanted now, in the order in which it is asked for on a new stream.
    fn wanted(&mut self) -> Vec<Want>;

    /// Takes an update. `None` if it is judged later.
    fn take(&mut self, update: Update) -> Option<Verdict>;

    /// What is to be done besides: late verdicts, names to ask for again.
    fn errands(&mut self) -> Vec<Errand> {
        Vec::new()
    }

    /// Waits until something of the above may have changed by itself. May be dropped and called again.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}

/// One thing that is wanted of a server.
#[derive(Clone, Debug)]
pub enum Want {
    Resources(TypeUrl, Interest),
    /// A message to the server that is no subscription; sent once a stream, and again when it changes.
    Notice(TypeUrl, Option<rpc::Status>),
}

/// See [`Follower::errands`].
#[derive(Clone, Debug)]
pub enum Errand {
    Judge(TypeUrl, Receipt, Verdict),
    Renew(TypeUrl, BTreeSet<String>),
    /// Who asks has changed: the stream begins anew.
    Restart,
}

/// A server, and how calls to it are made.
#[derive(Clone)]
pub struct Upstream {
    /// For logs and statuses.
    pub name: Arc<str>,
    pub connect: Connect,
    pub prepare: Prepare,
}

/// Makes the channel of one stream. Each stream has a connection of its own: it is there that what we show
/// of ourselves, and what vouches for the server, may have changed since the stream before.
pub type Connect = Arc<dyn Fn() -> Channel + Send + Sync>;

/// Adds metadata to a call, or says why it cannot.
pub type Prepare = Arc<dyn Fn(&mut Request<()>) -> Result<(), String> + Send + Sync>;

/// How it stands with the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamStatus {
    pub connected: bool,
    /// Why the last stream ended, or could not begin; `None` while one is up.
    pub error: Option<Arc<str>>,
    pub counts: StreamCounts,
}

/// Since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamCounts {
    /// Streams that could not begin.
    pub failures: u64,
    /// Streams that the server ended in order.
    pub ends: u64,
    /// Streams that were lost.
    pub losses: u64,
    pub requests: u64,
    pub responses: u64,
}

impl Upstream {
    /// A server without TLS and metadata.
    pub fn plain(address: &ServerAddress) -> Self {
        let name = address.to_string().into();
        let address = address.clone();
        Self {
            name,
            connect: Arc::new(move || connect::channel(&address)),
            prepare: Arc::new(|_| Ok(())),
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upstream").field(&self.name).finish()
    }
}

/// Follows `upstream`, for ever.
pub async fn follow(
    upstream: Upstream,
    protocol: AdsProtocol,
    follower: impl Follower,
    status: watch::Sender<StreamStatus>,
) {
    match protocol {
        AdsProtocol::StateOfTheWorld => {
            Following::<SotwClient, _>::new(upstream, follower, status)
                .run()
                .await
        }
        AdsProtocol::Delta => {
            Following::<DeltaClient, _>::new(upstream, follower, status)
                .run()
                .await
        }
    }
}

/// The next response, once the stream is open.
async fn message<T: Message + Default>(
    responses: &mut Option<Messages<T>>,
) -> Result<Option<T>, Status> {
    match responses {
        Some(responses) => responses.next().await,
        None => pending().await,
    }
}

struct Following<M: Client, F> {
    upstream: Upstream,
    follower: F,
    status: watch::Sender<StreamStatus>,
    machines: BTreeMap<TypeUrl, M>,
    /// Types that were sent and not asked for, each logged once.
    foreign: BTreeSet<TypeUrl>,
    /// Who we are, for the first request of the stream.
    introduction: Option<Node>,
    /// What this stream was told.
    notices: BTreeMap<TypeUrl, Option<rpc::Status>>,
}

/// How a stream ended.
enum End {
    /// It did not begin.
    NotConnected(Status),
    /// The server ended it in order.
    Closed,
    /// We did, to begin anew.
    Restart,
    Lost(Status),
}

impl<M: Aggregated, F: Follower> Following<M, F> {
    fn new(upstream: Upstream, follower: F, status: watch::Sender<StreamStatus>) -> Self {
        Self {
            upstream,
            follower,
            status,
            machines: BTreeMap::new(),
            introduction: None,
            foreign: BTreeSet::new(),
            notices: BTreeMap::new(),
        }
    }

    async fn run(mut self) {
        let mut backoff = connect::backoff();
        loop {
            let node = loop {
                match self.follower.node() {
                    Some(node) => break node,
                    None => self.follower.changed().await,
                }
            };
            let mut answered = None;
            let end = self.stream(node, &mut answered).await;
            match end {
                End::Restart => backoff.reset(),
                _ => backoff.ended(answered.map(|answered| answered.elapsed())),
            }
            self.ended(end);
            sleep(backoff.pause()).await;
        }
    }

    /// `answered`: when the first response came.
    async fn stream(&mut self, node: Node, answered: &mut Option<Instant>) -> End {
        self.follower.begin();
        self.notices.clear();
        self.machines.values_mut().for_each(M::disconnect);
        let (requests, receiver) = mpsc::channel(REQUESTS);
        self.introduction = Some(node);
        let first = self.due();
        if let Err(end) = self.send(&requests, first) {
            return end;
        }
        // A server may open its half with its first answer only, so we ask and tell meanwhile.
        let upstream = self.upstream.clone();
        let channel = (upstream.connect)();
        let mut opening = pin!(open::<M>(&upstream.prepare, channel, receiver));
        let mut responses = None;
        let mut silence = pin!(sleep(FIRST_ANSWER));
        loop {
            tokio::select! {
                opened = &mut opening, if responses.is_none() => match opened {
                    Ok(opened) => {
                        responses = Some(opened);
                        self.connected();
                    }
                    Err(status) => return End::NotConnected(status),
                },
                response = message(&mut responses) => match response {
                    Ok(Some(response)) => {
                        answered.get_or_insert_with(Instant::now);
                        let answers = self.take(M::update(response));
                        if let Err(end) = self.send(&requests, answers) {
                            return end;
                        }
                    }
                    Ok(None) => return End::Closed,
                    Err(status) => return End::Lost(status),
                },
                () = &mut silence, if answered.is_none() => {
                    if !self.machines.is_empty() {
                        let text = "the server took the stream and sends nothing";
                        return End::NotConnected(Status::deadline_exceeded(text));
                    }
                    silence.as_mut().reset(Instant::now() + FIRST_ANSWER);
                }
                () = self.follower.changed() => {}
            }
            let Some(errands) = self.errands() else {
                return End::Restart;
            };
            let due = errands.into_iter().chain(self.due()).collect();
            if let Err(end) = self.send(&requests, due) {
                return end;
            }
        }
    }

    fn take(&mut self, update: Update) -> Vec<M::Request> {
        self.status
            .send_modify(|status| status.counts.responses += 1);
        let (url, receipt) = (update.url.clone(), update.receipt.clone());
        if !self.machines.contains_key(&url) {
            if self.foreign.len() < MAX_FOREIGN && self.foreign.insert(url.clone()) {
                warn!(
                    url = url.as_str(),
                    "a response of a type that was not asked for is ignored"
                );
            }
            return Vec::new();
        }
        let verdict = self.follower.take(update);
        let Some(machine) = self.machines.get_mut(&url) else {
            return Vec::new();
        };
        match verdict {
            Some(verdict) => vec![machine.judge(&receipt, &verdict)],
            None => {
                machine.hold(&receipt);
                Vec::new()
            }
        }
    }

    /// `None` if the stream is to begin anew.
    fn errands(&mut self) -> Option<Vec<M::Request>> {
        let mut requests = Vec::new();
        for errand in self.follower.errands() {
            match errand {
                Errand::Judge(url, receipt, verdict) => {
                    let machine = self.machines.get_mut(&url);
                    requests.extend(machine.map(|machine| machine.judge(&receipt, &verdict)));
                }
                Errand::Renew(url, names) => {
                    let machine = self.machines.get_mut(&url);
                    requests.extend(machine.and_then(|machine| machine.renew(&names)));
                }
                Errand::Restart => return None,
            }
        }
        Some(requests)
    }

    /// What is wanted and was not said yet.
    fn due(&mut self) -> Vec<M::Request> {
        let mut requests = Vec::new();
        for want in self.follower.wanted() {
            match want {
                Want::Resources(url, interest) => {
                    let new = || M::new(url.clone(), Interest::default());
                    let machine = self.machines.entry(url.clone()).or_insert_with(new);
                    requests.extend(machine.subscribe(interest));
                }
                Want::Notice(url, error) => {
                    if self.notices.get(&url) != Some(&error) {
                        requests.push(M::notice(&url, error.clone()));
                        self.notices.insert(url, error);
                    }
                }
            }
        }
        requests
    }

    /// Waiting for room could be for ever: the server may be waiting for us to read.
    fn send(
        &mut self,
        queue: &mpsc::Sender<M::Request>,
        requests: Vec<M::Request>,
    ) -> Result<(), End> {
        let count = requests.len() as u64;
        for mut request in requests {
            if let Some(node) = self.introduction.take() {
                M::introduce(&mut request, node);
            }
            queue.try_send(request).map_err(|_| {
                let text = "the server sends and does not read our requests";
                End::Lost(Status::resource_exhausted(text))
            })?;
        }
        if count > 0 {
            self.status
                .send_modify(|status| status.counts.requests += count);
        }
        Ok(())
    }

    fn connected(&self) {
        info!(server = %self.upstream.name, "connected to the xDS server");
        self.status.send_modify(|status| {
            status.connected = true;
            status.error = None;
        });
    }

    fn ended(&self, end: End) {
        let server = &self.upstream.name;
        let (reason, fault): (Arc<str>, bool) = match &end {
            End::Closed | End::Restart => (format!("{server}: the stream ended").into(), false),
            End::Lost(status) => (self.reason(status), false),
            End::NotConnected(status) => (self.reason(status), true),
        };
        let changed = self.status.send_if_modified(|status| {
            let changed = status.connected || status.error.as_ref() != Some(&reason);
            status.connected = false;
            status.error = Some(Arc::clone(&reason));
            let count = match end {
                End::Closed | End::Restart => &mut status.counts.ends,
                End::Lost(_) => &mut status.counts.losses,
                End::NotConnected(_) => &mut status.counts.failures,
            };
            *count += 1;
            changed
        });
        match (changed, fault) {
            (true, true) => warn!(%reason, "no xDS stream; the last configuration stays in force"),
            (true, false) => info!(%reason, "the xDS stream begins anew"),
            (false, _) => debug!(%reason, "still no xDS stream"),
        }
    }

    fn reason(&self, status: &Status) -> Arc<str> {
        format!("{}: {}", self.upstream.name, connect::reason(status)).into()
    }
}
