//! The listening sockets of one worker: accept, pause when the process is out of files, drain.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::FutureExt;
use ithildin_panics::essential;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

use super::{connections::Connections, drain::Drain, session};
use crate::{
    config::{FilterChain, Listener, Map, listener::DrainType},
    io::{CloseReason, Live, Origin},
    stats::ListenerBlock,
    worker::Worker,
};

/// How long a socket rests after accept failed for want of files or memory: the kernel would say
/// so again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connection ids are unique in the process.
static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// What one worker accepts on.
pub(super) struct Acceptors {
    worker: Rc<Worker>,
    drain_time: Duration,
    connections: Arc<Connections>,
    listeners: Map<Arc<str>, Acceptor>,
}

struct Acceptor {
    /// The listener in its newest form, shared with its sockets' tasks.
    listener: Rc<RefCell<Arc<Listener>>>,
    sockets: Vec<ListeningSocket>,
}

struct ListeningSocket {
    address: SocketAddr,
    stop: Rc<Notify>,
    task: JoinHandle<()>,
}

impl Acceptors {
    pub(super) fn new(
        worker: Rc<Worker>,
        drain_time: Duration,
        connections: Arc<Connections>,
    ) -> Self {
        Self {
            worker,
            drain_time,
            connections,
            listeners: Map::default(),
        }
    }

    /// Serves `listener`. Connections of filter chains that it no longer has are drained.
    pub(super) async fn serve(
        &mut self,
        listener: Arc<Listener>,
        open: Vec<(SocketAddr, std::net::TcpListener)>,
        close: &[SocketAddr],
    ) {
        let name = Arc::clone(&listener.name);
        let acceptor = self.listeners.entry(Arc::clone(&name)).or_insert_with(|| {
            let listener = Rc::new(RefCell::new(Arc::clone(&listener)));
            Acceptor {
                listener,
                sockets: Vec::new(),
            }
        });
        acceptor.listener.replace(Arc::clone(&listener));
        acceptor.close(|address| close.contains(&address)).await;
        for (address, socket) in open {
            if let Err(error) = acceptor.open(&self.worker, &self.connections, address, socket) {
                tracing::error!(%address, %error, "cannot accept");
            }
        }
        self.drain_where(|old, chain| {
            let still_there = |chain| listener.chains.iter().any(|it| Arc::ptr_eq(it, chain));
            old.name == name && !chain.is_none_or(still_there)
        });
    }

    pub(super) async fn remove(&mut self, name: &str) {
        if let Some(mut acceptor) = self.listeners.remove(name) {
            acceptor.close(|_| true).await;
        }
        self.drain_where(|listener, _| *listener.name == *name);
    }

    pub(super) async fn drain(&mut self, drain: Drain, close: bool) {
        for acceptor in self.listeners.values_mut() {
            let covered = drain.covers(&acceptor.listener.borrow());
            if close && covered {
                acceptor.close(|_| true).await;
            }
        }
        // Some listeners drain with their own changes only, until the process goes.
        let finishes = |it: &Listener| close || it.drain_type == DrainType::Default;
        self.drain_where(|listener, _| drain.covers(listener) && finishes(listener));
    }

    /// Drains connections now, and closes those that are left when the drain time is over.
    fn drain_where(&self, which: impl Fn(&Listener, Option<&Arc<FilterChain>>) -> bool) {
        let drained = self.worker.registry.drain(which);
        if drained.is_empty() {
            return;
        }
        let drain_time = self.drain_time;
        tokio::task::spawn_local(async move {
            tokio::time::sleep(drain_time).await;
            close_rest(&drained);
        });
    }
}

fn close_rest(drained: &[Rc<Live>]) {
    for live in drained {
        live.close(CloseReason::Drained);
    }
}

impl Acceptor {
    fn open(
        &mut self,
        worker: &Rc<Worker>,
        connections: &Arc<Connections>,
        address: SocketAddr,
        socket: std::net::TcpListener,
    ) -> io::Result<()> {
        let socket = TcpListener::from_std(socket)?;
        let stop = Rc::new(Notify::new());
        let accepting = Accepting {
            worker: Rc::clone(worker),
            listener: Rc::clone(&self.listener),
            connections: Arc::clone(connections),
        };
        let accept = accepting.run(socket, Rc::clone(&stop));
        self.sockets.push(ListeningSocket {
            address,
            stop,
            task: tokio::task::spawn_local(essential("accept", accept)),
        });
        Ok(())
    }

    /// Resolves when the sockets are closed, so that others can have their addresses.
    async fn close(&mut self, which: impl Fn(SocketAddr) -> bool) {
        let closed = self.sockets.extract_if(.., |socket| which(socket.address));
        for socket in closed.collect::<Vec<_>>() {
            socket.stop.notify_one();
            // A task that panicked holds no socket, either.
            let _ = socket.task.await;
        }
    }
}

/// What a socket's task accepts with.
struct Accepting {
    worker: Rc<Worker>,
    /// In its newest form.
    listener: Rc<RefCell<Arc<Listener>>>,
    connections: Arc<Connections>,
}

impl Accepting {
    /// Accepts until told to stop, then takes what the kernel has completed already.
    async fn run(self, socket: TcpListener, stop: Rc<Notify>) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.notified() => break,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, remote)) => self.start(stream, remote),
                Err(error) if is_exhaustion(&error) => {
                    self.stats(|stats| stats.downstream_cx_overflow.inc());
                    if let Some(suppressed) = self.worker.log.admit() {
                        tracing::error!(%error, suppressed, "accept pauses");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                // The client went away before we came to it.
                Err(error) => tracing::debug!(%error, "accept failed"),
            }
        }
        while let Some(Ok((stream, remote))) = socket.accept().now_or_never() {
            self.start(stream, remote);
        }
    }

    fn start(&self, stream: TcpStream, remote: SocketAddr) {
        let (worker, listener) = (&self.worker, Arc::clone(&self.listener.borrow()));
        if self.connections.are_full() && !listener.is_always_accepted {
            self.stats(|stats| stats.downstream_global_cx_overflow.inc());
            if let Some(suppressed) = worker.log.admit() {
                let listener = &*listener.name;
                tracing::warn!(
                    listener,
                    suppressed,
                    "closed a new connection: there are as many as there may be",
                );
            }
            return;
        }
        // Listed before anything is awaited: whoever drains from here on finds it.
        let registration = worker.registry.register(Origin::Downstream {
            listener: Arc::clone(&listener),
            chain: None,
        });
        let accepted = session::Accepted {
            id: NEXT_CONNECTION.fetch_add(1, Relaxed),
            stream,
            remote,
            registration,
            listener,
            newest: Rc::clone(&self.listener),
        };
        tokio::task::spawn_local(session::run(Rc::clone(worker), accepted));
    }

    fn stats(&self, count: impl FnOnce(&ListenerBlock)) {
        count(self.listener.borrow().stats.worker(self.worker.index));
    }
}

/// EMFILE, ENFILE, ENOBUFS, ENOMEM: no fault of the connection's, and not over at once.
fn is_exhaustion(error: &io::Error) -> bool {
    const CODES: [i32; 4] = [23, 24, 105, 12];
    error
        .raw_os_error()
        .is_some_and(|code| CODES.contains(&code))
}
