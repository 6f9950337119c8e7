//! A place for material that rotates: read at each handshake, watched by live connections.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

/// Holds the current `T`, if any, and counts its changes (its *epoch*).
#[derive(Debug)]
pub struct Slot<T> {
    value: ArcSwapOption<T>,
    epoch: watch::Sender<u64>,
}

impl<T> Slot<T> {
    pub fn new(value: Option<Arc<T>>) -> Arc<Self> {
        Arc::new(Self {
            value: ArcSwapOption::new(value),
            epoch: watch::Sender::new(0),
        })
    }

    /// The current material; `None` fails every handshake that needs it.
    pub fn load(&self) -> Option<Arc<T>> {
        self.value.load_full()
    }

    /// Replaces the material, then tells the watchers.
    pub fn store(&self, value: Option<Arc<T>>) {
        self.value.store(value);
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    pub fn epoch(&self) -> u64 {
        *self.epoch.borrow()
    }

    pub fn watch(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }
}
