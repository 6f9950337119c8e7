//! One host under watch.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{Kind, OutlierDetection};
use crate::stats::{Counter, PerWorker};

/// How a request to a host went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status; for gRPC with the one that stands for its code.
    Response(u16),
    /// A connection was there, or was made: more is to come for HTTP.
    Connected,
    /// A TCP session has its connection: nothing more is learnt of it.
    Opened,
    /// No connection, or it broke before the response was whole.
    Failed,
    /// No response in time.
    TimedOut,
}

/// Average and threshold of a cluster's success rates; `None`: too few requests or hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SuccessRates {
    pub external: Option<(f64, f64)>,
    pub local: Option<(f64, f64)>,
}

/// The record of one host, which outlives endpoint sets as long as its address is in them.
#[derive(Debug)]
pub struct Monitor {
    rows: [Row; 3],
    ejected: AtomicBool,
    volumes: PerWorker<OutcomeBlock>,
    pub(super) history: Mutex<History>,
}

/// Failures in a row, of one of the first three [`Kind`]s.
#[derive(Debug, Default)]
struct Row {
    length: AtomicU32,
    /// The row is full, and nobody has looked at it yet.
    alarm: AtomicBool,
}

/// Requests of one worker to one host, for success rates.
#[derive(Debug, Default)]
pub struct OutcomeBlock {
    total: Counter,
    success: Counter,
    local_total: Counter,
    local_success: Counter,
}

/// What the control runtime remembers of a host.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) ejected_at: Option<Instant>,
    pub(super) jitter: Duration,
    /// Ejections that were not followed by an interval of health each.
    pub(super) backoff: u32,
    /// Of the last sweep: total and success; external, then local.
    before: [(u64, u64); 2],
    pub(super) external: Option<f64>,
    pub(super) local: Option<f64>,
}

const ROWS: [Kind; 3] = [
    Kind::Consecutive5xx,
    Kind::ConsecutiveGatewayFailure,
    Kind::ConsecutiveLocalOriginFailure,
];

impl Monitor {
    pub fn new(workers: usize) -> Self {
        Self {
            rows: Default::default(),
            ejected: AtomicBool::new(false),
            volumes: PerWorker::new(workers),
            history: Mutex::default(),
        }
    }

    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Relaxed)
    }

    /// Percent of the requests in the last interval; `None`: too few.
    pub fn success_rates(&self) -> (Option<f64>, Option<f64>) {
        let history = self.history.lock();
        (history.external, history.local)
    }

    pub(super) fn set_ejected(&self, ejected: bool) {
        self.ejected.store(ejected, Relaxed);
    }

    /// Whether a row became full.
    pub(super) fn record(
        &self,
        settings: &OutlierDetection,
        worker: usize,
        outcome: Outcome,
    ) -> bool {
        let block = self.volumes.worker(worker);
        match (outcome, settings.split_local_origin) {
            (Outcome::Response(status), _) => self.external(settings, block, status),
            // What the response says will tell.
            (Outcome::Connected, false) => false,
            (Outcome::Opened, false) => self.external(settings, block, 200),
            (Outcome::Failed, false) => self.external(settings, block, 503),
            (Outcome::TimedOut, false) => self.external(settings, block, 504),
            (Outcome::Connected | Outcome::Opened, true) => {
                block.local_total.inc();
                block.local_success.inc();
                self.rows[2].end();
                false
            }
            (Outcome::Failed | Outcome::TimedOut, true) => {
                block.local_total.inc();
                self.rows[2].extend(settings.consecutive_local_origin_failure)
            }
        }
    }

    fn external(&self, settings: &OutlierDetection, block: &OutcomeBlock, status: u16) -> bool {
        block.total.inc();
        let [server, gateway, _] = &self.rows;
        if !(500..600).contains(&status) {
            block.success.inc();
            server.end();
            gateway.end();
            return false;
        }
        let gateway = match status {
            502..=504 => gateway.extend(settings.consecutive_gateway_failure),
            _ => {
                gateway.end();
                false
            }
        };
        server.extend(settings.consecutive_5xx) || gateway
    }

    /// The rows that became full since the last call; they begin anew.
    pub(super) fn alarms(&self) -> impl Iterator<Item = Kind> {
        let rows = self.rows.iter().zip(ROWS);
        let full = rows.filter(|(row, _)| row.alarm.swap(false, Relaxed));
        full.map(|(row, kind)| {
            row.end();
            kind
        })
    }

    /// Forgets failures that were not enough.
    pub(super) fn forget(&self) {
        for row in &self.rows {
            row.end();
            row.alarm.store(false, Relaxed);
        }
    }

    /// Total and successful requests since the last call: external, then local.
    pub(super) fn take_volumes(&self) -> [(u64, u64); 2] {
        let sum = |cell: fn(&OutcomeBlock) -> &Counter| self.volumes.sum(|it| cell(it).get());
        let now = [
            (sum(|it| &it.total), sum(|it| &it.success)),
            (sum(|it| &it.local_total), sum(|it| &it.local_success)),
        ];
        let before = std::mem::replace(&mut self.history.lock().before, now);
        let since = |i: usize| {
            let (total, success): (u64, u64) = now[i];
            (
                total.saturating_sub(before[i].0),
                success.saturating_sub(before[i].1),
            )
        };
        [since(0), since(1)]
    }
}

impl Row {
    /// Whether the row became full.
    fn extend(&self, limit: u32) -> bool {
        let full = self.length.fetch_add(1, Relaxed).wrapping_add(1) == limit;
        if full {
            self.alarm.store(true, Relaxed);
        }
        full
    }

    fn end(&self) {
        // Healthy hosts share no line that is written.
        if self.length.load(Relaxed) != 0 {
            self.length.store(0, Relaxed);
        }
    }
}
