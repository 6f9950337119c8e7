//! The HTTP connection manager
//! (`envoy.extensions.filters.network.http_connection_manager.v3`).

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;

use super::{
    filters::{FilterKind, HttpFilter},
    route::RouteTable,
    trace::Tracing,
};
use crate::{access_log::AccessLogs, rbac::Cidr, stats::HttpStats};

/// One HTTP connection manager, compiled.
#[derive(Debug)]
pub struct HttpManager {
    pub codec: Codec,
    pub stat_prefix: Arc<str>,
    /// Inline, or by RDS: then swapped in place, and empty until the first answer.
    pub routes: Arc<ArcSwapOption<RouteTable>>,
    pub server_name: Arc<str>,
    pub server_header: ServerHeader,
    pub use_remote_address: bool,
    /// Clients that are believed more than others (`internal_address_config`).
    pub internal_addresses: Box<[Cidr]>,
    pub skip_xff_append: bool,
    pub xff_num_trusted_hops: u32,
    pub append_x_forwarded_port: bool,
    pub generate_request_id: bool,
    pub preserve_external_request_id: bool,
    pub always_set_request_id_in_response: bool,
    pub proxy_100_continue: bool,
    pub via: Option<Arc<str>>,
    pub forward_client_cert: ForwardClientCert,
    pub client_cert_details: ClientCertDetails,
    pub normalize_path: bool,
    pub merge_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
    /// Whether the fragment of an HTTP/1 target is left out, and not refused. Of HTTP/2 it always is.
    pub strips_fragment: bool,
    pub strip_any_host_port: bool,
    pub suppress_envoy_headers: bool,
    /// Upgrades that are passed on, lower-case (`websocket`, `connect`).
    pub upgrades: Vec<Arc<str>>,
    /// What is before the router, in order.
    pub filters: Vec<HttpFilter>,
    pub timeouts: HttpTimeouts,
    pub http1: Http1Options,
    pub http2: Http2Options,
    /// Largest request head, in KiB (`max_request_headers_kb`, 60).
    pub max_request_headers_kb: u32,
    /// After so many requests a connection ends.
    pub max_requests_per_connection: Option<NonZeroU32>,
    /// Most request headers (`max_headers_count`, 100).
    pub max_headers_count: u32,
    pub headers_with_underscores: UnderscoreAction,
    pub access_log: AccessLogs,
    pub tracing: Option<Box<Tracing>>,
    pub stats: Arc<HttpStats>,
}

impl HttpManager {
    /// Whether a response may have to wait for a filter.
    pub fn has_scripts(&self) -> bool {
        let is_script = |it: &HttpFilter| matches!(it.kind, FilterKind::Lua(_));
        self.filters.iter().any(is_script)
    }
}

/// Protocols that TLS offers by ALPN, the preferred first.
pub type Alpn = Arc<[Box<[u8]>]>;

/// What upstream TLS offers by ALPN, by the version of HTTP that is spoken there. `None`: what the
/// transport socket says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlpnOverrides {
    pub http10: Option<Alpn>,
    pub http11: Option<Alpn>,
    pub http2: Option<Alpn>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// HTTP/2 by ALPN or by its preface, else HTTP/1.
    Auto,
    Http1,
    Http2,
}

/// What becomes of `%2F` and `%5C` in paths (`path_with_escaped_slashes_action`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    #[default]
    Keep,
    Reject,
    /// The client is sent to the path without them.
    Redirect,
    Unescape,
}

/// `server_header_transformation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerHeader {
    Overwrite,
    AppendIfAbsent,
    PassThrough,
}

/// `forward_client_cert_details`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardClientCert {
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
}

/// `set_current_client_cert_details`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCertDetails {
    pub subject: bool,
    pub cert: bool,
    pub chain: bool,
    pub dns: bool,
    pub uri: bool,
}

/// How header names are written in HTTP/1 (`header_key_format`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderFormat {
    #[default]
    Lower,
    /// `proper_case_words`: `Content-Type`.
    ProperWords,
    /// `envoy.http.stateful_header_formatters.preserve_case`: messages that come in by this side
    /// are passed on with the names as they came. Names that did not come are in lower case, or
    /// have the case of words.
    Preserve { proper_others: bool },
}

impl HeaderFormat {
    /// Whether it matters how the names of a message came.
    pub fn keeps_names(self) -> bool {
        matches!(self, Self::Preserve { .. })
    }
}

/// `headers_with_underscores_action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnderscoreAction {
    Allow,
    RejectRequest,
    DropHeader,
}

/// `None` means no limit.
#[derive(Clone, Copy, Debug)]
pub struct HttpTimeouts {
    /// A connection without requests (`common_http_protocol_options.idle_timeout`, 1 h).
    pub idle: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    /// A stream in all, where the route does not say (`max_stream_duration`).
    pub max_stream_duration: Option<Duration>,
    /// A stream without progress (`stream_idle_timeout`, 5 min).
    pub stream_idle: Option<Duration>,
    /// A whole request to arrive (`request_timeout`).
    pub request: Option<Duration>,
    /// A request head to arrive (`request_headers_timeout`); ours is on by default.
    pub request_headers: Option<Duration>,
    /// Between GOAWAY and close (`drain_timeout`, 5 s).
    pub drain: Duration,
    /// Half-closed connections (`delayed_close_timeout`, 1 s).
    pub delayed_close: Option<Duration>,
}

#[derive(Clone, Debug, Default)]
pub struct Http1Options {
    pub accept_http_10: bool,
    /// Whether requests may have methods that Envoy's codec does not know.
    pub custom_methods: bool,
    /// The authority of HTTP/1.0 requests that name none; without it they are refused.
    pub default_host: Option<Arc<str>>,
    pub header_format: HeaderFormat,
    pub allow_absolute_url: bool,
    pub enable_trailers: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Http2Options {
    /// Clients may change protocols inside of a stream (`allow_connect`, RFC 8441).
    pub allow_connect: bool,
    pub max_concurrent_streams: u32,
    pub initial_stream_window: u32,
    pub initial_connection_window: u32,
    /// Of upstream connections alone.
    pub keepalive: Option<Http2Keepalive>,
}

/// Pings that show whether the other side is still there
/// (`envoy.config.core.v3.KeepaliveSettings`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Http2Keepalive {
    pub interval: Duration,
    /// Of the answer; then the connection is closed.
    pub timeout: Duration,
    /// Up to this share of the interval is added by chance.
    pub jitter: f64,
}
