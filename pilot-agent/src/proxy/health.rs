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
    started: Instant,
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
        started: Instant,
    ) -> Arc<Self> {
        Arc::new(Self {
            identity,
            resources,
            errors,
            plane,
            phase: watch::Sender::new(Phase::Starting),
            started,
        })
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(super) fn started(&self) -> Instant {
        self.started
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

    /// Asks until the proxy is ready for the first time, and says meanwhile what is waited for.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut told = Vec::new();
        while self.phase() == Phase::Starting {
            let reasons = self.reasons().await;
            if !reasons.is_empty() && reasons != told {
                info!(reasons = reasons.join("; "), "not ready");
                told = reasons;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Why the proxy is not ready; empty if it is.
    pub(super) async fn reasons(&self) -> Vec<String> {
        match self.phase() {
            Phase::Terminating => vec!["the proxy terminates".into()],
            Phase::Ready => self.withdrawn().into_iter().collect(),
            Phase::Starting => {
                let reasons = self.waiting().await;
                if reasons.is_empty() {
                    self.become_ready();
                }
                reasons
            }
        }
    }

    /// For the first time; a termination meanwhile has the last word.
    fn become_ready(&self) {
        let first = self.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Starting;
            if first {
                *phase = Phase::Ready;
            }
            first
        });
        if first {
            info!(after = ?self.started.elapsed(), "ready");
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
