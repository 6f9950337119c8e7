//! Statistics: plain counters that one worker writes and the control runtime sums.
//!
//! Invariant: the data path holds handles; it never looks up a counter by name or label.

mod blocks;

pub use blocks::{ClusterBlock, EndpointBlock, HttpBlock, ListenerBlock, TlsBlock};

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// A counter with a single writing thread: no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A gauge with a single writing thread.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn add(&self, n: i64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub fn inc(&self) {
        self.add(1);
    }

    pub fn dec(&self) {
        self.add(-1);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// One `T` for each worker, so that no two threads write one counter.
#[derive(Debug)]
pub struct PerWorker<T>(Box<[T]>);

impl<T: Default> PerWorker<T> {
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| T::default()).collect())
    }

    pub fn worker(&self, index: usize) -> &T {
        &self.0[index]
    }

    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }
}

/// Statistics of one target, a block for each worker.
pub type ListenerStats = PerWorker<ListenerBlock>;
pub type HttpStats = PerWorker<HttpBlock>;
pub type ClusterStats = PerWorker<ClusterBlock>;
pub type EndpointStats = PerWorker<EndpointBlock>;
