//! `envoy.filters.http.ratelimit`, compiled: a service says which requests are too many.

use std::sync::Arc;

use super::{
    ext_authz::GrpcService,
    filters::Percent,
    limit_rules::{HostRules, LimitRule},
    route::HeaderMutations,
};

/// One filter.
#[derive(Debug)]
pub struct LimitService {
    /// Its timeout is the filter's.
    pub service: GrpcService,
    pub domain: Box<str>,
    pub stage: u32,
    pub concerns: Concerns,
    /// In place of those of routes, unless it is empty.
    pub rules: Vec<LimitRule>,
    /// Which requests are asked about.
    pub enabled: Percent,
    /// Which of those beyond a limit are refused.
    pub enforced: Percent,
    /// Which are refused while the service cannot be asked.
    pub denied_on_error: Percent,
    /// From 400 on.
    pub status: u16,
    pub status_on_error: u16,
    pub rate_limited_as_resource_exhausted: bool,
    /// `x-envoy-ratelimited` tells that a request was refused here.
    pub tells_limited: bool,
    /// `x-ratelimit-limit`, `-remaining` and `-reset`.
    pub tells_limits: bool,
    /// `retry-after`.
    pub tells_reset: bool,
    pub response_headers_to_add: HeaderMutations,
    /// Where the service's metadata goes.
    pub namespace: Box<str>,
    /// The cluster that this proxy belongs to.
    pub own_cluster: Arc<str>,
}

/// `request_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concerns {
    Internal,
    External,
    Both,
}

/// What a route says (`RateLimitPerRoute`).
#[derive(Debug)]
pub struct LimitServiceRoute {
    pub host_rules: HostRules,
    /// In place of all others, unless it is empty.
    pub rules: Vec<LimitRule>,
    pub domain: Option<Box<str>>,
}
