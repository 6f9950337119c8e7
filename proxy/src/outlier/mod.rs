//! Outlier detection: hosts that fail leave load balancing for a while
//! (`envoy.config.cluster.v3.OutlierDetection`).
//!
//! Workers tell a host's [`Monitor`] how each request went; a success of a healthy host writes to
//! nothing that is shared. When a row of failures is full, the control runtime is woken. It alone
//! ejects and takes back, and then publishes the endpoints anew, at which workers balance anew.
//! Source: Envoy, "Outlier detection".

mod monitor;
mod settings;
mod sweep;

pub use monitor::{Monitor, Outcome, OutcomeBlock, SuccessRates};
pub use settings::{Enforcing, FailurePercentage, Kind, OutlierDetection, SuccessRate};

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::stats::ClusterStats;

/// Outlier detection of one cluster.
#[derive(Debug)]
pub struct Detector {
    pub settings: OutlierDetection,
    stats: Arc<ClusterStats>,
    created: Instant,
    /// Requests went to the cluster since its last tick.
    used: AtomicBool,
    /// Workers want the cluster to be swept now.
    asked: AtomicBool,
    /// The control runtime's, which serves all clusters.
    wake: Arc<Notify>,
    sweeping: Mutex<Sweeping>,
}

/// What the control runtime knows of a cluster.
#[derive(Debug, Default)]
struct Sweeping {
    /// `None`: nothing is ejected, remembered or used.
    due: Option<Instant>,
    rates: SuccessRates,
}

impl Detector {
    /// `wake` is told when a cluster wants [`sweep`](Self::sweep) to look at it.
    pub fn new(settings: OutlierDetection, stats: Arc<ClusterStats>, wake: Arc<Notify>) -> Self {
        // The counters exist from now on.
        stats.outlier();
        Self {
            settings,
            stats,
            created: Instant::now(),
            used: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            wake,
            sweeping: Mutex::default(),
        }
    }

    /// Notes how a request to the host of `monitor` went, on the thread of `worker`.
    pub fn record(&self, monitor: &Monitor, worker: usize, outcome: Outcome) {
        let alarm = monitor.record(&self.settings, worker, outcome);
        let first = !self.used.load(Ordering::Relaxed);
        if first {
            self.used.store(true, Ordering::Relaxed);
        }
        if first || alarm {
            self.asked.store(true, Ordering::Release);
            self.wake.notify_one();
        }
    }

    /// Whether [`sweep`](Self::sweep) has something to do.
    pub fn wants_sweep(&self, now: Instant) -> bool {
        self.asked.swap(false, Ordering::Acquire) || self.due().is_some_and(|due| due <= now)
    }

    /// When to sweep, if no worker asks for it earlier.
    pub fn due(&self) -> Option<Instant> {
        self.sweeping.lock().due
    }

    /// The success rates of the last sweep.
    pub fn rates(&self) -> SuccessRates {
        self.sweeping.lock().rates
    }

    /// The next time on the cluster's own clock, which ticks once per interval.
    fn next_tick(&self, now: Instant) -> Instant {
        let interval = self.settings.interval.max(Duration::from_millis(1));
        let passed = now.saturating_duration_since(self.created);
        let ticks = passed.as_nanos() / interval.as_nanos() + 1;
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
        self.created + interval.saturating_mul(ticks)
    }
}

#[cfg(test)]
mod tests;
