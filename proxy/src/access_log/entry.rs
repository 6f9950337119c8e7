//! What a log line, or a header template, may print: one request, or one TCP connection.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use uuid::Uuid;

use super::ResponseFlags;
use crate::{istio::Workload, metadata::DynamicMetadata, tls_session::TlsSession};

/// One finished (or, for header templates, running) request or connection. Borrowed from whoever
/// serves it; everything that is unknown stays at its default and prints as `-`.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    pub start: SystemTime,
    pub occasion: Occasion,
    /// `None` for a TCP connection.
    pub protocol: Option<Protocol>,
    pub method: Option<&'a [u8]>,
    /// As it is now: after rewrites.
    pub path: Option<&'a [u8]>,
    pub authority: Option<&'a [u8]>,
    pub scheme: Option<&'a [u8]>,
    /// Without pseudo headers.
    pub request_headers: Option<&'a dyn Headers>,
    pub response_headers: Option<&'a dyn Headers>,
    pub response_trailers: Option<&'a dyn Headers>,
    /// `None` if no response was begun, and for a TCP connection; prints as 0.
    pub response_code: Option<u16>,
    pub flags: ResponseFlags,
    /// `via_upstream`, `route_not_found`, ...
    pub response_code_details: Option<&'a str>,
    pub connection_termination_details: Option<&'a str>,
    pub bytes: Bytes,
    pub heads: Heads,
    pub durations: Durations,
    pub route_name: Option<&'a str>,
    pub virtual_host: Option<&'a str>,
    pub filter_chain: Option<&'a str>,
    /// Tries so far, the first included; 0 if none was begun.
    pub attempts: u32,
    pub downstream: Downstream<'a>,
    pub upstream: Upstream<'a>,
    /// Who the other ends are, as they tell by Istio's metadata exchange.
    pub downstream_peer: Option<&'a Workload>,
    pub upstream_peer: Option<&'a Workload>,
    /// What filters left.
    pub metadata: Option<&'a DynamicMetadata>,
    /// Of a TCP session. A request has the id that its header tells.
    pub session_id: Option<Uuid>,
    /// The span of the request, if it has one.
    pub span: Option<SpanIds>,
}

impl Entry<'_> {
    /// An entry that knows nothing but its start.
    pub fn new(start: SystemTime) -> Self {
        Self {
            start,
            occasion: Occasion::default(),
            protocol: None,
            method: None,
            path: None,
            authority: None,
            scheme: None,
            request_headers: None,
            response_headers: None,
            response_trailers: None,
            response_code: None,
            flags: ResponseFlags::NONE,
            response_code_details: None,
            connection_termination_details: None,
            bytes: Bytes::default(),
            heads: Heads::default(),
            durations: Durations::default(),
            route_name: None,
            virtual_host: None,
            filter_chain: None,
            attempts: 0,
            downstream: Downstream::default(),
            upstream: Upstream::default(),
            downstream_peer: None,
            upstream_peer: None,
            metadata: None,
            session_id: None,
            span: None,
        }
    }
}

/// At what it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Occasion {
    /// The end of a connection, for its listener.
    #[default]
    Unspecified,
    /// The end of a session of a TCP proxy.
    SessionEnd,
    /// The end of a request.
    RequestEnd,
}

impl Occasion {
    /// `DownstreamEnd`, as Envoy has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "NotSet",
            Self::SessionEnd => "TcpConnectionEnd",
            Self::RequestEnd => "DownstreamEnd",
        }
    }
}

/// Header fields by name, whatever holds them.
pub trait Headers {
    /// The first value of `name`, which is lower-case.
    fn get(&self, name: &str) -> Option<&[u8]>;

    /// All values of `name`, which is lower-case, as one list.
    fn joined(&self, name: &str) -> Option<Vec<u8>>;
}

impl Headers for http::HeaderMap {
    fn get(&self, name: &str) -> Option<&[u8]> {
        Self::get(self, name).map(http::HeaderValue::as_bytes)
    }

    fn joined(&self, name: &str) -> Option<Vec<u8>> {
        let values: Vec<_> = self.get_all(name).iter().map(|it| it.as_bytes()).collect();
        (!values.is_empty()).then(|| values.join(&b','))
    }
}

/// `%PROTOCOL%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http10,
    Http11,
    Http2,
}

impl Protocol {
    /// `HTTP/1.1`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// What a span is known by, whether or not somebody is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanIds {
    pub trace: u128,
    pub span: u64,
    /// Whether the span is told of.
    pub sampled: bool,
    /// Whether the id of the trace has 32 digits, and not 16.
    pub wide: bool,
}

impl SpanIds {
    /// `%TRACE_ID%`.
    pub fn trace_hex(&self) -> String {
        match self.wide {
            true => format!("{:032x}", self.trace),
            false => format!("{:016x}", self.trace),
        }
    }
}

/// Bytes of bodies, or of a TCP connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bytes {
    /// From downstream (`%BYTES_RECEIVED%`).
    pub received: u64,
    /// To downstream (`%BYTES_SENT%`).
    pub sent: u64,
    /// To and from upstream, with heads and framing (`%UPSTREAM_WIRE_BYTES_SENT%` and such).
    /// `None` over HTTP/2, whose frames are not counted.
    pub upstream_sent: Option<u64>,
    pub upstream_received: Option<u64>,
    /// To and from downstream, with heads and framing (`%DOWNSTREAM_WIRE_BYTES_SENT%` and such).
    /// `None` as above.
    pub downstream_sent: Option<u64>,
    pub downstream_received: Option<u64>,
}

/// Bytes of heads, where a log asks for them ([`Needs::heads`](super::Needs)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Heads {
    /// Names and values of the request's, as it is now.
    pub request: u64,
    /// Names and values of the response's.
    pub response: u64,
    /// Fields on the wire; 0 over HTTP/2.
    pub downstream_received: u64,
    pub downstream_sent: u64,
    pub upstream_sent: u64,
    pub upstream_received: u64,
}

/// Times since [`Entry::start`]; `None` if it did not happen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Durations {
    /// To the last byte sent downstream (`%DURATION%`).
    pub total: Option<Duration>,
    /// To the last byte received from downstream (`%REQUEST_DURATION%`).
    pub request: Option<Duration>,
    /// To the first byte sent upstream.
    pub request_sending: Option<Duration>,
    /// To the last byte sent upstream (`%REQUEST_TX_DURATION%`).
    pub request_sent: Option<Duration>,
    /// To the first byte from upstream (`%RESPONSE_DURATION%`).
    pub response: Option<Duration>,
    /// To the last byte from upstream.
    pub response_received: Option<Duration>,
    /// To the first byte sent downstream.
    pub response_sending: Option<Duration>,
    /// To the last byte of the response sent downstream; `None` for one that was cut off.
    pub response_sent: Option<Duration>,
}

/// The downstream side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Downstream<'a> {
    /// The socket's peer.
    pub direct_remote: Option<SocketAddr>,
    /// The client: by `x-forwarded-for` or the PROXY protocol, else the socket's peer.
    pub remote: Option<SocketAddr>,
    /// Where the client connected to; after original destination.
    pub local: Option<SocketAddr>,
    /// SNI.
    pub server_name: Option<&'a str>,
    /// Counts the connections of this process (`%CONNECTION_ID%`).
    pub connection_id: u64,
    pub tls: Option<&'a TlsSession>,
    /// Why the TLS handshake failed, or the peer was refused
    /// (`%DOWNSTREAM_TRANSPORT_FAILURE_REASON%`).
    pub transport_failure: Option<&'a str>,
}

/// The upstream side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Upstream<'a> {
    pub cluster: Option<&'a str>,
    /// The host that was chosen (`%UPSTREAM_HOST%`); a path for a pipe.
    pub host: Option<UpstreamHost<'a>>,
    pub local: Option<SocketAddr>,
    pub protocol: Option<Protocol>,
    pub tls: Option<&'a TlsSession>,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub transport_failure: Option<&'a str>,
}

#[derive(Clone, Copy, Debug)]
pub enum UpstreamHost<'a> {
    Socket(SocketAddr),
    Pipe(&'a Path),
}
