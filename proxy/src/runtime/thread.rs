//! One worker thread: its runtime, its background tasks, and the commands it takes.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::Duration,
};

use ithildin_panics::essential;
use parking_lot::Mutex;
use tokio::{
    runtime::LocalRuntime,
    sync::{mpsc, oneshot},
};

use super::{accept::Acceptors, connections::Connections, drain::Drain};
use crate::{
    config::Listener,
    http::follow_keys,
    io::CloseReason,
    stats::Gauge,
    upstream::REAP_INTERVAL,
    worker::{Published, Worker},
};

/// How long tasks may take to notice that their connection was closed by a shutdown: to write the
/// access log.
const STOP_GRACE: Duration = Duration::from_millis(300);
/// So long services are waited for that are told of the last requests.
const REPORT_GRACE: Duration = Duration::from_millis(500);

/// How often it is looked whether they have.
const STOP_POLL: Duration = Duration::from_millis(2);

/// What a worker is told. `done` answers when it is in force.
#[derive(Debug)]
pub(super) enum Command {
    /// Serve `listener` on the sockets that it has, less those at `close`, plus `open`.
    Serve {
        listener: Arc<Listener>,
        open: Vec<(SocketAddr, TcpListener)>,
        close: Vec<SocketAddr>,
        done: oneshot::Sender<()>,
    },
    /// Stop accepting for the listener of this name, and drain its connections.
    Remove {
        name: Arc<str>,
        done: oneshot::Sender<()>,
    },
    /// Drain connections, and with `close` stop accepting.
    Drain { drain: Drain, close: bool },
    /// Close all connections and end.
    Stop,
}

/// The handle of a worker thread.
#[derive(Debug)]
pub(super) struct WorkerThread {
    commands: mpsc::UnboundedSender<Command>,
    active: Arc<Gauge>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl WorkerThread {
    /// Starts `worker-<index>`.
    pub(super) fn start(
        index: usize,
        drain_time: Duration,
        published: Arc<Published>,
        connections: Arc<Connections>,
    ) -> io::Result<Self> {
        let (commands, inbox) = mpsc::unbounded_channel();
        let active = Arc::clone(connections.of(index));
        let ours = Arc::clone(&active);
        let (started, result) = std::sync::mpsc::channel();
        let run = move || {
            if let Err(error) = ithildin_sys::alloc::own_arena() {
                tracing::debug!(%error, "a worker shares its arena of memory");
            }
            let mut builder = tokio::runtime::Builder::new_current_thread();
            match builder.enable_all().build_local(Default::default()) {
                Ok(runtime) => {
                    // The receiver waits; it cannot be gone.
                    let _ = started.send(Ok(()));
                    let worker = || Worker::new(index, published, ours);
                    run_worker(&runtime, worker, inbox, drain_time, connections);
                }
                Err(error) => drop(started.send(Err(error))),
            }
        };
        let thread = Builder::new().name(format!("worker-{index}")).spawn(run)?;
        result.recv().map_err(io::Error::other)??;
        Ok(Self {
            commands,
            active,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// A worker that ended takes no commands: then there is nothing to do, either.
    pub(super) fn send(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    /// Its downstream connections.
    pub(super) fn active(&self) -> i64 {
        self.active.get()
    }

    /// Ends the thread.
    pub(super) async fn stop(&self) {
        self.send(Command::Stop);
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        if let Ok(Err(_)) = tokio::task::spawn_blocking(|| thread.join()).await {
            tracing::error!("a worker thread panicked");
        }
    }
}

fn run_worker(
    runtime: &LocalRuntime,
    worker: impl FnOnce() -> Rc<Worker>,
    mut inbox: mpsc::UnboundedReceiver<Command>,
    drain_time: Duration,
    connections: Arc<Connections>,
) {
    let work = async {
        let worker = worker();
        start_background(&worker);
        let mut acceptors = Acceptors::new(Rc::clone(&worker), drain_time, connections);
        // A closed channel means that the runtime's owner is gone.
        while let Some(command) = inbox.recv().await {
            match command {
                Command::Serve {
                    listener,
                    open,
                    close,
                    done,
                } => {
                    // One worker fetches for all.
                    if worker.index == 0 {
                        follow_keys(&worker, &listener);
                    }
                    acceptors.serve(listener, open, &close).await;
                    let _ = done.send(());
                }
                Command::Remove { name, done } => {
                    acceptors.remove(&name).await;
                    let _ = done.send(());
                }
                Command::Drain { drain, close } => acceptors.drain(drain, close).await,
                Command::Stop => break,
            }
        }
        acceptors.drain(Drain::default(), true).await;
        worker.registry.close_all(&CloseReason::Shutdown);
        let ended = async {
            while worker.registry.active() > 0 {
                tokio::time::sleep(STOP_POLL).await;
            }
        };
        let _ = tokio::time::timeout(STOP_GRACE, ended).await;
        worker.gathered.flush(REPORT_GRACE).await;
    };
    runtime.block_on(essential("worker", work));
}

fn start_background(worker: &Rc<Worker>) {
    let timers = Rc::clone(&worker.timers);
    let sweeping = async move { timers.sweep().await };
    tokio::task::spawn_local(essential("timers", sweeping));
    let registry = Rc::clone(&worker.registry);
    let watching = async move { registry.watch_trust().await };
    tokio::task::spawn_local(essential("trust of live connections", watching));
    let worker = Rc::clone(worker);
    let reaping = async move {
        loop {
            tokio::time::sleep(REAP_INTERVAL).await;
            worker.upstreams.reap(&worker.snapshot());
            worker.buffers.trim();
            worker.scripts.prune();
        }
    };
    tokio::task::spawn_local(essential("upstream pools", reaping));
}
