//! The worker threads: start, listeners, drain, shutdown.
//!
//! Each worker is a thread with a single-threaded tokio runtime and listening sockets of its own.
//! One task on the control runtime opens the sockets of each snapshot and hands them out, so that a
//! listener is bound on all workers or on none.

mod accept;
mod authorization;
mod connection_log;
mod connections;
mod drain;
mod handshake;
mod inspect;
mod listeners;
mod session;
mod thread;

#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use connections::Connections;
pub use drain::{Drain, Drainer};
use ithildin_panics::essential;
use listeners::Listeners;
use thread::{Command, WorkerThread};
use tokio::{sync::watch, task::JoinHandle};

pub use crate::worker::Published;

/// How often a shutdown looks whether connections are left.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct RuntimeOptions {
    /// Worker threads; Envoy's `--concurrency`.
    pub workers: usize,
    /// How long draining connections may live on (`--drain-time-s`, 600 s).
    pub drain_time: Duration,
    /// Downstream connections of all workers at one time; `None`: as many as there are files for.
    pub max_connections: Option<u64>,
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
    /// [`Snapshot::version`](crate::config::Snapshot::version) that this report is about; `None`
    /// until there is a first one.
    pub version: Option<u64>,
    pub listeners: Vec<ListenerStatus>,
}

#[derive(Clone, Debug)]
pub struct ListenerStatus {
    pub name: Arc<str>,
    pub generation: u64,
    /// Where all workers accept; port 0 is resolved. Or the text says what failed, and the listener
    /// of before, if there was one, still serves.
    pub bound: Result<Vec<SocketAddr>, String>,
}

/// The running workers. Dropping it ends them at once; [`Runtime::shutdown`] ends them well.
#[derive(Debug)]
pub struct Runtime {
    workers: Arc<[WorkerThread]>,
    report: watch::Receiver<Arc<ListenerReport>>,
    listeners: JoinHandle<()>,
    drain_time: Duration,
}

impl Runtime {
    /// Starts the workers, and a task on the calling tokio runtime that binds the listeners of
    /// each snapshot.
    pub fn start(options: RuntimeOptions, published: Arc<Published>) -> Result<Self, RuntimeError> {
        if options.workers == 0 {
            return Err(RuntimeError::NoWorkers);
        }
        let connections = Connections::new(options.workers, options.max_connections);
        let connections = Arc::new(connections);
        let workers = (0..options.workers)
            .map(|index| {
                let (published, connections) = (Arc::clone(&published), Arc::clone(&connections));
                WorkerThread::start(index, options.drain_time, published, connections)
                    .map_err(|source| RuntimeError::Thread { index, source })
            })
            .collect::<Result<Arc<[_]>, _>>()?;
        let (sender, report) = watch::channel(Arc::default());
        let listeners = Listeners::new(Arc::clone(&workers), sender);
        Ok(Self {
            workers,
            report,
            listeners: tokio::spawn(essential("listeners", listeners.follow(published))),
            drain_time: options.drain_time,
        })
    }

    /// Which listeners are bound, and why others are not.
    pub fn listeners(&self) -> watch::Receiver<Arc<ListenerReport>> {
        self.report.clone()
    }

    /// Stops accepting and asks live connections to finish: `Connection: close`, GOAWAY, idle ones
    /// close. What remains after the drain time is closed.
    pub fn drain(&self) {
        self.drainer().drain(Drain::default());
    }

    /// For whoever drains without owning the runtime.
    pub fn drainer(&self) -> Drainer {
        Drainer {
            workers: Arc::clone(&self.workers),
            listeners: self.listeners.abort_handle(),
            drain_time: self.drain_time,
        }
    }

    /// Downstream connections of all workers.
    pub fn active_connections(&self) -> u64 {
        let active: i64 = self.workers.iter().map(WorkerThread::active).sum();
        u64::try_from(active).unwrap_or(0)
    }

    /// Drains for at most `deadline`, closes the rest, and ends the threads.
    pub async fn shutdown(self, deadline: Duration) {
        self.drain();
        let start = Instant::now();
        while self.active_connections() > 0 && start.elapsed() < deadline {
            tokio::time::sleep(DRAIN_POLL).await;
        }
        for worker in self.workers.iter() {
            worker.stop().await;
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.listeners.abort();
        for worker in self.workers.iter() {
            worker.send(Command::Stop);
        }
    }
}
