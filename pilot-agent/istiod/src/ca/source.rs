//! The source: one task renews the certificate, another publishes what is in force.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ithildin_panics::essential;
use ithildin_spiffe::{
    Backoff, Caller, IdentitySnapshot, IdentityState, Provider, Source, X509Svid, source::expire,
};
use ithildin_xds::sds::ExtraRoots;
use rustls_pki_types::CertificateDer;
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tracing::{debug, info, warn};

use super::{
    client::Client,
    expected::Expected,
    request::KeyKind,
    revocations::{self, Crls},
    rotation::{Rotation, chance},
    trust,
};
use crate::dial::Endpoint;

/// The pause before the second attempt (Istio's retry of CSRs).
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause while we have no certificate: somebody waits for it.
const LONGEST_WITHOUT: Duration = Duration::from_secs(5);
/// The longest pause while we have one.
const LONGEST_WITH: Duration = Duration::from_secs(60);
/// The longest sleep until a renewal, so that a jump of the clock (a machine that was suspended) is
/// noticed.
const MAX_SLEEP: Duration = Duration::from_secs(10);
/// A change of the mesh's roots is followed by new certificates within this time, spread by chance.
const ROOTS_CHANGED_SPREAD: Duration = Duration::from_secs(2);

/// What is asked of the CA, and what is made of its answer.
#[derive(Clone, Debug)]
pub struct CaOptions {
    /// Who we are.
    pub expected: Expected,
    pub key: KeyKind,
    /// The lifetime that is asked for; the CA may give less.
    pub ttl: Duration,
    /// `ISTIO_META_CERT_SIGNER`.
    pub signer: Option<String>,
    pub rotation: Rotation,
    /// Where the CA's revocations are, if the file exists.
    pub crl: Option<PathBuf>,
}

/// Our identity, signed by istiod. As a [`Provider`] it gives each caller the same.
#[derive(Debug)]
pub struct CaSource {
    state: watch::Sender<IdentityState>,
    tasks: [JoinHandle<()>; 3],
}

/// The certificate that is in force, and the roots that came with it.
#[derive(Clone, Debug)]
struct Held {
    svid: Arc<X509Svid>,
    roots: Arc<[CertificateDer<'static>]>,
}

impl CaSource {
    /// Starts to ask at once, whether or not the CA is there yet. `extra`: roots of the mesh's other
    /// CAs. Needs a tokio runtime.
    pub fn start(
        endpoint: Endpoint,
        options: CaOptions,
        extra: watch::Receiver<ExtraRoots>,
    ) -> Arc<Self> {
        let waiting = format!("waiting for a certificate of the CA at {endpoint}");
        let state = watch::Sender::new(IdentityState::Waiting(waiting.into()));
        let held = watch::Sender::new(None);
        let crls = revocations::follow(options.crl.clone());
        let publisher = Publisher {
            held: held.subscribe(),
            extra: extra.clone(),
            crls,
            state: state.clone(),
        };
        let renewer = Renewer {
            client: Client::new(endpoint),
            options,
            held,
            extra,
            state: state.clone(),
            complaint: String::new(),
        };
        let tasks = [
            tokio::spawn(essential("renewal of the certificate", renewer.run())),
            tokio::spawn(essential("identity of the CA", publisher.run())),
            tokio::spawn(essential("expiry of identities", expire(state.clone()))),
        ];
        Arc::new(Self { state, tasks })
    }
}

impl Source for CaSource {
    fn subscribe(&self) -> watch::Receiver<IdentityState> {
        self.state.subscribe()
    }
}

impl Provider for CaSource {
    fn identities(&self, _caller: &Caller) -> watch::Receiver<IdentityState> {
        self.state.subscribe()
    }
}

impl Drop for CaSource {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Renewer {
    client: Client,
    options: CaOptions,
    held: watch::Sender<Option<Held>>,
    extra: watch::Receiver<ExtraRoots>,
    state: watch::Sender<IdentityState>,
    /// What was wrong last: an hour without a CA is not an hour of equal lines.
    complaint: String,
}

impl Renewer {
    async fn run(mut self) {
        loop {
            self.extra.mark_unchanged();
            let not_after = self.obtain().await;
            // Asking may have taken hours: the lifetime counts from the answer.
            let fetched = SystemTime::now();
            let due = self.options.rotation.due(fetched, not_after, chance());
            self.wait(due).await;
        }
    }

    /// Asks until there is a certificate; says when it ends.
    async fn obtain(&mut self) -> SystemTime {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_WITH);
        loop {
            match self.client.sign(&self.options).await {
                Ok(issued) => {
                    self.complaint.clear();
                    let not_after = issued.svid.not_after;
                    let left = not_after.duration_since(SystemTime::now());
                    info!(
                        id = %issued.svid.id,
                        valid_for = ?left.unwrap_or_default(),
                        ca = %self.client.endpoint(),
                        "a certificate has arrived"
                    );
                    self.held.send_replace(Some(Held {
                        svid: Arc::new(issued.svid),
                        roots: issued.roots.into(),
                    }));
                    return not_after;
                }
                Err(error) => self.complain(&error.to_string()),
            }
            let longest = match self.state.borrow().snapshot() {
                Some(_) => LONGEST_WITH,
                None => LONGEST_WITHOUT,
            };
            sleep(backoff.pause_within(longest)).await;
        }
    }

    fn complain(&mut self, reason: &str) {
        let ca = self.client.endpoint();
        if self.complaint == reason {
            debug!(%ca, reason, "still no certificate");
            return;
        }
        warn!(%ca, reason, "no certificate; trying again and again");
        reason.clone_into(&mut self.complaint);
        let text = format!("no certificate of the CA at {ca}: {reason}");
        self.state.send_if_modified(|state| {
            let waiting = matches!(state, IdentityState::Waiting(_));
            if waiting {
                *state = IdentityState::Waiting(text.into());
            }
            waiting
        });
    }

    /// Until `due`, or shortly after the mesh's roots have changed: the CA may have a new one too.
    async fn wait(&mut self, due: SystemTime) {
        let mut roots_end = false;
        loop {
            let Ok(left) = due.duration_since(SystemTime::now()) else {
                return;
            };
            tokio::select! {
                () = sleep(left.min(MAX_SLEEP)) => {}
                changed = self.extra.changed(), if !roots_end => {
                    roots_end = changed.is_err();
                    if !roots_end {
                        info!("the mesh's roots have changed; asking for a new certificate");
                        sleep(ROOTS_CHANGED_SPREAD.mul_f64(fastrand::f64())).await;
                        return;
                    }
                }
            }
        }
    }
}

struct Publisher {
    held: watch::Receiver<Option<Held>>,
    extra: watch::Receiver<ExtraRoots>,
    crls: watch::Receiver<Crls>,
    state: watch::Sender<IdentityState>,
}

impl Publisher {
    async fn run(mut self) {
        let (mut extra_ended, mut crls_ended) = (false, false);
        loop {
            tokio::select! {
                changed = self.held.changed() => if changed.is_err() { return },
                changed = self.extra.changed(), if !extra_ended => extra_ended = changed.is_err(),
                changed = self.crls.changed(), if !crls_ended => crls_ended = changed.is_err(),
            }
            let held = self.held.borrow_and_update().clone();
            if let Some(held) = held {
                self.publish(&held);
            }
        }
    }

    fn publish(&mut self, held: &Held) {
        if held.svid.is_expired(SystemTime::now()) {
            return;
        }
        let domain = held.svid.id.trust_domain();
        let extra = self.extra.borrow_and_update().clone();
        let crls = self.crls.borrow_and_update().to_vec();
        let trust = trust::sort(&domain, &held.roots, &extra);
        let snapshot = IdentitySnapshot::new(vec![Arc::clone(&held.svid)], trust.bundles, crls);
        match snapshot {
            Ok(snapshot) => {
                let snapshot = Arc::new(snapshot.with_unbound_roots(trust.unbound));
                self.state.send_if_modified(|state| {
                    if matches!(state, IdentityState::Ready(old) if **old == *snapshot) {
                        return false;
                    }
                    *state = IdentityState::Ready(snapshot);
                    true
                });
            }
            Err(error) => {
                warn!(%error, "the CA's roots make no trust; what was there before stays")
            }
        }
    }
}
