//! Opening a connection to an endpoint: socket, TLS, accounting.

use std::{
    cell::{Cell, OnceCell},
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use ithildin_tls::{ClientContext, HandshakeError, is_dns_name, verify::Role};
use smallvec::SmallVec;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream, UnixStream},
};

use super::{
    FailureKind,
    carried::Source,
    cluster::Context,
    eyeballs,
    failure::{UpstreamFailure, system_text},
    hosts::Host,
    key::{PoolKey, Protocol},
    pool::Usage,
};
use crate::{
    config::{
        Cluster,
        cluster::{Endpoint, EndpointAddress, Transport, TransportSocket},
    },
    io::{Authority, Live, Origin, Registration, Socket, Stream, Trust, tls_stats},
    proxy_protocol,
    stats::{ClusterBlock, milliseconds},
    tls_session::TlsSession,
};

/// A connection that is open.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) stream: Stream,
    pub(super) count: ConnectionCount,
}

impl Connected {
    /// Whether the host chose HTTP/2 by ALPN.
    pub(super) fn speaks_http2(&self) -> bool {
        let session = self.stream.session();
        session.and_then(|tls| tls.alpn()) == Some(b"h2")
    }

    fn is_established(&self, asked: Protocol) {
        let Self { stream, count } = self;
        // Both are set here alone, once.
        let _ = count.live.set(Rc::clone(stream.live()));
        let _ = count.link.set(Rc::new(Link {
            local: stream.local(),
            tls: stream.session().map(TlsSession::of),
        }));
        if asked == Protocol::Auto {
            count.speaks(match self.speaks_http2() {
                true => Protocol::Http2,
                false => Protocol::Http1,
            });
        }
    }
}

/// What is known of an established connection, for logs.
#[derive(Debug)]
pub struct Link {
    /// Our address; `None` for a Unix socket.
    pub local: Option<SocketAddr>,
    pub tls: Option<TlsSession>,
}

/// Connects to `host` as `key` says, within the cluster's connect timeout: TLS included.
pub(super) async fn connect(
    context: &Rc<Context>,
    host: &Rc<Host>,
    key: &PoolKey,
    usage: &Rc<Usage>,
) -> Result<Connected, UpstreamFailure> {
    let count = ConnectionCount::new(context, host, usage);
    count.speaks(key.protocol);
    let limit = Some(context.cluster.connect_timeout);
    let established = establish(context, host, key);
    let result = context.home.timers.timeout(limit, established).await;
    let stats = context.stats();
    let failure = match result {
        Some(Ok(stream)) => {
            stats
                .upstream_cx_connect_ms
                .record(milliseconds(count.opened));
            let connected = Connected { stream, count };
            connected.is_established(key.protocol);
            return Ok(connected);
        }
        Some(Err(failure)) => failure,
        None => {
            stats.upstream_cx_connect_timeout.inc();
            let kind = FailureKind::ConnectionTimeout;
            UpstreamFailure::new(kind, &host.endpoint, None)
        }
    };
    let of_peer = failure.kind == FailureKind::RemoteConnectionFailure;
    count.ended_by_peer.set(of_peer);
    stats.upstream_cx_connect_fail.inc();
    host.stats(context).cx_connect_fail.inc();
    Err(failure)
}

async fn establish(
    context: &Context,
    host: &Host,
    key: &PoolKey,
) -> Result<Stream, UpstreamFailure> {
    let cluster = &context.cluster;
    let failed = |(kind, reason)| UpstreamFailure::new(kind, &host.endpoint, Some(reason));
    let Some(TransportSocket {
        transport,
        proxy_protocol,
    }) = cluster.transport.0.get(key.transport)
    else {
        let reason = format!("endpoint has no transport socket {}", key.transport);
        return Err(failed((FailureKind::LocalConnectionFailure, reason)));
    };
    let source = key.carried.and_then(|carried| carried.source);
    let mut socket = open_socket(cluster, &host.endpoint, source)
        .await
        .map_err(failed)?;
    if let Some(version) = proxy_protocol {
        Box::pin(introduce(*version, key, &mut socket))
            .await
            .map_err(failed)?;
    }
    let origin = Origin::Upstream(Arc::clone(cluster));
    let registration = context.home.registry.register(origin);
    match transport {
        Transport::Plaintext => Ok(Stream::plain(socket, registration)),
        Transport::Tls { context: tls, sni } => {
            // What a client asks for must be a DNS name; a configuration may name anything.
            let foreign = key
                .server_name
                .as_deref()
                .filter(|it| Some(*it) != sni.as_deref());
            let secured = match foreign.filter(|name| !is_dns_name(name)) {
                None => secure(tls, socket, registration, key).await,
                Some(name) => Err(HandshakeError::Protocol(format!(
                    "the SNI {name:?} is not a DNS name"
                ))),
            };
            let stream = secured.map_err(|error| refused(context, host, &error))?;
            if let Some(session) = stream.session() {
                tls_stats::count_handshake(&context.stats().ssl, session);
            }
            Ok(stream)
        }
    }
}

/// Says whose connection it is, before anything else.
async fn introduce(
    version: proxy_protocol::Version,
    key: &PoolKey,
    socket: &mut Socket,
) -> Result<(), SocketFailure> {
    let ends = key.carried.and_then(|carried| carried.ends);
    let header = proxy_protocol::write(version, ends);
    socket.write_all(&header).await.map_err(|error| {
        let reason = format!("cannot write the PROXY header: {}", system_text(&error));
        (FailureKind::RemoteConnectionFailure, reason)
    })
}

/// The TLS handshake; from its end on the connection lives only as long as its peer is trusted.
async fn secure(
    tls: &ClientContext,
    socket: Socket,
    registration: Registration,
    key: &PoolKey,
) -> Result<Stream, HandshakeError> {
    let params = tls.params();
    let trust = Trust {
        validation: Some(Arc::clone(&params.validation)),
        identity: params.identity.clone(),
    };
    let chosen: Option<SmallVec<[&[u8]; 4]>> = key
        .alpn
        .as_ref()
        .map(|alpn| alpn.iter().map(|protocol| &**protocol).collect());
    let alpn = match (params.alpn.is_empty(), key.protocol) {
        _ if chosen.is_some() => chosen.as_deref(),
        // As Envoy: the protocol decides where the configuration does not.
        (true, Protocol::Http1) => Some(&[&b"http/1.1"[..]][..]),
        (true, Protocol::Http2) => Some(&[&b"h2"[..]][..]),
        (true, Protocol::Auto) => Some(&[&b"h2"[..], &b"http/1.1"[..]][..]),
        (true, Protocol::Tcp) | (false, _) => None,
    };
    let server_name = key.server_name.as_deref();
    let stream = tls.connect(socket, server_name, alpn).await?;
    registration.authorise(Authority {
        trust,
        peer: stream.peer().cloned(),
        role: Role::Server,
        epochs: stream.epochs(),
    });
    Ok(Stream::tls(stream, registration))
}

fn refused(context: &Context, host: &Host, error: &HandshakeError) -> UpstreamFailure {
    tls_stats::count_failure(&context.stats().ssl, error);
    let refusal = match error {
        HandshakeError::Refused(refusal) => Some(refusal),
        _ => None,
    };
    if let Some(suppressed) = context.home.log.admit() {
        tracing::warn!(
            cluster = %context.cluster.name,
            endpoint = %host.endpoint.address,
            peer = refusal.and_then(|it| it.peer.as_deref()),
            bundle = refusal.and_then(|it| it.bundle.as_ref()).map(tracing::field::display),
            rule = refusal.map(|refusal| refusal.rule),
            suppressed,
            "upstream tls handshake failed: {error}",
        );
    }
    let kind = FailureKind::RemoteConnectionFailure;
    UpstreamFailure::new(kind, &host.endpoint, Some(format!("TLS_error: {error}")))
}

pub(super) type SocketFailure = (FailureKind, String);

async fn open_socket(
    cluster: &Cluster,
    endpoint: &Endpoint,
    source: Option<Source>,
) -> Result<Socket, SocketFailure> {
    match &endpoint.address {
        EndpointAddress::Socket(address) => {
            let stream = match endpoint.more.is_empty() {
                true => open_tcp(cluster, *address, source).await?,
                false => {
                    Box::pin(eyeballs::open(cluster, source, *address, &endpoint.more)).await?
                }
            };
            // Only latency is lost where it fails.
            let _ = stream.set_nodelay(true);
            set_keepalive(cluster, &stream);
            Ok(Socket::Tcp(stream))
        }
        EndpointAddress::Pipe(path) => {
            let stream = UnixStream::connect(path).await.map_err(|error| {
                let reason = format!("immediate connect error: {}", system_text(&error));
                (FailureKind::RemoteConnectionFailure, reason)
            })?;
            Ok(Socket::Unix(stream))
        }
    }
}

pub(super) async fn open_tcp(
    cluster: &Cluster,
    address: SocketAddr,
    source: Option<Source>,
) -> Result<TcpStream, SocketFailure> {
    let socket = new_tcp_socket(cluster, address, source).map_err(|error| {
        let reason = format!("failed to open a socket: {}", system_text(&error));
        (FailureKind::LocalConnectionFailure, reason)
    })?;
    socket.connect(address).await.map_err(|error| {
        let reason = format!("delayed connect error: {}", system_text(&error));
        (FailureKind::RemoteConnectionFailure, reason)
    })
}

fn new_tcp_socket(
    cluster: &Cluster,
    address: SocketAddr,
    source: Option<Source>,
) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    if let Some(source) = source.filter(|source| source.ip.is_ipv4() == address.is_ipv4()) {
        bind_foreign(&socket, source)?;
        return Ok(socket);
    }
    let same_family = |bind: &&SocketAddr| bind.is_ipv4() == address.is_ipv4();
    if let Some(bind) = cluster.bind.iter().find(same_family) {
        socket.bind(*bind)?;
    }
    Ok(socket)
}

/// Gives `socket` an address that may be no address of ours. Needs CAP_NET_ADMIN, as Envoy does.
fn bind_foreign(socket: &TcpSocket, source: Source) -> io::Result<()> {
    let options = SockRef::from(socket);
    match source.ip {
        IpAddr::V4(_) => options.set_ip_transparent_v4(true)?,
        IpAddr::V6(_) => options.set_ip_transparent_v6(true)?,
    }
    if source.mark != 0 {
        options.set_mark(source.mark)?;
    }
    socket.bind(SocketAddr::new(source.ip, 0))
}

fn set_keepalive(cluster: &Cluster, stream: &TcpStream) {
    let Some(configured) = cluster.keepalive else {
        return;
    };
    let mut keepalive = TcpKeepalive::new();
    if let Some(time) = configured.time {
        keepalive = keepalive.with_time(time);
    }
    if let Some(interval) = configured.interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(probes) = configured.probes {
        keepalive = keepalive.with_retries(probes);
    }
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, cluster = %cluster.name, "cannot set tcp keepalive");
    }
}

/// Counts one connection, from the attempt to its end.
#[derive(Debug)]
pub(super) struct ConnectionCount {
    context: Rc<Context>,
    host: Rc<Host>,
    usage: Rc<Usage>,
    /// Once it is established, its end makes room for another; whoever failed to connect says so
    /// itself.
    live: OnceCell<Rc<Live>>,
    link: OnceCell<Rc<Link>>,
    opened: Instant,
    requests: Cell<u32>,
    /// Requests that are under way.
    active: Cell<u32>,
    /// It was the peer who did not let it come about.
    ended_by_peer: Cell<bool>,
}

impl ConnectionCount {
    fn new(context: &Rc<Context>, host: &Rc<Host>, usage: &Rc<Usage>) -> Self {
        let stats = context.stats();
        stats.upstream_cx_total.inc();
        stats.upstream_cx_active.inc();
        let endpoint = host.stats(context);
        endpoint.cx_total.inc();
        endpoint.cx_active.inc();
        usage.connections.set(usage.connections.get() + 1);
        Self {
            context: Rc::clone(context),
            host: Rc::clone(host),
            usage: Rc::clone(usage),
            live: OnceCell::new(),
            link: OnceCell::new(),
            opened: Instant::now(),
            requests: Cell::new(0),
            active: Cell::new(0),
            ended_by_peer: Cell::new(false),
        }
    }

    pub(super) fn host(&self) -> &Rc<Host> {
        &self.host
    }

    pub(super) fn stats(&self) -> &ClusterBlock {
        self.context.stats()
    }

    pub(super) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// The connection, once it is established.
    pub(super) fn link(&self) -> Option<&Rc<Link>> {
        self.link.get()
    }

    /// Requests that the connection carried so far.
    pub(super) fn requests(&self) -> u32 {
        self.requests.get()
    }

    /// One more request, which the cluster's `max_requests_per_connection` counts.
    pub(super) fn add_request(&self) {
        self.requests.set(self.requests.get().saturating_add(1));
        self.active.set(self.active.get().saturating_add(1));
    }

    /// What is no request, but lasts as long as the connection.
    pub(super) fn add_session(&self) {
        self.active.set(1);
    }

    /// A request has come to its end.
    pub(super) fn request_is_over(&self) {
        self.active.set(self.active.get().saturating_sub(1));
        self.count_bytes();
    }

    /// Counts what has passed since it was counted last.
    pub(super) fn count_bytes(&self) {
        if let Some(live) = self.live.get() {
            let (received, sent) = live.take_passed();
            let stats = self.stats();
            stats.upstream_cx_rx_bytes_total.add(received);
            stats.upstream_cx_tx_bytes_total.add(sent);
        }
    }

    /// Whether the connection has carried all the requests that it may.
    pub(super) fn is_spent(&self) -> bool {
        let limit = self.context.cluster.http.max_requests_per_connection;
        let spent = limit != 0 && self.requests.get() >= limit;
        if spent {
            self.stats().upstream_cx_max_requests.inc();
        }
        spent
    }

    /// Whether the connection has lived as long as it may.
    pub(super) fn is_too_old(&self) -> bool {
        let limit = self.context.cluster.http.max_connection_duration;
        limit.is_some_and(|limit| self.opened.elapsed() >= limit)
    }

    fn speaks(&self, protocol: Protocol) {
        match protocol {
            Protocol::Http1 => self.stats().upstream_cx_http1_total.inc(),
            Protocol::Http2 => self.stats().upstream_cx_http2_total.inc(),
            Protocol::Auto | Protocol::Tcp => {}
        }
    }

    fn count_end(&self) {
        let stats = self.stats();
        let is_active = self.active.get() > 0;
        let live = self.live.get();
        let of_peer = live.is_some_and(|live| live.is_ended_by_peer()) || self.ended_by_peer.get();
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        match of_peer {
            true => stats.upstream_cx_destroy_remote.inc(),
            false => stats.upstream_cx_destroy_local.inc(),
        }
        if is_active {
            stats.upstream_cx_destroy_with_active_rq.inc();
            match of_peer {
                true => stats.upstream_cx_destroy_remote_with_active_rq.inc(),
                false => stats.upstream_cx_destroy_local_with_active_rq.inc(),
            }
        } else if !of_peer && self.is_too_old() {
            stats.upstream_cx_max_duration_reached.inc();
        }
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.count_bytes();
        self.count_end();
        self.host.stats(&self.context).cx_active.dec();
        self.usage.connections.set(self.usage.connections.get() - 1);
        let stats = self.stats();
        stats
            .upstream_cx_length_ms
            .record(milliseconds(self.opened));
        if self.requests.get() > 0 {
            stats.upstream_rq_per_cx.record(self.requests.get().into());
        }
        if self.live.get().is_some() {
            self.usage.wake(1);
        }
    }
}
