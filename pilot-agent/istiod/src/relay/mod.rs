//! Discovery for an Envoy beside the agent: istiod's resources, kept and handed on as bytes.
//!
//! Istio's agent ties Envoy's stream to one of its own and ends both together. Here the agent is
//! istiod's client and Envoy is the agent's: the last good state of each type is kept, so that an Envoy
//! that restarts is served at once, also while istiod is gone, and Envoy's stream outlives istiod's.
//! What the two see of each other is as before:
//!
//! - istiod is asked for what Envoy asks for, by Envoy's own node; the agent's own types follow the request
//!   for listeners. Where it is known who will ask, istiod is asked for clusters, their endpoints
//!   and listeners before that: it answers while Envoy starts.
//! - A response of istiod is answered when Envoy has answered what came of it: accepted, or refused with
//!   Envoy's words. Nonces are each side's own. Versions are istiod's, so what Envoy says that it holds
//!   (`initial_resource_versions`) is compared with them, and a `config_dump` shows them.
//! - Updates go down in the order clusters, endpoints, listeners, routes, others. Endpoints of changed
//!   clusters are sent once more, and istiod is asked for them again: Envoy waits for them.
//! - One Envoy is served at a time; a newer stream ends the older one.
//! - Types of Envoy and `istio.workload.Workload` are handed on, and no others.
//! - A resource that Envoy could not decode is not handed on: it would have the whole response refused, and
//!   the replay after a restart. Its last good form stays, istiod is told its name and type, and it counts
//!   as refused.
//! - A Wasm module that Envoy would have to fetch is fetched here, apart from the stream: everything else
//!   overtakes it. Envoy gets the filter with a file in it, or without a module one that allows or denies
//!   everything, as the filter says. istiod's response is answered after that.
//!
//! Memory is one copy of the state. No queue grows: a slow Envoy gets the newest state and not each step
//! to it, and reading one side never waits for writing to the other.

mod decode;
mod downstream;
mod pending;
#[cfg(test)]
mod pending_tests;
mod state;
#[cfg(test)]
mod tests;
mod upstream;
mod version;
mod wasm;

use std::sync::Arc;

use ithildin_panics::essential;
use ithildin_proto::pb::envoy::config::core::v3::Node;
use ithildin_wasm::Modules;
use ithildin_xds::ads::{AdsProtocol, AdsStatus, Recorder, StreamStatus, follow};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::{
    dial::Endpoint,
    discovery::{AgentTypes, WithAgentTypes, upstream},
};
use pending::Converted;
use state::State;

pub use downstream::RelayServer;

/// The relay between istiod and an Envoy. A clone is the same; it ends with the last one.
#[derive(Clone, Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    stream: watch::Receiver<StreamStatus>,
    _alive: watch::Sender<()>,
}

/// What both sides see.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Something for the stream to istiod.
    up: Notify,
    /// Something for the stream from Envoy; counts changes.
    down: watch::Sender<u64>,
    /// The number of the newest stream from Envoy.
    registered: watch::Sender<u64>,
    recorder: Recorder,
    /// What fetches Wasm modules, if it is for us to do.
    modules: Option<Modules>,
}

impl Relay {
    /// Follows istiod, at once where it is known which Envoy will ask, else from its first request on. Wasm
    /// modules are Envoy's to fetch without `modules`. Must be called inside a tokio runtime.
    pub fn start(
        endpoint: &Endpoint,
        protocol: AdsProtocol,
        types: AgentTypes,
        modules: Option<Modules>,
        expected: Option<Node>,
    ) -> Self {
        let shared = Arc::new(Shared::new(modules));
        if let Some(node) = expected {
            shared.state.lock().expect(node);
        }
        let follower = WithAgentTypes::new(upstream::Follower::new(Arc::clone(&shared)), types);
        let (status, stream) = watch::channel(StreamStatus::default());
        let (alive, mut ended) = watch::channel(());
        let server = upstream(endpoint);
        let following = async move {
            tokio::select! {
                () = follow(server, protocol, follower, status) => {}
                () = async { while ended.changed().await.is_ok() {} } => {}
            }
        };
        tokio::spawn(essential("relay", following));
        Self {
            shared,
            stream,
            _alive: alive,
        }
    }

    /// The service for Envoy.
    pub fn server(&self) -> RelayServer {
        RelayServer::new(Arc::clone(&self.shared))
    }

    /// How it stands with istiod.
    pub fn stream(&self) -> watch::Receiver<StreamStatus> {
        self.stream.clone()
    }

    /// The Wasm modules that were fetched for Envoy, if we fetch them.
    pub fn modules(&self) -> Option<&Modules> {
        self.shared.modules.as_ref()
    }

    /// What Envoy says of what it was sent.
    pub fn status(&self) -> watch::Receiver<AdsStatus> {
        self.shared.recorder.subscribe()
    }
}

impl Shared {
    fn new(modules: Option<Modules>) -> Self {
        Self {
            state: Mutex::new(State::new(modules.is_some())),
            up: Notify::new(),
            down: watch::Sender::new(0),
            registered: watch::Sender::new(0),
            recorder: Recorder::new(),
            modules,
        }
    }

    fn converted(&self, converted: Converted) {
        self.state.lock().converted(converted);
        self.wake_down();
    }

    fn wake_down(&self) {
        self.down.send_modify(|count| *count += 1);
    }
}
