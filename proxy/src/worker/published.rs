//! Where the control runtime publishes the configuration.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::config::Snapshot;

/// The current configuration, and a signal that it changed.
#[derive(Debug)]
pub struct Published {
    pub current: ArcSwap<Snapshot>,
    /// [`Snapshot::version`] of `current`.
    pub changed: watch::Sender<u64>,
}

impl Published {
    pub fn new(snapshot: Arc<Snapshot>) -> Arc<Self> {
        Arc::new(Self {
            changed: watch::Sender::new(snapshot.version),
            current: ArcSwap::new(snapshot),
        })
    }

    /// Replaces the configuration in one step, then tells the workers.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let version = snapshot.version;
        self.current.store(snapshot);
        self.changed.send_replace(version);
    }
}
