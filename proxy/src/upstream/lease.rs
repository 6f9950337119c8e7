//! A connection on loan: to one request, or to one TCP session.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;

use crate::{config::cluster::Endpoint, io::Stream};

/// An upstream connection for one HTTP request. Dropping it closes the connection (HTTP/1) or
/// frees the stream (HTTP/2).
#[derive(Debug)]
pub enum HttpLease {
    Http1(Http1Lease),
    Http2(Http2Lease),
}

/// An HTTP/1 connection, whole.
#[derive(Debug)]
pub struct Http1Lease {
    pub stream: Stream,
    /// What was read beyond the last response. Empty on a fresh lease; `give_back` drops a
    /// connection on which it is not.
    pub leftover: BytesMut,
    pub endpoint: Arc<Endpoint>,
    /// Whether the connection carried a request before: its first read or write may then find it
    /// closed, which is worth a retry on another.
    pub reused: bool,
    /// Our address; `None` for a Unix socket.
    pub local: Option<SocketAddr>,
}

impl Http1Lease {
    /// Returns the connection for the next request. Only after a whole response on a persistent
    /// connection.
    pub fn give_back(self) {
        todo!()
    }
}

/// A place on a shared HTTP/2 connection, ready to send.
#[derive(Debug)]
pub struct Http2Lease {
    pub send: SendRequest<Bytes>,
    /// Keep it until the stream is over in both directions.
    pub permit: StreamPermit,
    pub endpoint: Arc<Endpoint>,
    pub local: Option<SocketAddr>,
}

/// Counts one stream on its connection, and one request on its cluster and endpoint.
#[derive(Debug)]
pub struct StreamPermit {}

/// A connection of its own for one TCP session.
#[derive(Debug)]
pub struct TcpLease {
    pub stream: Stream,
    pub endpoint: Arc<Endpoint>,
    pub local: Option<SocketAddr>,
}
