//! Sources over the Workload API: our identities, and the bundles alone.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ithildin_panics::essential;
use ithildin_proto::workload::{X509BundlesResponse, X509svidResponse};
use tokio::{sync::watch, task::JoinHandle};
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use super::{
    KEEP_ALIVE_INTERVAL, WorkloadApiClient,
    decode::{self, MessageError, without_panics},
    follow::{Subscriber, follow},
};
use crate::{
    Caller, IdentitySnapshot, IdentityState, Provider, Source, TrustDomain, X509Bundle, X509Svid,
    source::expire, workload_api::WorkloadEndpoint,
};

/// The share of an SVID's life after which a newer one is overdue; SPIRE renews at half of it.
const OVERDUE_SHARE: f64 = 0.75;

/// What may be tuned; the defaults are for SPIRE.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// Between HTTP/2 pings. SPIRE ends connections that ping more often than each 5 minutes.
    pub keep_alive_interval: Duration,
    /// How long a stream may stay without its first message.
    pub first_message_timeout: Duration,
    /// How long a stream is given at least, before it is opened anew because a renewal is overdue.
    pub overdue_retry: Duration,
    /// For how long a server that was away may deny us before that is believed. SPIRE's agent denies all
    /// until it is in sync with its server, which it asks every 5 s.
    pub restart_grace: Duration,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            keep_alive_interval: KEEP_ALIVE_INTERVAL,
            first_message_timeout: Duration::from_secs(30),
            overdue_retry: Duration::from_secs(20),
            restart_grace: Duration::from_secs(30),
        }
    }
}

/// Our identities from a Workload API. It follows the stream until it is dropped: an outage keeps the
/// last good snapshot until it expires, a denial withdraws it: at once, or if it goes on where the server
/// has only just come back.
///
/// As a [`Provider`] it gives each caller the identities of this process.
#[derive(Debug)]
pub struct WorkloadApiSource {
    state: watch::Sender<IdentityState>,
    tasks: [JoinHandle<()>; 2],
}

impl WorkloadApiSource {
    /// Starts to follow `endpoint`, whether or not anybody listens there yet. Needs a tokio runtime.
    pub fn start(endpoint: WorkloadEndpoint, options: SourceOptions) -> Arc<Self> {
        let waiting = format!("waiting for the Workload API at {endpoint}");
        let state = watch::Sender::new(IdentityState::Waiting(waiting.into()));
        let subscriber = Identities {
            state: state.clone(),
        };
        let tasks = [
            tokio::spawn(essential(
                "Workload API",
                follow(endpoint, options, subscriber),
            )),
            tokio::spawn(essential("expiry of identities", expire(state.clone()))),
        ];
        Arc::new(Self { state, tasks })
    }
}

impl Source for WorkloadApiSource {
    fn subscribe(&self) -> watch::Receiver<IdentityState> {
        self.state.subscribe()
    }
}

impl Provider for WorkloadApiSource {
    fn identities(&self, _caller: &Caller) -> watch::Receiver<IdentityState> {
        self.state.subscribe()
    }
}

impl Drop for WorkloadApiSource {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Identities {
    state: watch::Sender<IdentityState>,
}

#[async_trait::async_trait]
impl Subscriber for Identities {
    type Message = X509svidResponse;
    const METHOD: &'static str = "FetchX509SVID";

    async fn open(
        &mut self,
        client: &mut WorkloadApiClient,
    ) -> Result<Streaming<X509svidResponse>, Status> {
        client.x509_svids().await
    }

    fn accept(&mut self, message: X509svidResponse) -> Result<(), MessageError> {
        let previous = self.state.borrow().snapshot().cloned();
        let decode = || decode::identities(message, previous.as_deref());
        let snapshot = Arc::new(without_panics(decode)?);
        let state = match snapshot.without_expired(SystemTime::now()) {
            Some(snapshot) => {
                log_snapshot(previous.as_deref(), &snapshot);
                IdentityState::Ready(snapshot)
            }
            None => {
                let reason = "the Workload API sent only expired SVIDs";
                warn!(reason, "the identity is withdrawn");
                IdentityState::Withdrawn(reason.into())
            }
        };
        self.state.send_if_modified(|current| {
            let changed = match (&*current, &state) {
                (IdentityState::Ready(old), IdentityState::Ready(new)) => old != new,
                _ => true,
            };
            if changed {
                *current = state;
            }
            changed
        });
        Ok(())
    }

    fn waiting(&mut self, reason: &str) {
        self.state.send_if_modified(|state| match state {
            IdentityState::Waiting(text) if &**text != reason => {
                *text = reason.into();
                true
            }
            _ => false,
        });
    }

    fn denied(&mut self, reason: &str) {
        self.state.send_if_modified(|state| {
            let news = !matches!(state, IdentityState::Withdrawn(_));
            if news {
                warn!(reason, "the identity is withdrawn");
            } else {
                debug!(reason, "there is still no identity");
            }
            *state = IdentityState::Withdrawn(reason.into());
            news
        });
    }

    fn holds_material(&self) -> bool {
        self.state.borrow().snapshot().is_some()
    }

    fn overdue(&self) -> Option<SystemTime> {
        let state = self.state.borrow();
        state
            .snapshot()?
            .svids
            .iter()
            .map(|svid| overdue(svid))
            .min()
    }
}

fn overdue(svid: &X509Svid) -> SystemTime {
    let life = svid
        .not_after
        .duration_since(svid.not_before)
        .unwrap_or(Duration::ZERO);
    svid.not_before + life.mul_f64(OVERDUE_SHARE)
}

fn log_snapshot(previous: Option<&IdentitySnapshot>, snapshot: &IdentitySnapshot) {
    let default = &snapshot.svids[0];
    let ids = |snapshot: &IdentitySnapshot| {
        let svids = snapshot.svids.iter();
        svids.map(|svid| svid.id.to_string()).collect::<Vec<_>>()
    };
    let bundles = |snapshot: &IdentitySnapshot| {
        let domains = snapshot.bundles.keys();
        domains.map(TrustDomain::to_string).collect::<Vec<_>>()
    };
    let (svids, trust_domains) = (ids(snapshot), bundles(snapshot));
    let known = previous.is_some_and(|p| ids(p) == svids && bundles(p) == trust_domains);
    if known {
        debug!(default = %default.id, "identity renewed");
    } else {
        info!(default = %default.id, ?svids, ?trust_domains, "identity received; the first SVID is the default");
    }
}

/// The bundles that a Workload API hands out, with or without an identity.
#[derive(Clone, Debug)]
pub enum BundleState {
    Waiting(Arc<str>),
    Ready(Arc<BTreeMap<TrustDomain, Arc<X509Bundle>>>),
    Withdrawn(Arc<str>),
}

/// Follows `FetchX509Bundles` until it is dropped: for a process that verifies others and may have no
/// identity of its own.
#[derive(Debug)]
pub struct BundleSource {
    state: watch::Sender<BundleState>,
    task: JoinHandle<()>,
}

impl BundleSource {
    /// Starts to follow `endpoint`. Needs a tokio runtime.
    pub fn start(endpoint: WorkloadEndpoint, options: SourceOptions) -> Self {
        let waiting = format!("waiting for the Workload API at {endpoint}");
        let state = watch::Sender::new(BundleState::Waiting(waiting.into()));
        let subscriber = Bundles {
            state: state.clone(),
        };
        let bundles = follow(endpoint, options, subscriber);
        let task = tokio::spawn(essential("bundles of the Workload API", bundles));
        Self { state, task }
    }

    /// The current state and each later one.
    pub fn subscribe(&self) -> watch::Receiver<BundleState> {
        self.state.subscribe()
    }
}

impl Drop for BundleSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Bundles {
    state: watch::Sender<BundleState>,
}

#[async_trait::async_trait]
impl Subscriber for Bundles {
    type Message = X509BundlesResponse;
    const METHOD: &'static str = "FetchX509Bundles";

    async fn open(
        &mut self,
        client: &mut WorkloadApiClient,
    ) -> Result<Streaming<X509BundlesResponse>, Status> {
        client.x509_bundles().await
    }

    fn accept(&mut self, message: X509BundlesResponse) -> Result<(), MessageError> {
        let bundles = without_panics(|| decode::x509_bundles(&message))?;
        self.state.send_if_modified(|state| {
            if matches!(state, BundleState::Ready(current) if **current == bundles) {
                return false;
            }
            *state = BundleState::Ready(Arc::new(bundles));
            true
        });
        Ok(())
    }

    fn waiting(&mut self, reason: &str) {
        self.state.send_if_modified(|state| match state {
            BundleState::Waiting(text) => {
                *text = reason.into();
                true
            }
            BundleState::Ready(_) | BundleState::Withdrawn(_) => false,
        });
    }

    fn denied(&mut self, reason: &str) {
        self.state
            .send_replace(BundleState::Withdrawn(reason.into()));
    }

    fn holds_material(&self) -> bool {
        matches!(*self.state.borrow(), BundleState::Ready(_))
    }

    fn overdue(&self) -> Option<SystemTime> {
        None
    }
}
