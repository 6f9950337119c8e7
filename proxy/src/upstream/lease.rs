//! A connection on loan: to one request, or to one TCP session.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;

use super::{
    connect::{Connected, ConnectionCount, Link},
    http1::IdleConnection,
    http2::SharedConnection,
    limits::RequestPermit,
    pool::Pool,
};
use crate::{
    config::{Cluster, cluster::Endpoint, http::HeaderFormat},
    io::Stream,
};

/// An upstream connection for one HTTP request. Dropping it closes the connection (HTTP/1) or
/// frees the stream (HTTP/2).
#[derive(Debug)]
pub enum HttpLease {
    Http1(Http1Lease),
    Http2(Http2Lease),
}

impl HttpLease {
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        match self {
            Self::Http1(lease) => lease.endpoint(),
            Self::Http2(lease) => lease.permit.endpoint(),
        }
    }
}

/// An HTTP/1 connection, whole.
#[derive(Debug)]
pub struct Http1Lease {
    pub stream: Stream,
    /// What was read beyond the last response. Empty on a fresh lease.
    pub leftover: BytesMut,
    /// Whether the connection carried a request before: its first read or write may then find it
    /// closed, which is worth a retry on another.
    pub reused: bool,
    count: ConnectionCount,
    request: RequestPermit,
    pool: Rc<Pool>,
}

impl Http1Lease {
    pub(super) fn new(connection: IdleConnection, request: RequestPermit, pool: &Rc<Pool>) -> Self {
        let count = connection.count;
        let reused = count.requests() > 0;
        count.add_request();
        Self {
            stream: connection.stream,
            leftover: BytesMut::new(),
            reused,
            count,
            request,
            pool: Rc::clone(pool),
        }
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.request.host().endpoint
    }

    /// How the names of headers are to be written, and read.
    pub fn header_format(&self) -> HeaderFormat {
        self.pool.context.cluster.http.header_format
    }

    /// The connection, for logs.
    pub fn link(&self) -> Option<&Rc<Link>> {
        self.count.link()
    }

    /// Our address; `None` for a Unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        self.link()?.local
    }

    /// Returns the connection for the next request; only after a whole response on a persistent
    /// connection. One with bytes left over is closed: they belong to no request of ours.
    pub fn give_back(self) {
        self.count.request_is_over();
        if self.leftover.is_empty() {
            self.pool.give_back(self.stream, self.count);
        }
    }

    /// Closes the connection after a whole response.
    pub fn close(self) {
        self.count.request_is_over();
    }
}

/// A place on a shared HTTP/2 connection.
#[derive(Debug)]
pub struct Http2Lease {
    /// Ready to send one request.
    pub send: SendRequest<Bytes>,
    /// To be kept until the stream is over in both directions.
    pub permit: StreamPermit,
}

/// Counts one stream on its connection, and one request on its cluster and endpoint.
#[derive(Debug)]
pub struct StreamPermit {
    connection: Rc<SharedConnection>,
    request: RequestPermit,
}

impl Http2Lease {
    /// Whether the peer changes protocols inside of a stream (RFC 8441, section 3).
    pub async fn takes_extended_connect(&self) -> bool {
        if !self.send.is_extended_connect_protocol_enabled() {
            self.permit.connection.settled().await;
        }
        self.send.is_extended_connect_protocol_enabled()
    }
}

impl StreamPermit {
    /// Counts the stream that `connection` has admitted.
    pub(super) fn new(connection: Rc<SharedConnection>, request: RequestPermit) -> Self {
        Self {
            connection,
            request,
        }
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.request.host().endpoint
    }

    /// The connection, for logs.
    pub fn link(&self) -> Option<&Rc<Link>> {
        self.connection.link()
    }

    /// Our address; `None` for a Unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        self.link()?.local
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.connection.release();
    }
}

/// A connection of its own for one TCP session, or a tunnel through a proxy.
#[derive(Debug)]
pub struct TcpLease {
    pub stream: Stream,
    /// What the upstream sent with the proxy's answer.
    pub read_ahead: BytesMut,
    cluster: Arc<Cluster>,
    carrier: Carrier,
}

/// What counts the session.
#[derive(Debug)]
enum Carrier {
    Connection(ConnectionCount, RequestPermit),
    Http2(StreamPermit),
}

impl TcpLease {
    /// The cluster that the connection belongs to.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    pub(super) fn new(
        connected: Connected,
        request: RequestPermit,
        cluster: &Arc<Cluster>,
    ) -> Self {
        connected.count.add_session();
        Self {
            cluster: Arc::clone(cluster),
            stream: connected.stream,
            read_ahead: BytesMut::new(),
            carrier: Carrier::Connection(connected.count, request),
        }
    }

    /// A whole HTTP/1 connection, which is a tunnel from here on; `enter` makes its stream the
    /// session's, with what was read ahead.
    pub(super) fn over_http1(
        lease: Http1Lease,
        cluster: &Arc<Cluster>,
        enter: impl FnOnce(Stream) -> (Stream, BytesMut),
    ) -> Self {
        let (stream, read_ahead) = enter(lease.stream);
        Self {
            stream,
            read_ahead,
            cluster: Arc::clone(cluster),
            carrier: Carrier::Connection(lease.count, lease.request),
        }
    }

    /// One stream of a shared HTTP/2 connection.
    pub(super) fn over_http2(stream: Stream, cluster: &Arc<Cluster>, permit: StreamPermit) -> Self {
        Self {
            stream,
            read_ahead: BytesMut::new(),
            cluster: Arc::clone(cluster),
            carrier: Carrier::Http2(permit),
        }
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        match &self.carrier {
            Carrier::Connection(_, request) => &request.host().endpoint,
            Carrier::Http2(permit) => permit.endpoint(),
        }
    }

    /// The connection, for logs.
    pub fn link(&self) -> Option<&Rc<Link>> {
        match &self.carrier {
            Carrier::Connection(count, _) => count.link(),
            Carrier::Http2(permit) => permit.link(),
        }
    }

    /// Our address; `None` for a Unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        self.link()?.local
    }

    /// Counts what has passed on the connection since it was counted last.
    pub fn count_bytes(&self) {
        match &self.carrier {
            Carrier::Connection(count, _) => count.count_bytes(),
            Carrier::Http2(permit) => permit.connection.count_bytes(),
        }
    }
}
