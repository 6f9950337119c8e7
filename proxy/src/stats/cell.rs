//! The cells that blocks are made of.

use std::sync::{
    OnceLock,
    atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

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

/// A counter that any thread may write: for the control runtime, not for the data path.
#[derive(Debug, Default)]
pub struct SharedCounter(AtomicU64);

impl SharedCounter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A gauge that any thread may write: for the control runtime, not for the data path.
#[derive(Debug, Default)]
pub struct SharedGauge(AtomicI64);

impl SharedGauge {
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// A block that takes memory when it is used first: of most targets nothing of it is ever counted.
#[derive(Debug)]
pub struct Lazy<B>(OnceLock<Box<B>>);

impl<B> Default for Lazy<B> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<B: Default> Lazy<B> {
    /// The block, to count in it.
    pub fn used(&self) -> &B {
        self.0.get_or_init(Box::default)
    }

    pub fn get(&self) -> Option<&B> {
        self.0.get().map(|block| &**block)
    }
}

/// How many different labels one family keeps apart. A peer cannot make more: what comes later is
/// counted in the totals only.
const LABELS: usize = 16;

/// A family of counters whose labels are learnt as they occur (`upstream_rq_503`,
/// `ssl.versions.TLSv1.3`), with a single writing thread.
#[derive(Debug)]
pub struct Labelled<K>([(OnceLock<K>, Counter); LABELS]);

impl<K> Default for Labelled<K> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| {
            (OnceLock::new(), Counter::default())
        }))
    }
}

impl<K: Copy + PartialEq> Labelled<K> {
    pub fn inc(&self, label: K) {
        for (known, counter) in &self.0 {
            if *known.get_or_init(|| label) == label {
                counter.inc();
                return;
            }
        }
    }

    /// The labels that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (K, u64)> + '_ {
        self.0
            .iter()
            .map_while(|(label, counter)| Some((*label.get()?, counter.get())))
    }
}
