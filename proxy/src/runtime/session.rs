//! One accepted connection: listener filters -> filter chain -> TLS -> HTTP or TCP.

use std::{
    future::poll_fn,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use ithildin_tls::{
    HandshakeError, Inspected, PendingTls, ServerContext, TlsStream, inspect, verify::Role,
};
use tokio::net::TcpStream;

use crate::{
    config::{
        FilterChain, Listener,
        listener::{ConnectionInfo, Terminal},
    },
    io::{Authority, Live, Origin, Registration, Socket, Stream, Trust, tls_stats},
    stats::{ListenerBlock, milliseconds},
    tcp,
    tls_session::TlsSession,
    worker::{Connection, Downstream, Worker},
};

/// Limit of a TLS handshake where the filter chain sets none; Istio's value.
const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// What is left to a connection that was closed from outside: its stream passes nothing any more,
/// but an access log is still to be written.
const CLOSE_GRACE: Duration = Duration::from_millis(100);

/// A connection as it comes from the kernel.
pub(super) struct Accepted {
    pub(super) id: u64,
    pub(super) stream: TcpStream,
    pub(super) remote: SocketAddr,
    pub(super) listener: Arc<Listener>,
}

/// Serves a connection to its end, or to the end of its grace when it is closed from outside.
pub(super) async fn run(worker: Rc<Worker>, accepted: Accepted) {
    let listener = Arc::clone(&accepted.listener);
    let _active = ActiveConnection::new(listener.stats.worker(worker.index));
    let registration = worker.registry.register(Origin::Downstream {
        listener: Arc::clone(&listener),
        chain: None,
    });
    let live = Rc::clone(registration.live());
    tokio::select! {
        biased;
        // Boxed: it is large, and what it awaits is for all connections the same.
        () = Box::pin(serve(&worker, accepted, registration)) => {}
        () = closed_for_good(&live) => {}
    }
}

async fn closed_for_good(live: &Live) {
    live.closed().await;
    tokio::time::sleep(CLOSE_GRACE).await;
}

async fn serve(worker: &Rc<Worker>, accepted: Accepted, registration: Registration) {
    let started = Instant::now();
    let Accepted {
        id,
        stream,
        remote,
        listener,
    } = accepted;
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let Some(opening) = open(worker, &listener, stream).await else {
        return;
    };
    let Some(chain) = find_chain(worker, &listener, local, remote, &opening) else {
        return;
    };
    registration.matched(&chain);
    let server_name = opening.server_name().map(Box::from);
    let Some((stream, read_ahead)) =
        secure(worker, &listener, &chain, remote, opening, registration).await
    else {
        return;
    };
    let tls = stream.session().map(TlsSession::of);
    let downstream = Downstream {
        connection: Rc::new(Connection {
            id,
            accepted: started,
            local,
            remote,
            server_name,
            listener,
            chain: Arc::clone(&chain),
            tls,
            live: Rc::clone(stream.live()),
        }),
        stream,
        read_ahead,
    };
    match &chain.terminal {
        Terminal::Tcp(proxy) => tcp::serve(worker, proxy, downstream).await,
        Terminal::Http(manager) => crate::http::serve(worker, manager, downstream).await,
    }
}

/// What the listener filters found.
enum Opening {
    Tls(PendingTls<Socket>),
    /// Plaintext, or not looked at; with the bytes that were read.
    Plain(Socket, BytesMut),
}

impl Opening {
    fn server_name(&self) -> Option<&str> {
        match self {
            Self::Tls(pending) => pending.server_name(),
            Self::Plain(..) => None,
        }
    }

    fn alpn(&self) -> &[Vec<u8>] {
        match self {
            Self::Tls(pending) => pending.alpn(),
            Self::Plain(..) => &[],
        }
    }
}

/// The listener filters, within their time.
async fn open(worker: &Worker, listener: &Listener, stream: TcpStream) -> Option<Opening> {
    let socket = Socket::Tcp(stream);
    if !listener.inspect_tls {
        return Some(Opening::Plain(socket, BytesMut::new()));
    }
    let stats = listener.stats.worker(worker.index);
    stats.downstream_pre_cx_active.inc();
    let opening = inspect_within(worker, listener, socket).await;
    stats.downstream_pre_cx_active.dec();
    opening
}

async fn inspect_within(worker: &Worker, listener: &Listener, socket: Socket) -> Option<Opening> {
    let stats = listener.stats.worker(worker.index);
    let limit = listener.inspect_timeout;
    // A server that speaks first has a client that waits for it: such a socket must come out of
    // this whole, so that the inspection proper begins with the first byte.
    let first_byte = poll_fn(|cx| socket.poll_arrived(cx));
    if limit.is_some() && worker.timers.timeout(limit, first_byte).await.is_none() {
        stats.downstream_pre_cx_timeout.inc();
        let go_on = listener.continue_on_inspect_timeout;
        return go_on.then(|| Opening::Plain(socket, BytesMut::new()));
    }
    let inspection = Box::pin(inspect(socket));
    match worker.timers.timeout(limit, inspection).await {
        Some(Ok(Inspected::Tls(pending))) => Some(Opening::Tls(pending)),
        Some(Ok(Inspected::Plain(socket, read))) => Some(Opening::Plain(socket, read)),
        Some(Err(error)) => {
            stats.downstream_listener_filter_error.inc();
            tracing::debug!(listener = %listener.name, %error, "listener filters failed");
            None
        }
        None => {
            stats.downstream_pre_cx_timeout.inc();
            None
        }
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

/// TLS, if the chain has it; from its end on the connection lives only as long as its peer is
/// trusted.
async fn secure(
    worker: &Worker,
    listener: &Listener,
    chain: &FilterChain,
    remote: SocketAddr,
    opening: Opening,
    registration: Registration,
) -> Option<(Stream, BytesMut)> {
    let Some(context) = &chain.tls else {
        let (socket, read_ahead) = match opening {
            Opening::Tls(pending) => pending.into_raw(),
            Opening::Plain(socket, read) => (socket, read),
        };
        return Some((Stream::plain(socket, registration), read_ahead));
    };
    let params = context.params();
    let validation = params.validation.as_ref();
    let stats = listener.stats.worker(worker.index);
    let limit = chain.handshake_timeout.unwrap_or(DEFAULT_HANDSHAKE_TIMEOUT);
    let handshake = Box::pin(handshake(context, listener, opening));
    let stream = match worker.timers.timeout(Some(limit), handshake).await {
        Some(Ok(stream)) => stream,
        // Port probes are no failures of TLS.
        Some(Err(HandshakeError::Io(error))) => {
            tracing::debug!(listener = %listener.name, %remote, %error, "handshake broke off");
            return None;
        }
        Some(Err(error)) => {
            tls_stats::count_failure(&stats.ssl, &error);
            log_failure(worker, listener, chain, remote, &error);
            return None;
        }
        None => {
            stats.downstream_cx_transport_socket_connect_timeout.inc();
            return None;
        }
    };
    tls_stats::count_handshake(&stats.ssl, &stream);
    registration.authorise(Authority {
        trust: Trust {
            validation: validation.cloned(),
            identity: Some(Arc::clone(&params.identity)),
        },
        peer: stream.peer().cloned(),
        role: Role::Client,
        epochs: stream.epochs(),
    });
    Some((Stream::tls(stream, registration), BytesMut::new()))
}

async fn handshake(
    context: &ServerContext,
    listener: &Listener,
    opening: Opening,
) -> Result<TlsStream<Socket>, HandshakeError> {
    let opening = match opening {
        // Nobody has looked yet.
        Opening::Plain(socket, _) if !listener.inspect_tls => match inspect(socket).await? {
            Inspected::Tls(pending) => Opening::Tls(pending),
            Inspected::Plain(socket, read) => Opening::Plain(socket, read),
        },
        looked => looked,
    };
    match opening {
        Opening::Tls(pending) => pending.accept(context).await,
        Opening::Plain(_, read) if read.is_empty() => {
            let kind = std::io::ErrorKind::UnexpectedEof;
            Err(std::io::Error::new(kind, "the client left without a word").into())
        }
        Opening::Plain(..) => Err(HandshakeError::Protocol("not a tls client".into())),
    }
}

/// One line for each refused client, with what refused it.
fn log_failure(
    worker: &Worker,
    listener: &Listener,
    chain: &FilterChain,
    remote: SocketAddr,
    error: &HandshakeError,
) {
    let Some(suppressed) = worker.log.admit() else {
        return;
    };
    let refusal = match error {
        HandshakeError::Refused(refusal) => Some(refusal),
        _ => None,
    };
    tracing::warn!(
        listener = %listener.name,
        chain = %chain.name,
        %remote,
        peer = refusal.and_then(|it| it.peer.as_deref()),
        bundle = refusal.and_then(|it| it.bundle.as_ref()).map(tracing::field::display),
        rule = refusal.map(|refusal| refusal.rule),
        suppressed,
        "downstream tls handshake failed: {error}",
    );
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
