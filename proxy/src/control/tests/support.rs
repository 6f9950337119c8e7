//! Resources and secrets that a test changes at will.

use std::{collections::HashMap, sync::Arc};

use ithildin_proto::pb::envoy::{
    config::bootstrap::v3::Bootstrap, extensions::transport_sockets::tls::v3::Secret,
};
use ithildin_xds::{ResourceSet, SecretRef, SecretState, SecretSubscriber};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    config::Snapshot,
    control::{Control, ControlState},
    stats::Registry,
};

/// Secrets by name, set by the test.
#[derive(Default)]
pub(super) struct FakeSecrets {
    states: Mutex<HashMap<String, watch::Sender<SecretState>>>,
}

impl FakeSecrets {
    pub(super) fn set(&self, name: &str, state: SecretState) {
        self.sender(name).send_replace(state);
    }

    pub(super) fn ready(&self, name: &str, secret: Secret) {
        self.set(name, SecretState::Ready(Arc::new(secret.into())));
    }

    /// How many subscriptions of `name` there are.
    pub(super) fn subscribers(&self, name: &str) -> usize {
        self.sender(name).receiver_count()
    }

    /// Lets go of what nobody will bring: who waits is told that it is not to be had.
    pub(super) fn settle(&self) {
        for sender in self.states.lock().values() {
            sender.send_if_modified(|state| {
                let pending = matches!(state, SecretState::Pending(_));
                if pending {
                    *state = SecretState::Unavailable("not in this test".into());
                }
                pending
            });
        }
    }

    fn sender(&self, name: &str) -> watch::Sender<SecretState> {
        let pending = || watch::Sender::new(SecretState::Pending("test".into()));
        let mut states = self.states.lock();
        states.entry(name.into()).or_insert_with(pending).clone()
    }
}

impl SecretSubscriber for FakeSecrets {
    fn subscribe(&self, secret: &SecretRef) -> watch::Receiver<SecretState> {
        self.sender(&secret.name).subscribe()
    }
}

/// A control task, and what it is fed with.
pub(super) struct Bench {
    pub(super) stats: Arc<Registry>,
    pub(super) control: Control,
    pub(super) secrets: Arc<FakeSecrets>,
    resources: watch::Sender<Arc<ResourceSet>>,
}

impl Bench {
    pub(super) fn start(set: ResourceSet) -> Self {
        Self::with(Bootstrap::default(), set)
    }

    pub(super) fn with(bootstrap: Bootstrap, set: ResourceSet) -> Self {
        let secrets = Arc::new(FakeSecrets::default());
        let resources = watch::Sender::new(Arc::new(set));
        let stats = Arc::new(Registry::new(1));
        let control = Control::start(
            bootstrap,
            resources.subscribe(),
            Arc::clone(&secrets) as Arc<dyn SecretSubscriber>,
            Arc::clone(&stats),
            None,
        );
        Self {
            control: control.expect("the bootstrap is sound"),
            stats,
            secrets,
            resources,
        }
    }

    pub(super) fn send(&self, set: ResourceSet) {
        self.resources.send_replace(Arc::new(set));
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.control.published().current.load_full()
    }

    /// The next state that `wanted` holds for; panics with `what` if none comes.
    pub(super) async fn until(
        &self,
        what: &str,
        wanted: impl FnMut(&Arc<ControlState>) -> bool,
    ) -> Arc<ControlState> {
        let mut state = self.control.state();
        let found = state.wait_for(wanted);
        match tokio::time::timeout(std::time::Duration::from_secs(30), found).await {
            Ok(state) => state.expect("the control task runs").clone(),
            Err(_) => panic!("{what}: {:#?}", self.control.state().borrow()),
        }
    }
}
