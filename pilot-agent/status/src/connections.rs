//! The open connections of one port, bounded.
//!
//! When all places are taken, whoever has been idle for longest leaves for the newcomer, and if none is
//! idle, whoever waits for longest for an answer. So ten thousand silent connections keep nobody from
//! being answered, least of all the kubelet.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Connections at a time on one port: probes and scrapes are few. At 32 KiB of head each, 8 MiB.
pub(crate) const MAX_CONNECTIONS: usize = 256;

/// The places of one port.
#[derive(Debug)]
pub(crate) struct Connections {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts entries and changes; larger is later.
    clock: u64,
    live: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// Requests under way: connections without any leave first.
    requests: usize,
    /// When that changed last.
    since: u64,
    evicted: Arc<Notify>,
}

/// The place of one connection; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Arc<Connections>,
    id: u64,
    evicted: Arc<Notify>,
}

/// A request under way on a connection, to the end of its answer.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Place>);

impl Connections {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            state: Mutex::default(),
        })
    }

    /// A place for a new connection, if need be another one's.
    pub(crate) fn enter(self: &Arc<Self>) -> Arc<Place> {
        let mut state = self.state.lock();
        if state.live.len() >= self.max {
            let oldest = state
                .live
                .iter()
                .min_by_key(|(_, entry)| (entry.requests > 0, entry.since));
            if let Some(id) = oldest.map(|(id, _)| *id)
                && let Some(entry) = state.live.remove(&id)
            {
                entry.evicted.notify_one();
            }
        }
        state.clock += 1;
        let id = state.clock;
        let evicted = Arc::new(Notify::new());
        state.live.insert(
            id,
            Entry {
                requests: 0,
                since: id,
                evicted: Arc::clone(&evicted),
            },
        );
        Arc::new(Place {
            connections: Arc::clone(self),
            id,
            evicted,
        })
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.state.lock().live.len()
    }
}

impl Place {
    /// Waits until another connection needs the place.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// A request begins.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.count(|requests| requests + 1);
        Busy(Arc::clone(self))
    }

    fn count(&self, change: impl Fn(usize) -> usize) {
        let mut state = self.connections.state.lock();
        state.clock += 1;
        let now = state.clock;
        if let Some(entry) = state.live.get_mut(&self.id) {
            entry.requests = change(entry.requests);
            entry.since = now;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.state.lock().live.remove(&self.id);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.count(|requests| requests.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_evicted(place: &Place) -> bool {
        place.evicted().now_or_never().is_some()
    }

    #[test]
    fn who_is_idle_for_longest_leaves_first() {
        let connections = Connections::new(2);
        let first = connections.enter();
        let second = connections.enter();
        drop(first.busy());
        let third = connections.enter();
        assert!(is_evicted(&second), "it never asked");
        assert!(!is_evicted(&first) && !is_evicted(&third));
        assert_eq!(connections.len(), 2);
        drop((first, second, third));
        assert_eq!(connections.len(), 0);
    }

    #[test]
    fn who_is_served_leaves_last() {
        let connections = Connections::new(2);
        let served = connections.enter();
        let busy = served.busy();
        let idle = connections.enter();
        let newest = connections.enter();
        assert!(is_evicted(&idle) && !is_evicted(&served));
        let other = newest.busy();
        let last = connections.enter();
        assert!(is_evicted(&served), "the newest is always let in");
        assert!(!is_evicted(&newest) && !is_evicted(&last));
        drop((busy, other));
    }
}
