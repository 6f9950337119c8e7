//! A place for material that rotates: read at each handshake; live connections look at its epoch.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;

/// Holds the current `T`, if any, and counts its changes (its *epoch*).
#[derive(Debug)]
pub struct Slot<T> {
    value: ArcSwapOption<T>,
    /// Read for each request on a pooled connection: no lock there.
    epoch: AtomicU64,
}

impl<T> Slot<T> {
    pub fn new(value: Option<Arc<T>>) -> Arc<Self> {
        Arc::new(Self {
            value: ArcSwapOption::new(value),
            epoch: AtomicU64::new(0),
        })
    }

    /// The current material; `None` fails every handshake that needs it.
    pub fn load(&self) -> Option<Arc<T>> {
        self.value.load_full()
    }

    /// The epoch, and material that is at least as new as it.
    pub fn load_with_epoch(&self) -> (u64, Option<Arc<T>>) {
        // The epoch first: what is stored in between then counts as one epoch too old, and is
        // read again. The other way round old material could pass for new.
        let epoch = self.epoch();
        (epoch, self.load())
    }

    /// Whether there is material.
    pub fn is_filled(&self) -> bool {
        self.value.load().is_some()
    }

    /// Replaces the material, then counts the change.
    pub fn store(&self, value: Option<Arc<T>>) {
        self.value.store(value);
        self.epoch.fetch_add(1, Ordering::Release);
    }

    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_counts() {
        let slot = Slot::new(None);
        assert!(!slot.is_filled());
        assert_eq!(slot.load_with_epoch(), (0, None));
        slot.store(Some(Arc::new(7)));
        assert_eq!(slot.load_with_epoch(), (1, Some(Arc::new(7))));
        slot.store(None);
        assert!(!slot.is_filled());
        assert_eq!(slot.epoch(), 2);
    }
}
