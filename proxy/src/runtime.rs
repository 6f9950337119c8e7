//! The worker threads: start, listeners, drain, shutdown.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

pub use crate::worker::Published;

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct RuntimeOptions {
    /// Worker threads; Envoy's `--concurrency`.
    pub workers: usize,
    /// How long draining connections may live on (`--drain-time-s`, 600 s).
    pub drain_time: Duration,
}

/// Why the workers do not start.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("workers is 0; it must be at least 1")]
    NoWorkers,
    #[error("cannot start worker thread {index}: {source}")]
    Thread {
        index: usize,
        source: std::io::Error,
    },
}

/// What became of each listener of the newest snapshot.
#[derive(Clone, Debug, Default)]
pub struct ListenerReport {
    /// [`Snapshot::version`](crate::config::Snapshot::version) that this report is about.
    pub version: u64,
    pub listeners: Vec<ListenerStatus>,
}

#[derive(Clone, Debug)]
pub struct ListenerStatus {
    pub name: Arc<str>,
    pub generation: u64,
    /// All workers accept on all addresses; or the text says what failed, and the listener of
    /// before, if there was one, still serves.
    pub bound: Result<(), String>,
}

/// The running workers.
#[derive(Debug)]
pub struct Runtime {
    report: watch::Receiver<Arc<ListenerReport>>,
}

impl Runtime {
    /// Starts the workers, and a task on the calling tokio runtime that binds the listeners of
    /// each snapshot.
    pub fn start(
        _options: RuntimeOptions,
        _published: Arc<Published>,
    ) -> Result<Self, RuntimeError> {
        todo!()
    }

    /// Which listeners are bound, and why others are not. Ready means: no entry has an error, and
    /// the version is that of the snapshot.
    pub fn listeners(&self) -> watch::Receiver<Arc<ListenerReport>> {
        self.report.clone()
    }

    /// Stops accepting and asks live connections to finish: `Connection: close`, GOAWAY, idle ones
    /// close. What remains after the drain time is closed.
    pub fn drain(&self) {
        todo!()
    }

    /// Downstream connections of all workers.
    pub fn active_connections(&self) -> u64 {
        todo!()
    }

    /// Drains for at most `deadline`, closes the rest, and ends the threads.
    pub async fn shutdown(self, _deadline: Duration) {
        todo!()
    }
}
