//! What one worker thread holds, and the connection that it hands to HTTP or TCP.
//!
//! Invariant: nothing here leaves its thread. A connection lives and dies on one worker.

mod budget;
mod downstream;
mod published;

pub use budget::{Budget, Share};
pub use downstream::{Connection, Downstream, Findings};
pub use published::Published;

use std::{cell::RefCell, rc::Rc, sync::Arc};

use crate::{
    config::Snapshot,
    http::collector::Gathered,
    io::{BufferPool, LogLimit, Registry, Timers},
    istio::{PeerCache, telemetry::SeriesTable},
    scripts::Scripts,
    stats::Gauge,
    upstream::Upstreams,
};

/// The most that the copies of one worker may hold, in bytes: a slow cluster that nobody waits for must
/// not fill the memory. Further copies are dropped.
const MIRRORED: usize = 32 << 20;

/// The most that requests of one worker may hold for their filters, in bytes: what services are asked (for
/// authorization, limits, keys of tokens, by scripts) with what they answer, and bodies that are read ahead.
/// That is some thousands of questions without a body. Beyond it, a service counts as one that does not
/// answer.
const ASKED: usize = 64 << 20;

/// The most that one worker gathers for collectors, in bytes: the entries and spans of some ten thousand requests.
/// Those beyond it are dropped and counted. A report that is on its way takes as much again, once for each collector.
const REPORTED: usize = 16 << 20;

/// One worker thread's state.
#[derive(Debug)]
pub struct Worker {
    /// From 0; the index of this worker's block of each statistic.
    pub index: usize,
    pub buffers: BufferPool,
    pub timers: Rc<Timers>,
    pub registry: Rc<Registry>,
    pub upstreams: Upstreams,
    /// What other proxies told of themselves.
    pub peers: PeerCache,
    /// The metrics of the mesh.
    pub mesh: SeriesTable,
    /// Those of filters.
    pub scripts: Scripts,
    /// Of lines that downstream peers can cause.
    pub log: LogLimit,
    /// What mirrored requests hold that were not answered yet.
    pub mirrored: Rc<Budget>,
    /// What is held for filters that ask services or wait for bodies.
    pub asked: Rc<Budget>,
    /// What is gathered for collectors and not yet told.
    pub reported: Rc<Budget>,
    pub(crate) gathered: Gathered,
    published: Arc<Published>,
    /// A copy that is counted without atomics.
    #[expect(
        clippy::redundant_allocation,
        reason = "the outer count is this worker's own; the inner one is contended by all"
    )]
    snapshot: RefCell<Rc<Arc<Snapshot>>>,
}

impl Worker {
    /// `active` counts this worker's downstream connections.
    pub fn new(index: usize, published: Arc<Published>, active: Arc<Gauge>) -> Rc<Self> {
        let timers = Timers::new();
        let registry = Registry::new(index, active);
        Rc::new(Self {
            index,
            buffers: BufferPool::default(),
            upstreams: Upstreams::new(index, Rc::clone(&timers), Rc::clone(&registry)),
            peers: PeerCache::default(),
            mesh: SeriesTable::default(),
            timers,
            registry,
            scripts: Scripts::default(),
            log: LogLimit::default(),
            mirrored: Budget::new(MIRRORED),
            asked: Budget::new(ASKED),
            reported: Budget::new(REPORTED),
            gathered: Gathered::default(),
            snapshot: RefCell::new(Rc::new(published.current.load_full())),
            published,
        })
    }

    /// The configuration at this instant. A request takes it once and keeps it to its end.
    pub fn snapshot(&self) -> Rc<Arc<Snapshot>> {
        let current = self.published.current.load();
        let mut ours = self.snapshot.borrow_mut();
        if !Arc::ptr_eq(&ours, &current) {
            *ours = Rc::new(Arc::clone(&current));
        }
        Rc::clone(&ours)
    }
}
