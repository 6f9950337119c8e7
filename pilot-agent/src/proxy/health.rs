//! What the agent waits for, brought to its [`Readiness`].
//!
//! Readiness ends with the termination, and for as long as the identity is withdrawn, when nobody could
//! be served.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ithildin_dns::Status as DnsStatus;
use ithildin_istio_config::ConfigError;
use ithildin_spiffe::IdentityState;
use ithildin_status::{Gate, Readiness};
use ithildin_wasm::Modules;
use ithildin_xds::{
    ResourceSet,
    ads::{AdsStatus, StreamCounts},
};
use tokio::sync::{RwLock, watch};

use super::{memory, plane::Plane};

/// Until it is ready, the data plane is asked after each such part of the time that was waited for it: what is
/// noticed late stays small beside what the start takes, and Envoy, to which each question is a search
/// through its statistics, hears few.
const POLL_PART: u32 = 12;
const FASTEST_POLL: Duration = Duration::from_millis(2);
const SLOWEST_POLL: Duration = Duration::from_millis(250);

pub(super) struct Health {
    identity: watch::Receiver<IdentityState>,
    resources: watch::Receiver<Arc<ResourceSet>>,
    errors: watch::Receiver<Arc<[ConfigError]>>,
    plane: Arc<RwLock<Option<Plane>>>,
    dns: Option<DnsStatus>,
    modules: Option<Modules>,
    readiness: Readiness,
    gates: Gates,
}

/// One for each of the above.
struct Gates {
    identity: Gate,
    configuration: Gate,
    plane: Gate,
    dns: Gate,
}

impl Health {
    pub(super) fn new(
        identity: watch::Receiver<IdentityState>,
        resources: watch::Receiver<Arc<ResourceSet>>,
        errors: watch::Receiver<Arc<[ConfigError]>>,
        plane: Arc<RwLock<Option<Plane>>>,
        dns: Option<DnsStatus>,
        modules: Option<Modules>,
        started: Instant,
    ) -> Arc<Self> {
        let readiness = Readiness::new(started);
        Arc::new(Self {
            identity,
            resources,
            errors,
            plane,
            dns,
            modules,
            gates: Gates {
                identity: readiness.lasting_gate("identity"),
                configuration: readiness.gate("configuration"),
                plane: readiness.gate("data plane"),
                dns: readiness.gate("DNS"),
            },
            readiness,
        })
    }

    pub(super) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    pub(super) fn identity(&self) -> IdentityState {
        self.identity.borrow().clone()
    }

    /// The DNS proxy, if there is one.
    pub(super) fn dns(&self) -> Option<&DnsStatus> {
        self.dns.as_ref()
    }

    /// What is wrong with the configuration folder now.
    pub(super) fn config_errors(&self) -> Arc<[ConfigError]> {
        Arc::clone(&self.errors.borrow())
    }

    /// What became of Wasm modules, if we fetch them.
    pub(super) fn wasm_counts(&self) -> Option<ithildin_wasm::Counts> {
        self.modules.as_ref().map(Modules::counts)
    }

    /// What has happened on the way to istiod, if there is one.
    pub(super) async fn istiod_counts(&self) -> Option<StreamCounts> {
        self.plane.read().await.as_ref()?.istiod_counts()
    }

    /// What Envoy says of its configuration.
    pub(super) async fn ads_status(&self) -> Option<AdsStatus> {
        let status = self.plane.read().await.as_ref()?.ads_status()?;
        let status = status.borrow().clone();
        Some(status)
    }

    /// Asks until the proxy is ready for the first time; then only what can end that is followed.
    pub(super) async fn follow(self: Arc<Self>) {
        let asked_first = Instant::now();
        while self.readiness.ready_after().is_none() {
            self.identity_gate();
            self.gates.configuration.set(self.unconfigured());
            self.gates.plane.set(self.plane_waits().await);
            self.gates.dns.set(self.nameless());
            let pause = asked_first.elapsed() / POLL_PART;
            tokio::time::sleep(pause.clamp(FASTEST_POLL, SLOWEST_POLL)).await;
        }
        let mut identity = self.identity.clone();
        let follow_identity = async {
            while identity.changed().await.is_ok() {
                self.identity_gate();
            }
        };
        tokio::select! {
            () = follow_identity => {}
            () = memory::keep_small() => {}
        }
    }

    fn identity_gate(&self) {
        let reason = match &*self.identity.borrow() {
            IdentityState::Ready(_) | IdentityState::Opaque(_) => None,
            IdentityState::Withdrawn(reason) => Some(format!("withdrawn: {reason}")),
            // What is there serves until it expires.
            IdentityState::Waiting(_) if self.readiness.ready_after().is_some() => return,
            IdentityState::Waiting(reason) => Some(reason.to_string()),
        };
        self.gates.identity.set(reason);
    }

    /// Why there is no configuration at all.
    fn unconfigured(&self) -> Option<String> {
        if !self.resources.borrow().is_empty() {
            return None;
        }
        let errors = self.errors.borrow();
        joined(errors.iter().map(ToString::to_string))
    }

    /// Why names of the mesh are not answered.
    fn nameless(&self) -> Option<String> {
        let waits = self.dns.as_ref().is_some_and(|dns| !dns.is_ready());
        waits.then(|| "no table of names has arrived".into())
    }

    async fn plane_waits(&self) -> Option<String> {
        match &*self.plane.read().await {
            Some(plane) => joined(plane.waiting().await.into_iter()),
            None => Some("it has not started".into()),
        }
    }
}

fn joined(reasons: impl Iterator<Item = String>) -> Option<String> {
    let reasons: Vec<_> = reasons.collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}
