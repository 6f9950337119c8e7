//! `envoy.filters.http.jwt_authn`, compiled: whose tokens count, where they stand, and which
//! requests need one.

use std::sync::Arc;

use http::HeaderName;

use super::{
    jwt_keys::{JwtKeys, RemoteKeys},
    matchers::StringMatch,
    route::RouteMatch,
};
use crate::stats::JwtStats;

/// One filter.
#[derive(Debug)]
pub struct JwtAuthn {
    /// By name.
    pub providers: Vec<JwtProvider>,
    /// The first that matches decides; without one nothing is required.
    pub rules: Vec<JwtRule>,
    /// `requirement_map`: what routes name.
    pub named: Vec<(Box<str>, Requirement)>,
    pub bypass_cors_preflight: bool,
    pub strip_failure_response: bool,
    /// Only this filter says what is in them: no client's word passes.
    pub own_headers: Vec<HeaderName>,
    pub stats: Arc<JwtStats>,
}

impl JwtAuthn {
    /// Keys that are fetched.
    pub fn remote_keys(&self) -> impl Iterator<Item = &Arc<RemoteKeys>> {
        self.providers.iter().filter_map(|it| match &it.keys {
            JwtKeys::Remote(keys) => Some(keys),
            JwtKeys::Local(_) => None,
        })
    }
}

#[derive(Debug)]
pub struct JwtRule {
    pub matches: RouteMatch,
    /// `None`: nothing is required.
    pub requirement: Option<Requirement>,
}

/// What a request must show. Providers are indices of [`JwtAuthn::providers`].
#[derive(Debug)]
pub enum Requirement {
    Provider {
        provider: usize,
        /// In place of the provider's.
        audiences: Option<Audiences>,
    },
    Any(Vec<Self>, Leniency),
    All(Vec<Self>),
    /// A token of any provider, which may be missing.
    Optional {
        /// Where one is looked for.
        locations: Locations,
        /// `allow_missing_or_failed`: what is not valid counts for nothing.
        allow_failed: bool,
    },
}

/// What suffices where none of several requirements is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leniency {
    None,
    /// `allow_missing`: that there is no token.
    Missing,
    /// `allow_missing_or_failed`.
    MissingOrFailed,
}

/// Who issues tokens, and what becomes of them.
#[derive(Debug)]
pub struct JwtProvider {
    /// Empty: anybody.
    pub issuer: Box<str>,
    pub audiences: Audiences,
    pub subjects: Option<StringMatch>,
    pub require_expiration: bool,
    /// Longest time that a token may still have, in seconds.
    pub max_lifetime: Option<u64>,
    /// In seconds.
    pub clock_skew: u64,
    pub keys: JwtKeys,
    pub locations: Locations,
    /// A token is passed on to the upstream.
    pub forward: bool,
    pub forward_payload_header: Option<HeaderName>,
    pub pad_forward_payload_header: bool,
    pub claim_to_headers: Vec<ClaimHeader>,
    /// Keys in dynamic metadata.
    pub payload_in_metadata: Option<Box<str>>,
    pub header_in_metadata: Option<Box<str>>,
    pub failed_status_in_metadata: Option<Box<str>>,
    /// Claims that are lists in metadata.
    pub space_delimited_claims: Vec<Box<str>>,
    /// What a token says may choose another route.
    pub clear_route_cache: bool,
}

#[derive(Debug)]
pub struct ClaimHeader {
    pub header: HeaderName,
    pub path: Vec<Box<str>>,
}

/// Those that a token may be for, in their plain form. Empty: any.
#[derive(Debug, Default)]
pub struct Audiences(Vec<Box<str>>);

impl Audiences {
    pub fn new(audiences: &[String]) -> Self {
        let plain = audiences.iter().map(|it| plain_audience(it).into());
        Self(plain.collect())
    }

    pub fn admit<'a>(&self, mut audiences: impl Iterator<Item = &'a str>) -> bool {
        self.0.is_empty()
            || audiences.any(|it| {
                let it = plain_audience(it);
                self.0.iter().any(|known| **known == *it)
            })
    }
}

/// Without scheme and last slash, as Envoy compares them.
fn plain_audience(audience: &str) -> &str {
    let scheme = ["http://", "https://"];
    let mut bare = scheme.iter().filter_map(|it| audience.strip_prefix(it));
    let bare = bare.next().unwrap_or(audience);
    bare.strip_suffix('/').unwrap_or(bare)
}

/// Places of a request where tokens stand, in the order in which Envoy collects them.
#[derive(Debug, Default)]
pub struct Locations {
    pub headers: Vec<HeaderLocation>,
    /// Of the query.
    pub parameters: Vec<NamedLocation>,
    pub cookies: Vec<NamedLocation>,
}

#[derive(Debug)]
pub struct HeaderLocation {
    pub header: HeaderName,
    /// What is before the token.
    pub prefix: Box<str>,
    pub issuers: Issuers,
}

#[derive(Debug)]
pub struct NamedLocation {
    pub name: Box<str>,
    pub issuers: Issuers,
}

/// Whose tokens may stand at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuers(Vec<Box<str>>);

impl Issuers {
    pub fn new(issuers: Vec<Box<str>>) -> Self {
        Self(issuers)
    }

    pub fn admit(&self, issuer: &str) -> bool {
        self.0.iter().any(|it| it.is_empty() || **it == *issuer)
    }
}

/// What a route says of the filter (`PerRouteConfig`).
#[derive(Debug)]
pub enum JwtOverride {
    Disabled,
    /// One of [`JwtAuthn::named`].
    Requirement(Box<str>),
}
