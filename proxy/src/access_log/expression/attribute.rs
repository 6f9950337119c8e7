//! Envoy's attributes, as far as an [`Entry`] knows them.

use std::net::SocketAddr;

use super::{Entry, ExpressionError, Value};
use crate::{access_log::UpstreamHost, istio::Workload};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attribute {
    /// Lower-case.
    RequestHeader(Box<str>),
    ResponseHeader(Box<str>),
    DownstreamPeer(PeerField),
    UpstreamPeer(PeerField),
    /// A label of the peer that istiod asks proxies to tell, by `additional_labels`.
    DownstreamLabel(Box<str>),
    UpstreamLabel(Box<str>),
    Field(Field),
}

/// Declares the attributes that are known by their names alone.
macro_rules! fields {
    ($type:ident: $($field:ident = $name:literal),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $type { $($field),* }

        impl $type {
            fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$field),)*
                    _ => None,
                }
            }
        }
    };
}

fields! { Field:
    RequestPath = "request.path",
    RequestUrlPath = "request.url_path",
    RequestQuery = "request.query",
    RequestHost = "request.host",
    RequestScheme = "request.scheme",
    RequestMethod = "request.method",
    RequestReferer = "request.referer",
    RequestUserAgent = "request.useragent",
    RequestId = "request.id",
    RequestProtocol = "request.protocol",
    RequestSize = "request.size",
    ResponseCode = "response.code",
    ResponseCodeDetails = "response.code_details",
    ResponseFlags = "response.flags",
    ResponseSize = "response.size",
    SourceAddress = "source.address",
    SourcePort = "source.port",
    DestinationAddress = "destination.address",
    DestinationPort = "destination.port",
    ConnectionId = "connection.id",
    ConnectionMtls = "connection.mtls",
    ServerName = "connection.requested_server_name",
    TlsVersion = "connection.tls_version",
    SubjectPeer = "connection.subject_peer_certificate",
    UriSanPeer = "connection.uri_san_peer_certificate",
    UriSanLocal = "connection.uri_san_local_certificate",
    DnsSanPeer = "connection.dns_san_peer_certificate",
    TerminationDetails = "connection.termination_details",
    UpstreamAddress = "upstream.address",
    UpstreamPort = "upstream.port",
    UpstreamTransportFailure = "upstream.transport_failure_reason",
    UpstreamUriSanPeer = "upstream.uri_san_peer_certificate",
    ClusterName = "xds.cluster_name",
    RouteName = "xds.route_name",
    FilterChainName = "xds.filter_chain_name",
}

fields! { PeerField:
    Name = "workload",
    Namespace = "namespace",
    Cluster = "cluster",
    Instance = "name",
    CanonicalName = "service",
    CanonicalRevision = "revision",
    App = "app",
    Version = "version",
    Identity = "identity",
    Region = "region",
    Zone = "availability_zone",
}

impl Attribute {
    /// Whether it is a map, whose keys may be asked for.
    pub(super) fn is_map(path: &[String]) -> bool {
        matches!(path, [of, map] if ["request", "response"].contains(&&**of) && map == "headers")
    }

    /// Of the names and keys between its dots and brackets.
    pub(super) fn parse(path: &[String]) -> Result<Self, ExpressionError> {
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        let name = parts.join(".");
        let unknown = || ExpressionError(format!("the attribute {name} is not supported"));
        let peer = |field: &str| PeerField::parse(field).ok_or_else(unknown);
        Ok(match parts[..] {
            ["request", "headers", header] => Self::RequestHeader(lower(header)),
            ["response", "headers", header] => Self::ResponseHeader(lower(header)),
            ["downstream_peer", field] | ["filter_state", "downstream_peer", field] => {
                Self::DownstreamPeer(peer(field)?)
            }
            ["upstream_peer", field] | ["filter_state", "upstream_peer", field] => {
                Self::UpstreamPeer(peer(field)?)
            }
            ["downstream_peer", "labels", label]
            | ["filter_state", "downstream_peer", "labels", label] => {
                Self::DownstreamLabel(label.into())
            }
            ["upstream_peer", "labels", label]
            | ["filter_state", "upstream_peer", "labels", label] => {
                Self::UpstreamLabel(label.into())
            }
            _ => Self::Field(Field::parse(&name).ok_or_else(unknown)?),
        })
    }

    pub(super) fn value(&self, entry: &Entry<'_>) -> Option<Value> {
        match self {
            Self::RequestHeader(name) => text(match &**name {
                ":path" => entry.path?,
                ":method" => entry.method?,
                ":authority" | "host" => entry.authority?,
                name => entry.request_headers?.get(name)?,
            }),
            Self::ResponseHeader(name) => text(entry.response_headers?.get(name)?),
            Self::DownstreamPeer(field) => field.value(entry.downstream_peer?),
            Self::UpstreamPeer(field) => field.value(entry.upstream_peer?),
            Self::DownstreamLabel(name) => label(entry.downstream_peer?, name),
            Self::UpstreamLabel(name) => label(entry.upstream_peer?, name),
            Self::Field(field) => field.value(entry),
        }
    }
}

impl PeerField {
    fn value(self, peer: &Workload) -> Option<Value> {
        let field = match self {
            Self::Name => &peer.name,
            Self::Namespace => &peer.namespace,
            Self::Cluster => &peer.cluster,
            Self::Instance => &peer.instance,
            Self::CanonicalName => &peer.canonical_name,
            Self::CanonicalRevision => &peer.canonical_revision,
            Self::App => &peer.app,
            Self::Version => &peer.version,
            Self::Identity => &peer.identity,
            Self::Region => &peer.region,
            Self::Zone => &peer.zone,
        };
        Some(Value::Text(field.to_string()))
    }
}

impl Field {
    fn value(self, entry: &Entry<'_>) -> Option<Value> {
        let header = |name: &str| text(entry.request_headers?.get(name)?);
        let downstream = &entry.downstream;
        let peer = || downstream.tls?.peer_text();
        let upstream = || match entry.upstream.host? {
            UpstreamHost::Socket(address) => Some(address),
            UpstreamHost::Pipe(_) => None,
        };
        match self {
            Self::RequestPath => text(entry.path?),
            Self::RequestUrlPath => text(split_query(entry.path?).0),
            Self::RequestQuery => text(split_query(entry.path?).1),
            Self::RequestHost => text(entry.authority?),
            Self::RequestScheme => text(entry.scheme?),
            Self::RequestMethod => text(entry.method?),
            Self::RequestReferer => header("referer"),
            Self::RequestUserAgent => header("user-agent"),
            Self::RequestId => header("x-request-id"),
            Self::RequestProtocol => owned(entry.protocol?.as_str()),
            Self::RequestSize => number(entry.bytes.received),
            Self::ResponseCode => number(entry.response_code?),
            Self::ResponseCodeDetails => owned(entry.response_code_details?),
            Self::ResponseFlags => number(entry.flags.bits()),
            Self::ResponseSize => number(entry.bytes.sent),
            Self::SourceAddress => address(downstream.remote),
            Self::SourcePort => number(downstream.remote?.port()),
            Self::DestinationAddress => address(downstream.local),
            Self::DestinationPort => number(downstream.local?.port()),
            Self::ConnectionId => number(downstream.connection_id),
            Self::ConnectionMtls => {
                let mtls = downstream.tls.is_some_and(|tls| tls.peer.is_some());
                Some(Value::Bool(mtls))
            }
            Self::ServerName => owned(downstream.server_name?),
            Self::TlsVersion => owned(downstream.tls?.version),
            Self::SubjectPeer => owned(&peer()?.description.subject),
            Self::UriSanPeer => owned(peer()?.description.uri_sans.first()?),
            Self::DnsSanPeer => owned(peer()?.description.dns_sans.first()?),
            Self::UriSanLocal => {
                let own = downstream.tls?.own_text()?;
                owned(own.description.uri_sans.first()?)
            }
            Self::TerminationDetails => owned(entry.connection_termination_details?),
            Self::UpstreamAddress => address(upstream()),
            Self::UpstreamPort => number(upstream()?.port()),
            Self::UpstreamTransportFailure => owned(entry.upstream.transport_failure?),
            Self::UpstreamUriSanPeer => {
                let peer = entry.upstream.tls?.peer_text()?;
                owned(peer.description.uri_sans.first()?)
            }
            Self::ClusterName => owned(entry.upstream.cluster?),
            Self::RouteName => owned(entry.route_name?),
            Self::FilterChainName => owned(entry.filter_chain?),
        }
    }
}

fn label(peer: &Workload, name: &str) -> Option<Value> {
    let found = peer.labels.iter().find(|(label, _)| **label == *name);
    found.and_then(|(_, value)| owned(value))
}

fn lower(name: &str) -> Box<str> {
    name.to_ascii_lowercase().into()
}

fn text(bytes: &[u8]) -> Option<Value> {
    Some(Value::Text(String::from_utf8_lossy(bytes).into_owned()))
}

fn owned(text: &str) -> Option<Value> {
    Some(Value::Text(text.to_owned()))
}

fn number(number: impl Into<u64>) -> Option<Value> {
    Some(Value::Int(i64::try_from(number.into()).unwrap_or(i64::MAX)))
}

fn address(address: Option<SocketAddr>) -> Option<Value> {
    Some(Value::Text(address?.to_string()))
}

/// The path, and the query without its mark.
fn split_query(path: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'?', path) {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, b""),
    }
}
