//! The relay as istiod's client.

use std::sync::Arc;

use ithildin_proto::pb::envoy::config::core::v3::Node;
use ithildin_xds::{
    ads::{self, Errand, Want},
    subscription::{Update, Verdict},
};
use tokio::time::{Instant, sleep_until};

use super::{Shared, pending::convert};

pub(super) struct Follower {
    shared: Arc<Shared>,
}

impl Follower {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl ads::Follower for Follower {
    fn begin(&mut self) {
        self.shared.state.lock().begin();
    }

    fn node(&self) -> Option<Node> {
        self.shared.state.lock().node().cloned()
    }

    fn wanted(&mut self) -> Vec<Want> {
        let mut state = self.shared.state.lock();
        state.end_lingering(Instant::now());
        state.wanted()
    }

    fn take(&mut self, update: Update) -> Option<Verdict> {
        let kind = update.url.kind();
        let (refusal, jobs) = {
            let mut state = self.shared.state.lock();
            (state.take(update), state.jobs())
        };
        if let Some(modules) = &self.shared.modules {
            for job in jobs {
                let shared = Arc::clone(&self.shared);
                tokio::spawn(convert(shared, modules.clone(), job));
            }
        }
        if let (Some(kind), Some(reason)) = (kind, refusal) {
            self.shared.recorder.refused(kind, reason);
        }
        self.shared.wake_down();
        None
    }

    fn errands(&mut self) -> Vec<Errand> {
        self.shared.state.lock().errands()
    }

    async fn changed(&mut self) {
        let linger = self.shared.state.lock().linger_until();
        tokio::select! {
            () = self.shared.up.notified() => {}
            () = sleep_until(linger.unwrap_or_else(Instant::now)), if linger.is_some() => {}
        }
    }
}
