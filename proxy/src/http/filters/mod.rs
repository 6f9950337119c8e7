//! What filters do to one request, in their order, and to its response.
//!
//! A connection manager without filters pays nothing here; one with filters pays for those alone.

mod cors;
mod descriptors;
mod ext_authz;
mod fault;
mod held;
mod jwt;
mod limit_service;
mod limits;
mod lua;
mod rate_limit;

use std::sync::Arc;

use bytes::Bytes;
use ithildin_http1::Known;

use self::{
    cors::CorsAnswer, ext_authz::ResponseHeaders, fault::ActiveFault, limits::LimitHeaders,
};
use super::{
    body::Source,
    client::{Client, Response},
    exchange::Exchange,
    failure::LocalReply,
    headers::Headers,
    request::Request,
};
use crate::{
    config::{
        Cluster, HttpManager, Snapshot,
        filters::{FilterKind, FilterOverride, FilterOverrides, HttpFilter},
        http::AlpnOverrides,
        lua::Lua,
        rate_limit::RateLimit,
        route::{Route, RouteTable},
    },
    istio::{ID_HEADER, METADATA_HEADER, PeerMetadata, Workload},
};

/// What the filters of a request keep to its end.
#[derive(Debug, Default)]
pub(super) struct FilterState {
    cors: Option<Box<CorsAnswer>>,
    fault: Option<ActiveFault>,
    /// What refused the request.
    limited: Option<Arc<RateLimit>>,
    /// What filters that limit rates add to the response.
    limits: Vec<LimitHeaders>,
    /// For the response, of services that let the request pass, each with its filter's index.
    authorized: Vec<(usize, ResponseHeaders)>,
    /// Index of the filter that chooses what upstream TLS offers.
    alpn: Option<usize>,
    /// The other ends, as they tell of themselves.
    pub(super) downstream_peer: Option<Arc<Workload>>,
    pub(super) upstream_peer: Option<Arc<Workload>>,
    /// Whether the request has come to the filters: only then do scripts see its response.
    entered: bool,
    /// Whether scripts have begun with a response. They see no second one.
    scripted: bool,
    /// Whether the client's connection ends with the response.
    pub(super) drains: bool,
    /// Which of its headers the client sent.
    heard: Heard,
    /// Index of `istio.stats`, which counts requests that other filters answer before it, too.
    pub(super) telemetry: Option<usize>,
}

impl FilterState {
    pub(super) fn new(manager: &HttpManager) -> Self {
        let is_telemetry = |it: &HttpFilter| matches!(it.kind, FilterKind::Telemetry(_));
        Self {
            telemetry: manager.filters.iter().rposition(is_telemetry),
            ..Self::default()
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    id: bool,
    metadata: bool,
}

/// What becomes of a request.
pub(super) enum Verdict {
    Pass,
    /// The route may be another now; the filter with this index is next.
    Reroute(usize),
    /// A filter answers.
    Reply(LocalReply),
    /// The client went away while a filter held it up.
    Gone,
}

impl Verdict {
    /// Of a filter that may have changed what routes go by; the one with index `next` comes after it.
    fn rerouting(changed: Result<bool, Self>, next: usize) -> Self {
        match changed {
            Ok(true) => Self::Reroute(next),
            Ok(false) => Self::Pass,
            Err(verdict) => verdict,
        }
    }
}

impl From<Result<(), LocalReply>> for Verdict {
    fn from(passed: Result<(), LocalReply>) -> Self {
        match passed {
            Ok(()) => Self::Pass,
            Err(reply) => Self::Reply(reply),
        }
    }
}

/// Where a request goes, as far as filters may know.
pub(super) struct Way<'w> {
    pub(super) snapshot: &'w Snapshot,
    /// Most specific first: of the weighted cluster, the route, the virtual host, the table.
    levels: [Option<&'w FilterOverrides>; 4],
    /// The cluster's name; `None` where there is no route that forwards.
    cluster: Option<&'w str>,
}

impl<'w> Way<'w> {
    /// Without a route there is only the connection manager's word.
    pub(super) fn new(
        snapshot: &'w Snapshot,
        route: Option<(&'w RouteTable, usize, &'w Route)>,
        weighted: Option<usize>,
        cluster: Option<&'w str>,
    ) -> Self {
        let levels = route.map_or([None; 4], |(table, host, route)| {
            let weighted = weighted.and_then(|index| route.weighted_cluster(index));
            [
                weighted.map(|it| &it.filters),
                Some(&route.filters),
                Some(&table.hosts[host].filters),
                Some(&table.filters),
            ]
            .map(|level| level.filter(|it| !it.is_empty()))
        });
        Self {
            snapshot,
            levels,
            cluster,
        }
    }

    fn cluster(&self) -> Option<&'w Arc<Cluster>> {
        self.snapshot.clusters.get(self.cluster?)
    }

    /// What the routes say of a filter, the most specific level first.
    fn overrides(&self, filter: &'w HttpFilter) -> impl Iterator<Item = &'w FilterOverride> {
        let levels = self.levels.into_iter().flatten();
        levels.filter_map(|level| level.get(&filter.name))
    }

    /// Whether the filter works for this request, and what the route puts in its place.
    fn admits(&self, filter: &'w HttpFilter) -> (bool, Option<&'w FilterOverride>) {
        match self.overrides(filter).next() {
            None => (!filter.disabled, None),
            Some(FilterOverride::Disabled) => (false, None),
            Some(own) => (true, Some(own)),
        }
    }
}

impl<'x> Exchange<'x> {
    /// Takes the request through the filters before the router, from the one with index `first`
    /// on.
    pub(super) async fn filter_request(
        &mut self,
        way: &Way<'_>,
        first: usize,
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
    ) -> Verdict {
        let manager = self.context.manager;
        self.filters.entered = true;
        for (index, filter) in manager.filters.iter().enumerate().skip(first) {
            let (works, own) = way.admits(filter);
            if !works {
                self.filters.telemetry.take_if(|it| *it == index);
                continue;
            }
            let verdict = match (&filter.kind, own) {
                (FilterKind::Rbac(_), Some(FilterOverride::Rbac(rbac)))
                | (FilterKind::Rbac(rbac), _) => self.authorize(rbac).into(),
                (FilterKind::Cors, _) => self.cors(way, filter).into(),
                (FilterKind::Fault(_), Some(FilterOverride::Fault(fault)))
                | (FilterKind::Fault(fault), _) => {
                    Box::pin(self.inject(fault, way.cluster, client)).await
                }
                (FilterKind::ExtAuthz(authz), _) => {
                    let concern = (&**authz, index + 1);
                    let asked = self.ask_leave(concern, (way, filter), source, client);
                    Box::pin(asked).await
                }
                (FilterKind::RateLimit(limit, stats), own) => {
                    let own = own.and_then(FilterOverride::rate_limit);
                    self.limit_rate((limit, index), own, stats, way).into()
                }
                (FilterKind::LimitService(limits), own) => {
                    let own = own.and_then(FilterOverride::limit_service);
                    let asked = self.ask_limits((&**limits, index), own, way, client);
                    Box::pin(asked).await
                }
                (FilterKind::Jwt(jwt), own) => {
                    let own = own.and_then(FilterOverride::jwt);
                    let changed = self.check_tokens(jwt, own, client).await;
                    Verdict::rerouting(changed, index + 1)
                }
                (FilterKind::Lua(lua), own) => {
                    let script = (&**lua, own.and_then(FilterOverride::lua));
                    let run = self.script_request(script, &filter.name, source, client);
                    Verdict::rerouting(Box::pin(run).await, index + 1)
                }
                (FilterKind::PeerMetadata(peers), _) => {
                    self.meet(peers, way);
                    Verdict::Pass
                }
                (FilterKind::Alpn(_), _) => {
                    self.filters.alpn = Some(index);
                    Verdict::Pass
                }
                (FilterKind::Telemetry(_), _) => {
                    self.begin_telemetry();
                    Verdict::Pass
                }
            };
            if !matches!(verdict, Verdict::Pass) {
                return verdict;
            }
        }
        Verdict::Pass
    }

    /// What upstream TLS offers in place of its own list.
    pub(super) fn alpn(&self) -> Option<&AlpnOverrides> {
        match &self.context.manager.filters.get(self.filters.alpn?)?.kind {
            FilterKind::Alpn(overrides) => Some(overrides),
            _ => None,
        }
    }

    /// Hears who the client is, and tells the upstream who we are.
    fn meet(&mut self, filter: &PeerMetadata, way: &Way<'_>) {
        let headers = &mut self.request.headers;
        if filter.hears_downstream {
            let (id, metadata) = take_peer(headers);
            self.filters.heard = Heard {
                id: id.is_some(),
                metadata: metadata.is_some(),
            };
            let peers = &self.context.worker.peers;
            self.filters.downstream_peer = metadata.and_then(|it| peers.read(&it, filter));
        }
        let cluster = way.cluster().map(|it| (&*it.name, &it.mesh));
        if filter.tells_upstream.reaches(cluster) {
            tell(headers, filter, true, true);
        }
    }

    /// Takes the response through the filters, the last first. An error is what to answer in its place.
    pub(super) async fn filter_response(
        &mut self,
        response: &mut Response,
        body: &mut Source<'_, '_>,
    ) -> Result<(), LocalReply> {
        let manager = self.context.manager;
        if manager.filters.is_empty() {
            return Ok(());
        }
        let is_first = !self.filters.scripted;
        let mut before = manager.filters.len();
        while let Some((index, lua)) = self.filter_back(before, &mut response.headers) {
            let filter = &manager.filters[index];
            let snapshot = self.context.worker.snapshot();
            let (route, host) = (self.outcome.route.clone(), self.outcome.host.clone());
            let route = route.as_deref().zip(host.as_ref());
            let route = route.map(|(route, (table, host))| (&**table, *host, route));
            let way = Way::new(&snapshot, route, self.outcome.weighted, None);
            let (works, own) = way.admits(filter);
            if works && self.filters.entered && is_first {
                self.filters.scripted = true;
                let script = (lua, own.and_then(FilterOverride::lua));
                // While it waits, the client has nothing of the response.
                self.outcome.status = 0;
                let run = self.script_response(script, &filter.name, response, body);
                let ran = Box::pin(run).await;
                ran?;
                self.outcome.status = response.status;
            }
            before = index;
        }
        self.response_is_known(&response.headers);
        Ok(())
    }

    /// Takes the response through the filters before `before`, down to one with scripts, if there is one.
    fn filter_back(&mut self, before: usize, headers: &mut Headers) -> Option<(usize, &'x Lua)> {
        let manager = self.context.manager;
        for (index, filter) in manager.filters[..before].iter().enumerate().rev() {
            match &filter.kind {
                FilterKind::Lua(lua) => return Some((index, lua)),
                FilterKind::RateLimit(..) => {
                    self.tell_limits(index, headers);
                    if let Some(limit) = self.filters.limited.take() {
                        self.mutate_response(&limit.response_headers_to_add, headers);
                    }
                }
                FilterKind::LimitService(filter) => {
                    if self.tell_limits(index, headers) {
                        self.mutate_response(&filter.response_headers_to_add, headers);
                    }
                }
                FilterKind::Cors => self.allow_origin(headers),
                FilterKind::ExtAuthz(_) => {
                    let authorized = &mut self.filters.authorized;
                    let at = authorized.iter().position(|(by, _)| *by == index);
                    if let Some(at) = at {
                        authorized.remove(at).1.apply(headers);
                    }
                }
                FilterKind::PeerMetadata(peers) => {
                    let is_same = |it: &HttpFilter| matches!(it.kind, FilterKind::PeerMetadata(_));
                    if !manager.filters[..index].iter().any(is_same) {
                        self.part(peers, headers);
                    }
                }
                FilterKind::Alpn(_)
                | FilterKind::Telemetry(_)
                | FilterKind::Rbac(_)
                | FilterKind::Fault(_)
                | FilterKind::Jwt(_) => {}
            }
        }
        None
    }

    /// Hears who the upstream is, and tells the client who we are if it told us.
    fn part(&mut self, filter: &PeerMetadata, headers: &mut Headers) {
        if filter.hears_upstream {
            let (_, metadata) = take_peer(headers);
            let peers = &self.context.worker.peers;
            self.filters.upstream_peer = metadata.and_then(|it| peers.read(&it, filter));
        }
        let heard = self.filters.heard;
        if !heard.id && !heard.metadata {
            return;
        }
        let snapshot = self.context.worker.snapshot();
        let name = self.outcome.cluster.as_deref();
        let cluster = name.and_then(|name| Some((name, &snapshot.clusters.get(name)?.mesh)));
        if filter.tells_downstream.reaches(cluster) {
            tell(headers, filter, heard.id, heard.metadata);
        }
    }
}

/// Whether a browser asks what it may ask (CORS).
fn is_preflight(request: &Request) -> bool {
    let says = |name| request.headers.get(name).is_some_and(|it| !it.is_empty());
    request.method == "OPTIONS" && says("origin") && says("access-control-request-method")
}

/// The peer's id and metadata, which are for us alone.
fn take_peer(headers: &mut Headers) -> (Option<Bytes>, Option<Bytes>) {
    if headers.known(Known::XEnvoy).is_none() {
        return (None, None);
    }
    let id = headers.get(ID_HEADER).cloned();
    let metadata = headers.get(METADATA_HEADER).cloned();
    if id.is_some() {
        headers.remove(ID_HEADER);
    }
    if metadata.is_some() {
        headers.remove(METADATA_HEADER);
    }
    (id, metadata)
}

fn tell(headers: &mut Headers, filter: &PeerMetadata, id: bool, metadata: bool) {
    if id {
        headers.set(Known::XEnvoy, ID_HEADER, filter.id.clone());
    }
    if metadata {
        headers.set(Known::XEnvoy, METADATA_HEADER, filter.metadata.clone());
    }
}
