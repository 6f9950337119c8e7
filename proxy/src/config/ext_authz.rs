//! `envoy.filters.http.ext_authz` and `envoy.filters.network.ext_authz`, compiled.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{filters::Percent, matchers::StringMatch, route::HeaderMutations};
use crate::{
    metadata::MetadataMatch,
    stats::{ExtAuthzStats, TcpExtAuthzStats},
};

/// One HTTP filter.
#[derive(Debug)]
pub struct ExtAuthz {
    pub service: AuthzService,
    /// Whether requests pass while the service cannot be asked.
    pub failure_mode_allow: bool,
    /// Whether the upstream is told of it.
    pub failure_mode_allow_header_add: bool,
    pub status_on_error: u16,
    /// What of a request's body the service gets.
    pub body: Option<CheckBody>,
    pub clear_route_cache: bool,
    pub enabled: Percent,
    pub enabled_metadata: Option<MetadataMatch>,
    /// Whether requests that are not asked for are denied.
    pub deny_at_disable: bool,
    /// The headers that the service gets; `None`: all of them (gRPC), or the few that are always told
    /// (HTTP).
    pub allowed_headers: Option<NameMatches>,
    pub disallowed_headers: NameMatches,
    pub include_peer_certificate: bool,
    pub include_tls_session: bool,
    pub takes_metadata: bool,
    /// Bytes of a denial's body that the client gets at most.
    pub max_denied_body: Option<usize>,
    pub stats: Arc<ExtAuthzStats>,
}

/// One network filter.
#[derive(Debug)]
pub struct TcpExtAuthz {
    pub service: GrpcService,
    pub failure_mode_allow: bool,
    pub enabled_metadata: Option<MetadataMatch>,
    pub include_peer_certificate: bool,
    pub include_tls_session: bool,
    pub stats: Arc<TcpExtAuthzStats>,
}

/// Who is asked.
#[derive(Debug)]
pub enum AuthzService {
    Grpc(GrpcService),
    Http(HttpService),
}

impl AuthzService {
    /// The cluster that is asked.
    pub fn cluster(&self) -> &Arc<str> {
        match self {
            Self::Grpc(service) => &service.cluster,
            Self::Http(service) => &service.cluster,
        }
    }

    /// `None`: the service may take its time.
    pub fn timeout(&self) -> Option<Duration> {
        match self {
            Self::Grpc(service) => service.timeout,
            Self::Http(service) => service.timeout,
        }
    }
}

/// `envoy.service.auth.v3.Authorization`.
#[derive(Debug)]
pub struct GrpcService {
    pub cluster: Arc<str>,
    pub authority: Bytes,
    pub timeout: Option<Duration>,
}

/// A server that is sent the head of each request, and that answers 200 to those that may pass.
#[derive(Debug)]
pub struct HttpService {
    pub cluster: Arc<str>,
    pub timeout: Option<Duration>,
    pub path: CheckPath,
    pub headers_to_add: HeaderMutations,
    /// Of an answer that lets pass: those that replace, or go beside, the request's.
    pub upstream_headers: NameMatches,
    pub upstream_headers_to_append: NameMatches,
    /// Of a denial: those that the client gets; `None`: all.
    pub client_headers: Option<NameMatches>,
    pub client_headers_on_success: NameMatches,
    pub metadata_headers: NameMatches,
}

/// What the service is asked for.
#[derive(Debug)]
pub enum CheckPath {
    /// The request's own path behind this.
    Prefix(Box<str>),
    Override(Bytes),
}

/// `with_request_body`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckBody {
    pub max_bytes: usize,
    /// Whether the first part of a longer body will do; otherwise its request is refused.
    pub allow_partial: bool,
    pub pack_as_bytes: bool,
}

/// Matchers of lower-case header names.
#[derive(Debug, Default)]
pub struct NameMatches(pub Vec<StringMatch>);

impl NameMatches {
    pub fn admit(&self, name: &str) -> bool {
        self.0.iter().any(|it| it.admits(name.as_bytes()))
    }
}

/// What a route says (`CheckSettings`).
#[derive(Debug, Default)]
pub struct CheckSettings {
    pub context_extensions: Vec<(String, String)>,
    pub body: BodySettings,
}

/// What a route says of bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodySettings {
    #[default]
    OfFilter,
    None,
    Own(CheckBody),
}
