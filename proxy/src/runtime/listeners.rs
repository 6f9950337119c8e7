//! Opens the sockets of each snapshot's listeners and hands them to the workers.
//!
//! Invariants: a listener is bound on all workers or on none; while a new form of a listener cannot
//! be bound, its old form serves.

use std::{
    collections::HashSet,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use ithildin_sys::socket::{DEFAULT_BACKLOG, ListenOptions, listen};
use tokio::sync::{oneshot, watch};

use super::{
    ListenerReport, ListenerStatus,
    thread::{Command, WorkerThread},
};
use crate::{
    config::{Listener, Map, Snapshot, listener::SocketOptions},
    worker::Published,
};

/// Time between two tries to bind what could not be bound.
const BIND_RETRY: Duration = Duration::from_secs(1);

/// The listeners that the workers serve.
pub(super) struct Listeners {
    workers: Arc<[WorkerThread]>,
    report: watch::Sender<Arc<ListenerReport>>,
    bound: Map<Arc<str>, Bound>,
    /// Generations that could not be bound.
    failed: Map<Arc<str>, u64>,
}

struct Bound {
    generation: u64,
    addresses: Vec<Address>,
}

/// An address as configured, and as it is bound.
#[derive(Clone, Copy)]
struct Address {
    configured: SocketAddr,
    actual: SocketAddr,
}

impl Listeners {
    pub(super) fn new(
        workers: Arc<[WorkerThread]>,
        report: watch::Sender<Arc<ListenerReport>>,
    ) -> Self {
        Self {
            workers,
            report,
            bound: Map::default(),
            failed: Map::default(),
        }
    }

    /// Applies the current snapshot and each later one, for ever. What could not be bound is tried
    /// again: another process may still be on its way out.
    pub(super) async fn follow(mut self, published: Arc<Published>) {
        let mut changed = published.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let snapshot = published.current.load_full();
            let all_bound = self.apply(&snapshot).await;
            let next = changed.changed();
            if all_bound {
                // The sender is in `published`, which we hold.
                let _ = next.await;
            } else {
                let _ = tokio::time::timeout(BIND_RETRY, next).await;
            }
        }
    }

    /// Whether all listeners of the snapshot are bound now.
    async fn apply(&mut self, snapshot: &Snapshot) -> bool {
        // Addresses become free before others ask for them.
        self.remove_missing(snapshot).await;
        let mut listeners = Vec::with_capacity(snapshot.listeners.len());
        for listener in &snapshot.listeners {
            let bound = self.serve(listener).await;
            self.log_failure(listener, &bound);
            listeners.push(ListenerStatus {
                name: Arc::clone(&listener.name),
                generation: listener.generation,
                bound,
            });
        }
        let all_bound = listeners.iter().all(|listener| listener.bound.is_ok());
        self.report.send_replace(Arc::new(ListenerReport {
            version: Some(snapshot.version),
            listeners,
        }));
        all_bound
    }

    /// One line when a listener cannot be bound, and none for each try after it.
    fn log_failure(&mut self, listener: &Listener, bound: &Result<Vec<SocketAddr>, String>) {
        let name = &listener.name;
        match bound {
            Ok(_) => drop(self.failed.remove(name)),
            Err(reason) => {
                let before = self.failed.insert(Arc::clone(name), listener.generation);
                if before != Some(listener.generation) {
                    tracing::error!(listener = %name, "listener is not bound: {reason}");
                }
            }
        }
    }

    async fn remove_missing(&mut self, snapshot: &Snapshot) {
        let kept: HashSet<_> = snapshot.listeners.iter().map(|it| &it.name).collect();
        let names = self.bound.keys().filter(|name| !kept.contains(name));
        let removed: Vec<_> = names.cloned().collect();
        for name in removed {
            tracing::info!(listener = %name, "listener is removed");
            self.bound.remove(&name);
            self.tell(|done| Command::Remove {
                name: Arc::clone(&name),
                done,
            })
            .await;
        }
    }

    /// Has all workers serve `listener`. Sockets at unchanged addresses stay.
    async fn serve(&mut self, listener: &Arc<Listener>) -> Result<Vec<SocketAddr>, String> {
        let old = self.bound.get(&listener.name);
        if let Some(old) = old.filter(|old| old.generation == listener.generation) {
            return Ok(old.addresses.iter().map(|it| it.actual).collect());
        }
        let old: &[Address] = old.map_or(&[], |old| &old.addresses);
        let wanted: &[SocketAddr] = match listener.bind_to_port {
            true => &listener.addresses,
            false => &[],
        };
        let (mut addresses, closed): (Vec<Address>, Vec<Address>) =
            old.iter().partition(|it| wanted.contains(&it.configured));
        let mut open: Vec<Sockets> = self.workers.iter().map(|_| Vec::new()).collect();
        for &configured in wanted {
            if addresses.iter().any(|it| it.configured == configured) {
                continue;
            }
            let actual =
                bind(configured, listener.socket, &mut open).map_err(|error| error.to_string())?;
            addresses.push(Address { configured, actual });
        }
        let close: Vec<_> = closed.iter().map(|it| it.actual).collect();
        let actual = addresses.iter().map(|it| it.actual).collect();
        let bound = Bound {
            generation: listener.generation,
            addresses,
        };
        self.bound.insert(Arc::clone(&listener.name), bound);
        let mut open = open.into_iter();
        self.tell(|done| Command::Serve {
            listener: Arc::clone(listener),
            open: open.next().unwrap_or_default(),
            close: close.clone(),
            done,
        })
        .await;
        Ok(actual)
    }

    /// Sends a command to each worker, and waits until it is in force on all.
    async fn tell(&self, mut command: impl FnMut(oneshot::Sender<()>) -> Command) {
        let answers = self.workers.iter().map(|worker| {
            let (done, answer) = oneshot::channel();
            worker.send(command(done));
            answer
        });
        // A worker that ended does not answer: it serves nothing, either.
        join_all(answers).await;
    }
}

type Sockets = Vec<(SocketAddr, TcpListener)>;

/// Opens one socket for each worker.
fn bind(
    address: SocketAddr,
    options: SocketOptions,
    open: &mut [Sockets],
) -> io::Result<SocketAddr> {
    let shared = ListenOptions {
        transparent: options.transparent,
        freebind: options.freebind,
        backlog: options.backlog.unwrap_or(DEFAULT_BACKLOG),
        ..ListenOptions::default()
    };
    let alone = ListenOptions {
        reuse_port: false,
        ..shared
    };
    let several = open.len() > 1;
    if several && address.port() != 0 {
        // SO_REUSEPORT lets strangers of the same user share the address in silence; a socket
        // without it finds them.
        drop(listen(address, &alone)?);
    }
    let options = if several { shared } else { alone };
    let mut actual = address;
    let mut sockets = Vec::with_capacity(open.len());
    for _ in open.iter() {
        let socket = listen(actual, &options)?;
        actual = socket.local_addr()?;
        sockets.push(socket);
    }
    for (worker, socket) in open.iter_mut().zip(sockets) {
        worker.push((actual, socket));
    }
    Ok(actual)
}
