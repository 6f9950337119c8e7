//! One accepted connection: listener filters -> filter chain -> TLS -> HTTP or TCP.

use std::{
    cell::{OnceCell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use super::{
    authorization,
    connection_log::ConnectionLog,
    handshake,
    inspect::{self, Opening},
};
use crate::{
    config::{
        FilterChain, Listener,
        listener::{ConnectionInfo, Terminal},
    },
    io::{Live, Origin, Registration},
    stats::{ListenerBlock, milliseconds},
    tcp,
    tls_session::TlsSession,
    worker::{Connection, Downstream, Worker},
};

/// What is left to a connection that was closed from outside: its stream passes nothing any more,
/// but an access log is still to be written.
const CLOSE_GRACE: Duration = Duration::from_millis(100);

/// A connection as it comes from the kernel.
pub(super) struct Accepted {
    pub(super) id: u64,
    pub(super) stream: TcpStream,
    pub(super) remote: SocketAddr,
    pub(super) listener: Arc<Listener>,
    /// The same listener as it is now.
    pub(super) newest: Rc<RefCell<Arc<Listener>>>,
}

/// Serves a connection to its end, or to the end of its grace when it is closed from outside.
pub(super) async fn run(worker: Rc<Worker>, accepted: Accepted) {
    let listener = Arc::clone(&accepted.listener);
    let active = ActiveConnection::new(listener.stats.worker(worker.index));
    let registration = worker.registry.register(Origin::Downstream {
        listener: Arc::clone(&listener),
        chain: None,
    });
    let live = Rc::clone(registration.live());
    let mut log = ConnectionLog::start(&accepted, active.since);
    tokio::select! {
        biased;
        // Boxed: it is large, and what it awaits is for all connections the same.
        () = Box::pin(serve(&worker, accepted, registration, &mut log)) => {}
        () = closed_for_good(&live) => {}
    }
    log.write(&listener, &live);
}

async fn closed_for_good(live: &Live) {
    live.closed().await;
    tokio::time::sleep(CLOSE_GRACE).await;
}

async fn serve(
    worker: &Rc<Worker>,
    accepted: Accepted,
    registration: Registration,
    log: &mut ConnectionLog,
) {
    let started = Instant::now();
    let Accepted {
        id,
        stream,
        remote,
        listener,
        newest,
    } = accepted;
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let Some(opening) = inspect::open(worker, &listener, stream).await else {
        return;
    };
    // The listener may have changed while the client was silent: what holds now decides, since a
    // connection without a chain was not drained.
    let listener = if Arc::ptr_eq(&listener, &newest.borrow()) {
        listener
    } else {
        Arc::clone(&newest.borrow())
    };
    let server_name: Option<Box<str>> = opening.server_name().map(Box::from);
    log.asked_for(server_name.as_deref());
    let chain = find_chain(worker, &listener, local, remote, &opening);
    log.matched(chain.as_ref());
    let Some(chain) = chain else {
        return;
    };
    registration.matched(&chain);
    let secured = handshake::secure(worker, &listener, &chain, remote, opening, registration);
    let (stream, read_ahead) = match secured.await {
        Ok(secured) => secured,
        Err(reason) => {
            log.refused(reason);
            return;
        }
    };
    let connection = Rc::new(Connection {
        id,
        accepted: started,
        local,
        remote,
        server_name,
        listener,
        chain: Arc::clone(&chain),
        tls: stream.session().map(TlsSession::of),
        live: Rc::clone(stream.live()),
        xfcc: OnceCell::new(),
    });
    log.established(&connection);
    if !authorization::admits(worker, &connection) {
        return;
    }
    let downstream = Downstream {
        connection,
        stream,
        read_ahead,
    };
    match &chain.terminal {
        Terminal::Tcp(proxy) => {
            let mut unlogged = tcp::SessionRecord::default();
            let record = log.session().unwrap_or(&mut unlogged);
            tcp::serve(worker, proxy, downstream, record).await;
        }
        Terminal::Http(manager) => crate::http::serve(worker, manager, downstream).await,
    }
}

fn find_chain(
    worker: &Worker,
    listener: &Listener,
    local: SocketAddr,
    remote: SocketAddr,
    opening: &Opening,
) -> Option<Arc<FilterChain>> {
    let chain = listener.chains.find(&ConnectionInfo {
        local,
        remote,
        server_name: opening.server_name(),
        tls: matches!(opening, Opening::Tls(_)),
        application_protocols: opening.alpn(),
    });
    if chain.is_none() {
        let stats = listener.stats.worker(worker.index);
        stats.no_filter_chain_match.inc();
    }
    chain.cloned()
}

/// Counts one connection while it lives.
struct ActiveConnection<'a> {
    stats: &'a ListenerBlock,
    since: Instant,
}

impl<'a> ActiveConnection<'a> {
    fn new(stats: &'a ListenerBlock) -> Self {
        stats.downstream_cx_total.inc();
        stats.downstream_cx_active.inc();
        Self {
            stats,
            since: Instant::now(),
        }
    }
}

impl Drop for ActiveConnection<'_> {
    fn drop(&mut self) {
        self.stats.downstream_cx_active.dec();
        self.stats.downstream_cx_destroy.inc();
        let length = milliseconds(self.since);
        self.stats.downstream_cx_length_ms.record(length);
    }
}
