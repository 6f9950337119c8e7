//! One accepted connection: listener filters -> filter chain -> TLS -> HTTP or TCP.

use std::{
    cell::{OnceCell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use super::{authorization, connection_log::ConnectionLog, handshake, inspect::Arrival};
use crate::{
    config::{FilterChain, Listener, listener::Terminal},
    io::{Live, Registration},
    stats::milliseconds,
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
    pub(super) registration: Registration,
    pub(super) listener: Arc<Listener>,
    /// The same listener as it is now.
    pub(super) newest: Rc<RefCell<Arc<Listener>>>,
}

/// Serves a connection to its end, or to the end of its grace when it is closed from outside.
pub(super) async fn run(worker: Rc<Worker>, accepted: Accepted) {
    let live = Rc::clone(accepted.registration.live());
    let mut log = ConnectionLog::start(&accepted);
    tokio::select! {
        biased;
        // Boxed: it is large, and what it awaits is for all connections the same.
        () = Box::pin(serve(&worker, accepted, &mut log)) => {}
        () = closed_for_good(&live) => {}
    }
    log.write(&worker, &live);
}

async fn closed_for_good(live: &Live) {
    live.closed().await;
    tokio::time::sleep(CLOSE_GRACE).await;
}

async fn serve(worker: &Rc<Worker>, accepted: Accepted, log: &mut ConnectionLog) {
    let started = Instant::now();
    let Accepted {
        id,
        stream,
        remote,
        registration,
        listener,
        newest,
    } = accepted;
    let Ok(mut arrival) = Arrival::new(stream, remote) else {
        return;
    };
    let arrived = arrive(worker, &mut arrival, listener, &newest, &registration, log).await;
    let Some(listener) = arrived else {
        return;
    };
    let Some(chain) = find_chain(worker, &listener, &arrival, log) else {
        return;
    };
    registration.matched(&chain);
    let _active = ActiveConnection::new(worker, &listener, started);
    let (local, restored) = (arrival.local, arrival.restored);
    let (remote, findings) = (arrival.remote, arrival.findings());
    let server_name: Option<Box<str>> = arrival.server_name().map(Box::from);
    let secured = handshake::secure(worker, &listener, &chain, arrival, registration);
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
        restored,
        remote,
        findings,
        server_name,
        listener,
        chain: Arc::clone(&chain),
        tls: stream.session().map(TlsSession::of),
        live: Rc::clone(stream.live()),
        xfcc: OnceCell::new(),
    });
    log.established(&connection);
    let mut downstream = Downstream {
        connection,
        stream,
        read_ahead,
    };
    // Boxed: most connections are asked nothing that takes its time.
    if !chain.access.is_empty()
        && let Err(refusal) = Box::pin(authorization::admit(worker, &mut downstream)).await
    {
        if let Some(record) = log.session() {
            record.refused(refusal.flags, refusal.details);
        }
        if let Terminal::Tcp(proxy) = &chain.terminal {
            tcp::report_refused(worker, proxy, &downstream.connection, refusal.flags);
        }
        return;
    }
    match &chain.terminal {
        Terminal::Tcp(proxy) => {
            let mut unlogged = tcp::SessionRecord::default();
            let record = log.session().unwrap_or(&mut unlogged);
            tcp::serve(worker, proxy, downstream, record).await;
        }
        Terminal::Http(manager) => crate::http::serve(worker, manager, downstream).await,
    }
}

/// Runs listener filters: those of the listener that accepted, then those of the one that it hands
/// the connection to, if it does. Yields the listener that keeps the connection.
async fn arrive(
    worker: &Worker,
    arrival: &mut Arrival,
    listener: Arc<Listener>,
    newest: &RefCell<Arc<Listener>>,
    registration: &Registration,
    log: &mut ConnectionLog,
) -> Option<Arc<Listener>> {
    if !arrival.inspect(worker, &listener).await {
        return None;
    }
    // The listener may have changed while the client was silent: what holds now decides, since a
    // connection without a chain was not drained.
    let listener = Arc::clone(&newest.borrow());
    let Some(other) = hand_off(worker, &listener, arrival) else {
        return Some(listener);
    };
    registration.handed_to(&other);
    log.handed_to(&other, arrival);
    if !arrival.inspect(worker, &other).await {
        return None;
    }
    // It does not hand off in turn, as with Envoy: no circle of listeners.
    let now = worker.snapshot().listeners.at(arrival.local).cloned();
    let same = now.filter(|now| now.name == other.name);
    Some(same.unwrap_or(other))
}

/// The other listener that a redirected connection belongs to.
fn hand_off(worker: &Worker, listener: &Listener, arrival: &Arrival) -> Option<Arc<Listener>> {
    if !listener.hands_off || !arrival.restored {
        return None;
    }
    let snapshot = worker.snapshot();
    let other = snapshot.listeners.at(arrival.local)?;
    (other.name != listener.name).then(|| Arc::clone(other))
}

fn find_chain(
    worker: &Worker,
    listener: &Arc<Listener>,
    arrival: &Arrival,
    log: &mut ConnectionLog,
) -> Option<Arc<FilterChain>> {
    let chain = listener.chains.find(&arrival.info());
    if chain.is_none() {
        let stats = listener.stats.worker(worker.index);
        stats.no_filter_chain_match.inc();
    }
    log.matched(listener, arrival, chain);
    chain.cloned()
}

/// Counts one connection while it lives. As with Envoy, it is one from when its chain is found.
struct ActiveConnection {
    worker: usize,
    listener: Arc<Listener>,
    since: Instant,
}

impl ActiveConnection {
    fn new(worker: &Worker, listener: &Arc<Listener>, since: Instant) -> Self {
        let stats = listener.stats.worker(worker.index);
        stats.downstream_cx_total.inc();
        stats.downstream_cx_active.inc();
        Self {
            worker: worker.index,
            listener: Arc::clone(listener),
            since,
        }
    }
}

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        let stats = self.listener.stats.worker(self.worker);
        stats.downstream_cx_active.dec();
        stats.downstream_cx_destroy.inc();
        let length = milliseconds(self.since);
        stats.downstream_cx_length_ms.record(length);
    }
}
