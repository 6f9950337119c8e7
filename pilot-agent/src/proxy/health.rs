//! Whether the proxy serves, and if not, what is waited for.
//!
//! Once ready it stays so, as with Istio's agent: later changes warm while what was there serves. It
//! ends with the termination, and for as long as the identity is withdrawn, when nobody could be served.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ithildin_istio_config::ConfigError;
use ithildin_spiffe::IdentityState;
use ithildin_xds::{ResourceSet, ads::AdsStatus};
use tokio::sync::{RwLock, watch};
use tracing::info;

use super::plane::Plane;

/// How often the data plane is asked until it is ready.
const POLL: Duration = Duration::from_millis(50);

pub(super) struct Health {
    identity: watch::Receiver<IdentityState>,
    resources: watch::Receiver<Arc<ResourceSet>>,
    errors: watch::Receiver<Arc<[ConfigError]>>,
    plane: Arc<RwLock<Option<Plane>>>,
    phase: watch::Sender<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Starting,
    Ready,
    Terminating,
}

impl Health {
    pub(super) fn new(
        identity: watch::Receiver<IdentityState>,
        resources: watch::Receiver<Arc<ResourceSet>>,
        errors: watch::Receiver<Arc<[ConfigError]>>,
        plane: Arc<RwLock<Option<Plane>>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            identity,
            resources,
            errors,
            plane,
            phase: watch::Sender::new(Phase::Starting),
        })
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(super) fn identity(&self) -> IdentityState {
        self.identity.borrow().clone()
    }

    /// What is wrong with the configuration folder now.
    pub(super) fn config_errors(&self) -> Arc<[ConfigError]> {
        Arc::clone(&self.errors.borrow())
    }

    /// What Envoy says of its configuration.
    pub(super) async fn ads_status(&self) -> Option<AdsStatus> {
        let status = self.plane.read().await.as_ref()?.ads_status()?;
        let status = status.borrow().clone();
        Some(status)
    }

    /// Waits for the first time that nothing is waited for any more, and says so.
    pub(super) async fn follow(self: Arc<Self>, started: Instant) {
        let mut told = Vec::new();
        while self.phase() == Phase::Starting {
            let waiting = self.waiting().await;
            if waiting.is_empty() {
                info!(after = ?started.elapsed(), "ready");
                self.phase.send_if_modified(|phase| {
                    let first = *phase == Phase::Starting;
                    if first {
                        *phase = Phase::Ready;
                    }
                    first
                });
                return;
            }
            if waiting != told {
                info!(reasons = waiting.join("; "), "not ready");
                told = waiting;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Why the proxy is not ready; empty if it is.
    pub(super) async fn reasons(&self) -> Vec<String> {
        match self.phase() {
            Phase::Terminating => vec!["the proxy terminates".into()],
            Phase::Ready => self.withdrawn().into_iter().collect(),
            Phase::Starting => self.waiting().await,
        }
    }

    async fn waiting(&self) -> Vec<String> {
        let mut reasons: Vec<_> = self.withdrawn().into_iter().collect();
        if let IdentityState::Waiting(reason) = &*self.identity.borrow() {
            reasons.push(format!("identity: {reason}"));
        }
        if self.resources.borrow().is_empty() {
            let errors = self.errors.borrow();
            reasons.extend(errors.iter().map(|error| format!("configuration: {error}")));
        }
        match &*self.plane.read().await {
            Some(plane) => reasons.extend(plane.waiting().await),
            None => reasons.push("the data plane has not started".into()),
        }
        reasons
    }

    fn withdrawn(&self) -> Option<String> {
        match &*self.identity.borrow() {
            IdentityState::Withdrawn(reason) => Some(format!("identity withdrawn: {reason}")),
            IdentityState::Waiting(_) | IdentityState::Ready(_) => None,
        }
    }
}
