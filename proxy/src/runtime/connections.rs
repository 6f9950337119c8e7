//! How many downstream connections there are, and may be.

use std::sync::Arc;

use crate::stats::Gauge;

/// The downstream connections of all workers. Each worker writes its own count and reads the
/// others', so a worker may take one more while another does: the bound is exact but for one
/// connection a worker.
#[derive(Debug)]
pub(super) struct Connections {
    most: i64,
    active: Box<[Arc<Gauge>]>,
}

impl Connections {
    /// `most`: at one time; `None`: no bound.
    pub(super) fn new(workers: usize, most: Option<u64>) -> Self {
        Self {
            most: most.map_or(i64::MAX, |most| i64::try_from(most).unwrap_or(i64::MAX)),
            active: (0..workers).map(|_| Arc::default()).collect(),
        }
    }

    /// Those of one worker, which alone writes it.
    pub(super) fn of(&self, worker: usize) -> &Arc<Gauge> {
        &self.active[worker]
    }

    /// Whether there are as many as there may be.
    pub(super) fn are_full(&self) -> bool {
        self.most != i64::MAX && self.active.iter().map(|it| it.get()).sum::<i64>() >= self.most
    }
}
