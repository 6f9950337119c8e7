//! In istiod's place: what a real one has sent, over its own protocol, with all that can go wrong.
//!
//! TLS with istiod's name, a token that is checked, both variants of discovery. It lives in the test's
//! process, so that a test sees each request; a relay leads to it from a namespace. It is written apart
//! from the project's own machines, so that it does not share their mistakes.

pub mod recording;
mod service;
mod session;
mod state;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ithildin_proto::pb::{
    envoy::service::discovery::v3::DeltaDiscoveryResponse, google::protobuf::Any,
};
use parking_lot::Mutex;
use tokio::{
    net::UnixListener,
    runtime::Runtime,
    sync::{broadcast, watch},
};
use tonic::Status;

pub use recording::{Answer, Recorded};
pub use state::Heard;
use state::State;

use crate::{Net, Process, istiod::HOST, pki::Ca, process::binary};

/// Where proxies find it in their namespace.
pub const ADDRESS: &str = "127.0.0.1:15012";
/// What proxies must show.
pub const TOKEN: &str = "the.token.of-the-service-account";

/// What tests send by hand and nobody has read yet.
const QUEUE: usize = 64;

/// A server in istiod's place. Dropping it ends it.
pub struct Replay {
    shared: Arc<Shared>,
    /// The root of its certificate, PEM.
    pub roots: String,
    _relay: Process,
    _runtime: Runtime,
}

/// How it treats connections. A change ends those that are there, unless it becomes silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    Good,
    /// Ends each at once.
    Dead,
    /// Keeps all, new and old, and says nothing.
    Silent,
    /// Says what is not TLS.
    Garbage,
    /// Says what is not HTTP, inside TLS.
    GarbageInTls,
}

struct Shared {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    conduct: watch::Sender<Conduct>,
    orders: broadcast::Sender<Order>,
    connections: AtomicU64,
}

/// What all streams are told to do.
#[derive(Clone)]
enum Order {
    Send(Box<DeltaDiscoveryResponse>),
    End(Option<Status>),
}

impl Replay {
    /// Serves `answers` at [`ADDRESS`] of `net`.
    pub fn start(net: &Net, answers: &[Answer]) -> Self {
        let ca = Ca::new("istiod.test");
        let acceptor = service::acceptor(&ca.server(HOST));
        let mut state = State::default();
        answers.iter().for_each(|answer| state.apply(answer));
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
            conduct: watch::Sender::new(Conduct::Good),
            orders: broadcast::Sender::new(QUEUE),
            connections: AtomicU64::new(0),
        });
        let runtime = Runtime::new().expect("a runtime starts");
        let socket = net.dir().join("istiod.sock");
        let _ = fs::remove_file(&socket);
        let listener = runtime.block_on(async { UnixListener::bind(&socket) });
        let listener = listener.expect("the scratch folder is writable");
        runtime.spawn(service::run(listener, acceptor, Arc::clone(&shared)));
        let mut relay = net.command(binary("ithildin-test-peer"));
        relay.args(["relay", ADDRESS, &format!("unix:{}", socket.display())]);
        Self {
            shared,
            roots: ca.pem,
            _relay: net.spawn("istiod-relay", relay),
            _runtime: runtime,
        }
    }

    /// Adds or replaces resources and pushes them.
    pub fn push(&self, answer: &Answer) {
        self.change(|state| state.apply(answer));
    }

    /// Adds or replaces one of `version`.
    pub fn put(&self, name: &str, version: &str, body: Any) {
        self.push(&vec![Recorded {
            name: name.to_owned(),
            version: version.to_owned(),
            body,
        }]);
    }

    pub fn remove(&self, type_url: &str, name: &str) {
        self.change(|state| state.remove(type_url, name));
    }

    /// Has nothing any more, and does not say so: for what comes after a restart.
    pub fn forget(&self) {
        self.shared.state.lock().clear();
    }

    /// Whether requests for a type, named by [`recording::short`], get no answer.
    pub fn mute(&self, kind: &str, mute: bool) {
        self.change(|state| state.mute(kind, mute));
    }

    pub fn conduct(&self, conduct: Conduct) {
        self.shared.conduct.send_replace(conduct);
    }

    /// Ends all streams: in order, or with an error.
    pub fn end_streams(&self, status: Option<Status>) {
        let _ = self.shared.orders.send(Order::End(status));
    }

    /// Sends a response of the test's own making on all streams of the delta protocol.
    pub fn send(&self, response: DeltaDiscoveryResponse) {
        let _ = self.shared.orders.send(Order::Send(Box::new(response)));
    }

    /// All requests so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.shared.state.lock().heard.clone()
    }

    /// All refusals so far: the type, and the reason.
    pub fn refusals(&self) -> Vec<(String, String)> {
        let heard = self.heard().into_iter();
        let refusals = heard.filter_map(|heard| {
            let kind = recording::short(&heard.url).to_owned();
            Some((kind, heard.refusal?))
        });
        refusals.collect()
    }

    /// Connections so far, whatever became of them.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Streams so far.
    pub fn streams(&self) -> u64 {
        self.shared.state.lock().streams
    }

    /// `Ok` once the newest stream has been sent all of `kinds`, and the newest response of each type
    /// has been answered.
    ///
    /// # Errors
    /// What is missing.
    pub fn settled(&self, kinds: &[&str]) -> Result<(), String> {
        let state = self.shared.state.lock();
        let served = state.served();
        let missing: Vec<_> = kinds
            .iter()
            .filter(|kind| !served.contains(**kind))
            .collect();
        let unanswered = state.unanswered();
        match missing.is_empty() && unanswered.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "not asked for: {missing:?}; not answered: {unanswered:?}"
            )),
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state.lock());
        self.shared.changes.send_modify(|count| *count += 1);
    }
}
