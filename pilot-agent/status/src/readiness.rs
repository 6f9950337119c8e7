//! What the proxy waits for, told by each part of the agent for itself.
//!
//! Ready is reached once, when every gate is open for the first time. Later only lasting gates count:
//! other changes warm while what was there serves, as with Istio's agent. A termination has the last word.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{info, warn};

/// Whether the proxy is ready, shared by all who have a say in it.
///
/// All gates are made before the first of them opens.
#[derive(Clone, Debug)]
pub struct Readiness {
    started: Instant,
    state: Arc<watch::Sender<State>>,
}

/// One thing that must be there; closed until it says otherwise.
#[derive(Debug)]
pub struct Gate {
    readiness: Readiness,
    index: usize,
}

#[derive(Debug, Default)]
struct State {
    gates: Vec<GateState>,
    /// How long it took to become ready.
    ready_after: Option<Duration>,
    terminated: bool,
}

#[derive(Debug)]
struct GateState {
    name: &'static str,
    lasting: bool,
    /// What is waited for; none if open.
    reason: Option<String>,
}

impl Readiness {
    /// Nothing is ready. `started` is when the process started.
    pub fn new(started: Instant) -> Self {
        Self {
            started,
            state: Arc::new(watch::Sender::new(State::default())),
        }
    }

    /// A gate that counts until the proxy is ready for the first time.
    pub fn gate(&self, name: &'static str) -> Gate {
        self.add(name, false)
    }

    /// A gate that makes the proxy unready again whenever it closes.
    pub fn lasting_gate(&self, name: &'static str) -> Gate {
        self.add(name, true)
    }

    /// Why the proxy is not ready; empty if it is.
    pub fn reasons(&self) -> Vec<String> {
        let state = self.state.borrow();
        if state.terminated {
            return vec!["server is terminated".into()];
        }
        state.closed().map(ToString::to_string).collect()
    }

    pub fn is_ready(&self) -> bool {
        let state = self.state.borrow();
        state.ready_after.is_some() && !state.terminated && state.closed().next().is_none()
    }

    /// How long it took to become ready, once it was.
    pub fn ready_after(&self) -> Option<Duration> {
        self.state.borrow().ready_after
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    /// From now on it is not ready, whatever the gates say.
    pub fn terminate(&self) {
        self.state.send_modify(|state| state.terminated = true);
    }

    /// Waits for a change from what [`Self::is_ready`] has said.
    pub async fn changed_from(&self, ready: bool) {
        let mut state = self.state.subscribe();
        // It cannot close: we hold its sender.
        while self.is_ready() == ready && state.changed().await.is_ok() {}
    }

    fn add(&self, name: &'static str, lasting: bool) -> Gate {
        let mut index = 0;
        self.state.send_modify(|state| {
            index = state.gates.len();
            state.gates.push(GateState {
                name,
                lasting,
                reason: Some("not yet there".into()),
            });
        });
        Gate {
            readiness: self.clone(),
            index,
        }
    }

    fn set(&self, index: usize, reason: Option<String>) {
        let started = self.started;
        self.state.send_if_modified(|state| {
            let gate = &mut state.gates[index];
            if gate.reason == reason {
                return false;
            }
            gate.reason = reason;
            let counts = gate.lasting || state.ready_after.is_none();
            let gate = &state.gates[index];
            if counts && gate.reason.is_some() {
                match state.ready_after {
                    None => info!(reason = %gate, "not ready"),
                    Some(_) => warn!(reason = %gate, "no longer ready"),
                }
            }
            state.settle(started);
            true
        });
    }
}

impl Gate {
    /// Says what is waited for.
    pub fn close(&self, reason: impl Into<String>) {
        self.readiness.set(self.index, Some(reason.into()));
    }

    /// What was waited for is there.
    pub fn open(&self) {
        self.readiness.set(self.index, None);
    }

    /// Opens without a reason, closes with one.
    pub fn set(&self, reason: Option<String>) {
        self.readiness.set(self.index, reason);
    }
}

impl State {
    /// The gates that keep it from being ready.
    fn closed(&self) -> impl Iterator<Item = &GateState> {
        let was_ready = self.ready_after.is_some();
        self.gates
            .iter()
            .filter(move |gate| gate.reason.is_some() && (gate.lasting || !was_ready))
    }

    fn settle(&mut self, started: Instant) {
        if self.ready_after.is_none() && self.closed().next().is_none() && !self.terminated {
            let after = started.elapsed();
            self.ready_after = Some(after);
            info!(?after, "ready");
        }
    }
}

impl std::fmt::Display for GateState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let reason = self.reason.as_deref().unwrap_or("there");
        write!(f, "{}: {reason}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_once_all_gates_have_opened() {
        let readiness = Readiness::new(Instant::now());
        let identity = readiness.lasting_gate("identity");
        let dns = readiness.gate("DNS");
        dns.close("no table has arrived");
        identity.open();
        assert_eq!(readiness.reasons(), ["DNS: no table has arrived"]);
        assert!(!readiness.is_ready() && readiness.ready_after().is_none());
        dns.open();
        assert!(readiness.is_ready() && readiness.reasons().is_empty());
        assert!(readiness.ready_after().is_some());

        dns.close("gone");
        assert!(readiness.is_ready(), "what warms does not end what serves");
        identity.close("withdrawn");
        assert_eq!(readiness.reasons(), ["identity: withdrawn"]);
        assert!(!readiness.is_ready());
        identity.open();
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_termination_has_the_last_word() {
        let readiness = Readiness::new(Instant::now());
        let gate = readiness.gate("data plane");
        readiness.terminate();
        gate.open();
        assert_eq!(readiness.reasons(), ["server is terminated"]);
        assert!(!readiness.is_ready() && readiness.ready_after().is_none());
    }

    #[test]
    fn nothing_is_ready_before_somebody_said_so() {
        let readiness = Readiness::new(Instant::now());
        assert!(!readiness.is_ready());
        let _gate = readiness.gate("data plane");
        assert_eq!(readiness.reasons(), ["data plane: not yet there"]);
    }
}
