//! Route tables (`envoy.config.route.v3`).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, StatusCode};
use regex::bytes::Regex;

use super::{
    Map,
    filters::{FilterOverrides, Percent},
    hash_policy::HashPolicy,
    limit_rules::LimitRule,
    matchers::{HeaderMatch, QueryMatch},
    trace::{Decorator, RouteTracing},
};
use crate::{access_log::Template, metadata::MetadataMatch};

/// One route configuration, compiled.
#[derive(Debug)]
pub struct RouteTable {
    pub name: Arc<str>,
    pub ignore_port_in_host_matching: bool,
    /// Lower-case exact domain -> virtual host.
    pub exact: Map<Box<str>, usize>,
    /// `*suffix` without the star.
    pub suffixes: Wildcards,
    /// `prefix*` without the star.
    pub prefixes: Wildcards,
    /// The domain `*`.
    pub any: Option<usize>,
    pub hosts: Vec<VirtualHost>,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    pub filters: FilterOverrides,
}

/// Domains with a star at one end, lower-case and without it -> virtual host.
#[derive(Debug, Default)]
pub struct Wildcards {
    /// By length, longest first.
    by_length: Vec<(usize, Map<Box<str>, usize>)>,
}

impl Wildcards {
    /// The virtual host that has `text` already, if there is one; then nothing changes.
    pub fn insert(&mut self, text: &str, host: usize) -> Option<usize> {
        let at = self
            .by_length
            .binary_search_by(|(length, _)| text.len().cmp(length))
            .unwrap_or_else(|at| {
                self.by_length.insert(at, (text.len(), Map::default()));
                at
            });
        let (_, domains) = &mut self.by_length[at];
        let previous = domains.get(text).copied();
        if previous.is_none() {
            domains.insert(text.into(), host);
        }
        previous
    }

    /// The virtual host of the longest domain that is `part` of a name, given a length.
    pub fn longest<'n>(&self, part: impl Fn(usize) -> Option<&'n str>) -> Option<usize> {
        self.by_length
            .iter()
            .find_map(|(length, domains)| domains.get(part(*length)?).copied())
    }
}

#[derive(Debug)]
pub struct VirtualHost {
    pub name: Arc<str>,
    /// `require_tls: ALL`: plaintext requests are redirected with 301.
    pub require_tls: bool,
    pub include_request_attempt_count: bool,
    pub include_attempt_count_in_response: bool,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    pub filters: FilterOverrides,
    /// For filters that limit rates.
    pub limits: Box<[LimitRule]>,
    pub routes: Vec<Arc<Route>>,
}

#[derive(Debug)]
pub struct Route {
    pub name: Arc<str>,
    pub matches: RouteMatch,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    pub filters: FilterOverrides,
    /// For filters that ask for it, by their names.
    pub metadata: Option<Box<serde_json::Map<String, serde_json::Value>>>,
    pub decorator: Option<Box<Decorator>>,
    pub tracing: Option<Box<RouteTracing>>,
    pub action: RouteAction,
}

#[derive(Debug)]
pub struct RouteMatch {
    pub path: PathMatch,
    pub case_sensitive: bool,
    pub headers: Vec<HeaderMatch>,
    pub query: Vec<QueryMatch>,
    pub grpc_only: bool,
    /// What filters left.
    pub metadata: Vec<MetadataMatch>,
}

#[derive(Debug)]
pub enum PathMatch {
    Prefix(Box<str>),
    /// Prefix that ends at a slash or at the end (`path_separated_prefix`).
    SeparatedPrefix(Box<str>),
    Exact(Box<str>),
    /// Anchored at both ends; on the path without its query.
    Regex(Regex),
    /// CONNECT requests.
    Connect,
}

#[derive(Debug)]
pub enum RouteAction {
    Forward(Box<Forward>),
    Redirect(Box<Redirect>),
    Direct { status: StatusCode, body: Bytes },
}

impl Route {
    /// One of the clusters that a request is distributed over.
    pub fn weighted_cluster(&self, index: usize) -> Option<&WeightedCluster> {
        match &self.action {
            RouteAction::Forward(forward) => match &forward.clusters {
                Clusters::Weighted { entries, .. } => entries.get(index),
                Clusters::One(_) | Clusters::Header(_) => None,
            },
            RouteAction::Redirect(_) | RouteAction::Direct { .. } => None,
        }
    }
}

/// Send the request to a cluster.
#[derive(Debug)]
pub struct Forward {
    pub clusters: Clusters,
    /// Answer when the cluster is unknown; 503 unless configured.
    pub cluster_not_found: StatusCode,
    /// Whole response; `None`: no limit. Envoy's default is 15 s.
    pub timeout: Option<Duration>,
    /// Zero: no limit; `None`: the connection manager's.
    pub idle_timeout: Option<Duration>,
    /// Zero: no limit; `None`: the connection manager's.
    pub max_stream_duration: Option<Duration>,
    pub prefix_rewrite: Option<Box<str>>,
    pub regex_rewrite: Option<(Regex, Box<str>)>,
    pub host_rewrite: Option<Bytes>,
    pub auto_host_rewrite: bool,
    pub append_x_forwarded_host: bool,
    pub retry: Option<RetryPolicy>,
    /// For clusters that balance by hash.
    pub hash: Vec<HashPolicy>,
    /// For filters that limit rates.
    pub limits: Box<[LimitRule]>,
    /// Whether the limits of the virtual host count in any case.
    pub includes_host_limits: bool,
    /// Where copies go.
    pub mirrors: Vec<Mirror>,
    /// Overrides of the connection manager's list: lower-case type, and whether it is passed on.
    pub upgrades: Vec<(Arc<str>, bool)>,
    /// CONNECT ends here: the cluster gets the bytes inside (`connect_config`).
    pub terminates_connect: bool,
    /// The request's `grpc-timeout` limits the stream in place of `max_stream_duration`, to at most
    /// this much; zero: no cap (`grpc_timeout_header_max`).
    pub grpc_timeout_max: Option<Duration>,
    /// It limits the response in place of `timeout`; zero: no cap (the deprecated
    /// `max_grpc_timeout`).
    pub max_grpc_timeout: Option<Duration>,
}

/// A cluster that gets copies of requests.
#[derive(Debug)]
pub struct Mirror {
    pub cluster: Arc<str>,
    pub percent: Percent,
    /// `-shadow` stands behind the host's name.
    pub adds_suffix: bool,
    /// Whether its span is told of; `None`: as the request's.
    pub trace_sampled: Option<bool>,
}

#[derive(Debug)]
pub enum Clusters {
    One(Arc<str>),
    Weighted {
        total: u32,
        entries: Vec<WeightedCluster>,
    },
    /// `cluster_header`.
    Header(HeaderName),
}

#[derive(Debug)]
pub struct WeightedCluster {
    pub name: Arc<str>,
    pub weight: u32,
    pub host_rewrite: Option<Bytes>,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    pub filters: FilterOverrides,
}

/// When and how often a request is tried again.
#[derive(Debug)]
pub struct RetryPolicy {
    pub on: RetryOn,
    pub statuses: Vec<StatusCode>,
    pub attempts: u32,
    pub per_try_timeout: Option<Duration>,
    pub base_interval: Duration,
    pub max_interval: Duration,
    /// Do not retry on a host that was tried (`previous_hosts`).
    pub avoid_previous_hosts: bool,
    pub host_selection_attempts: u32,
    /// After each so many tries, the priorities of the hosts tried so far are avoided
    /// (`previous_priorities`); 0: they are not.
    pub avoid_priorities_every: u32,
}

/// The conditions of `retry_on`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    pub server_error: bool,
    pub gateway_error: bool,
    pub reset: bool,
    pub reset_before_request: bool,
    pub connect_failure: bool,
    pub refused_stream: bool,
    pub retriable_4xx: bool,
    pub retriable_status_codes: bool,
    pub grpc_cancelled: bool,
    pub grpc_unavailable: bool,
    pub grpc_deadline_exceeded: bool,
    pub grpc_internal: bool,
    pub grpc_resource_exhausted: bool,
    /// What was refused by a limit (`envoy-ratelimited`), and is not tried again otherwise.
    pub rate_limited: bool,
}

#[derive(Debug)]
pub struct Redirect {
    pub status: StatusCode,
    pub https: bool,
    pub scheme: Option<Box<str>>,
    pub host: Option<Box<str>>,
    pub port: Option<u16>,
    pub path: RedirectPath,
    pub strip_query: bool,
}

#[derive(Debug)]
pub enum RedirectPath {
    Keep,
    Replace(Box<str>),
    Prefix(Box<str>),
    Regex(Regex, Box<str>),
}

/// Header operations of one level, in Envoy's order: removals, then additions.
#[derive(Debug, Default)]
pub struct HeaderMutations {
    pub remove: Vec<HeaderName>,
    pub add: Vec<HeaderAddition>,
}

#[derive(Debug)]
pub struct HeaderAddition {
    pub name: HeaderName,
    pub value: HeaderText,
    pub action: AppendAction,
    pub keep_empty: bool,
}

/// A header's value.
#[derive(Debug)]
pub enum HeaderText {
    Literal(Bytes),
    /// With command operators, computed for each request.
    Template(Template),
}

/// `HeaderValueOption.append_action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendAction {
    AppendOrAdd,
    AddIfAbsent,
    OverwriteOrAdd,
    OverwriteIfExists,
}
