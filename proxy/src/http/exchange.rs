//! One request from its head to the end of its response.
//!
//! Read from top to bottom: prepare, route, choose a cluster, lease a connection, send, answer.

use std::{borrow::Cow, rc::Rc, sync::Arc};

use ithildin_http1::Known;

use bytes::Bytes;

use super::{
    body::{Source, pump},
    client::{Client, Response},
    failure::LocalReply,
    filters::{FilterState, Verdict, Way},
    headers::Headers,
    meter::Meter,
    prepare,
    request::{BodyLength, Protocol, Request},
    response,
    timeouts::{Clock, Expired, tell_grpc_timeout},
};
use crate::{
    access_log::ResponseFlags,
    config::{
        Cluster, HttpManager, Snapshot,
        cluster::Endpoint,
        route::{Clusters, Forward, Route, RouteAction, RouteTable, VirtualHost},
    },
    stats::{CodesBlock, HttpBlock, milliseconds},
    upstream::{Link, UpstreamFailure},
    worker::{Connection, Worker},
};

/// What all requests of one downstream connection share.
pub(super) struct Context<'x> {
    pub(super) worker: &'x Rc<Worker>,
    pub(super) connection: &'x Connection,
    pub(super) manager: &'x HttpManager,
    pub(super) stats: &'x HttpBlock,
}

/// One request on its way.
pub(super) struct Exchange<'x> {
    pub(super) context: &'x Context<'x>,
    pub(super) request: Request,
    pub(super) meter: &'x Meter<'x>,
    /// What the access log says of the answer.
    pub(super) outcome: Outcome,
    /// From the begin of [`serve`](Self::serve) to its end, if it comes to its end.
    pub(super) is_running: bool,
    pub(super) filters: FilterState,
    /// The authority before `auto_host_rewrite`: upstream TLS goes by it, whichever endpoint is tried.
    pub(super) asked: Bytes,
}

/// How a request ended.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// 0 if the client went away before there was an answer.
    pub(super) status: u16,
    pub(super) flags: ResponseFlags,
    pub(super) details: Cow<'static, str>,
    pub(super) route: Option<Arc<Route>>,
    /// The route's table, and which of its virtual hosts.
    pub(super) host: Option<(Arc<RouteTable>, usize)>,
    /// Which of the route's weighted clusters.
    pub(super) weighted: Option<usize>,
    pub(super) cluster: Option<Arc<str>>,
    /// The same, for who counts requests by their services.
    pub(super) target: Option<Arc<Cluster>>,
    pub(super) endpoint: Option<Arc<Endpoint>>,
    /// `Set-Cookie`, for the upstream's response.
    pub(super) cookie: Option<Bytes>,
    pub(super) transport_failure: Option<Arc<str>>,
    /// Tries so far, the first included.
    pub(super) attempts: u32,
    /// The connection of the last try.
    pub(super) upstream: Option<Rc<Link>>,
    pub(super) upstream_protocol: Option<Protocol>,
    /// Of the response: those that a log asks for.
    pub(super) response_headers: Headers,
}

/// Why an attempt did not bring a whole response.
#[derive(Debug)]
pub(super) enum Broken {
    /// There was no connection.
    Unavailable(UpstreamFailure),
    /// `per_try_timeout` was over before a response began.
    Slow,
    /// There was a response, and another try was granted in its place.
    Refused,
    /// Nothing of a response has come. `stale`: the pooled connection was closed already.
    BeforeResponse { reply: LocalReply, stale: bool },
    /// What the client sent cannot be forwarded. No upstream is to blame, and no other does better.
    BadRequest(LocalReply),
    /// The client has a part of the response: all that is left is to cut it off.
    Midway(ResponseFlags, &'static str),
    /// The client is gone.
    Client,
}

impl<'x> Exchange<'x> {
    pub(super) fn new(context: &'x Context<'x>, request: Request, meter: &'x Meter<'x>) -> Self {
        Self {
            context,
            request,
            meter,
            outcome: Outcome::default(),
            filters: FilterState::new(context.manager),
            asked: Bytes::new(),
            is_running: false,
        }
    }

    /// Answers the request. Afterwards `source` tells whether the body was taken whole.
    pub(super) async fn serve(&mut self, source: &mut Source<'_, '_>, client: &mut Client<'_, '_>) {
        self.begin();
        if self.request.body == BodyLength::Empty {
            self.meter.request_is_whole();
        }
        if let Err(reply) = self.route_and_forward(source, client).await {
            // Its connection ends with an answer to a request that is not all there, or that should
            // not have been sent.
            let is_whole = source.skip_ready().await;
            let is_bad = reply.status == 400 && self.outcome.route.is_none();
            self.reply_in_time(reply, client, !is_whole || is_bad).await;
        }
        let is_whole = source.is_ended() && !self.request.asks_for_tunnel();
        if !is_whole && self.outcome.status != 0 {
            self.response_came_first();
        }
        self.end();
    }

    /// Counts an answer to a request that is not all there.
    pub(super) fn response_came_first(&self) {
        let stats = self.context.stats;
        stats.downstream_rq_response_before_rq_complete.inc();
    }

    pub(super) fn begin(&mut self) {
        let stats = self.context.stats;
        stats.downstream_rq_total.inc();
        stats.downstream_rq_active.inc();
        self.is_running = true;
    }

    pub(super) fn end(&mut self) {
        self.is_running = false;
        self.count();
    }

    /// Answers, unless the client does not take the answer for too long.
    pub(super) async fn reply_in_time(
        &mut self,
        reply: LocalReply,
        client: &mut Client<'_, '_>,
        closing: bool,
    ) {
        let context = self.context;
        let limit = context.manager.timeouts.stream_idle;
        let reply = self.reply(reply, client, closing);
        if context.worker.timers.timeout(limit, reply).await.is_none() {
            client.abort();
        }
    }

    pub(super) fn count(&self) {
        let stats = self.context.stats;
        stats.downstream_rq_active.dec();
        response::count(stats, self.outcome.status);
        stats
            .downstream_rq_time
            .record(milliseconds(self.meter.started));
    }

    async fn route_and_forward(
        &mut self,
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
    ) -> Result<(), LocalReply> {
        let manager = self.context.manager;
        prepare::request(self.context, &mut self.request)?;
        let table = manager
            .routes
            .load_full()
            .ok_or_else(LocalReply::no_route)?;
        let snapshot = self.context.worker.snapshot();
        let mut first = 0;
        loop {
            let next = self.route_from(first, &table, &snapshot, source, client);
            match next.await? {
                None => return Ok(()),
                Some(next) => first = next,
            }
        }
    }

    /// Finds the request's route, takes it through the filters from `first` on, and to its end;
    /// `Some` if a filter wants the route found again before the next one.
    async fn route_from(
        &mut self,
        first: usize,
        table: &Arc<RouteTable>,
        snapshot: &Snapshot,
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
    ) -> Result<Option<usize>, LocalReply> {
        let manager = self.context.manager;
        let found = self.find_route(table);
        let mut cluster = None;
        if let Ok((host, route)) = &found {
            self.outcome.route = Some(Arc::clone(route));
            self.outcome.host = Some((Arc::clone(table), *host));
            cluster = choose_cluster(&route.action, &self.request).map(|(name, weighted)| {
                self.outcome.weighted = weighted;
                name
            });
        } else if first > 0 {
            self.outcome.route = None;
            self.outcome.host = None;
            self.outcome.weighted = None;
        }
        let cluster = cluster.as_deref();
        // Logs and metrics name it, also where a filter answers in its place.
        let target = cluster.and_then(|name| snapshot.clusters.get(name));
        self.outcome.cluster = target.map(|cluster| Arc::clone(&cluster.name));
        self.outcome.target = target.filter(|_| self.filters.telemetry.is_some()).cloned();
        // Who is denied learns nothing of the routes.
        if !manager.filters.is_empty() {
            let route = found.as_ref().ok();
            let route = route.map(|(host, route)| (&**table, *host, &**route));
            let way = Way::new(snapshot, route, self.outcome.weighted, cluster);
            match self.filter_request(&way, first, source, client).await {
                Verdict::Pass => {}
                Verdict::Reroute(next) => return Ok(Some(next)),
                Verdict::Reply(reply) => return Err(reply),
                Verdict::Gone => {
                    self.client_gone();
                    return Ok(None);
                }
            }
        }
        let (host, route) = match &found {
            Ok((host, route)) => (*host, route),
            Err(reply) => {
                self.context.stats.rq_total.inc();
                if reply.flags == ResponseFlags::NO_ROUTE_FOUND {
                    self.context.stats.no_route.inc();
                }
                return Err(reply.clone());
            }
        };
        if self.request.asks_for_tunnel() && !is_allowed(&self.request, manager, &route.action) {
            self.context.stats.downstream_rq_ws_on_non_ws_route.inc();
            return Err(LocalReply::upgrade_failed());
        }
        self.context.stats.rq_total.inc();
        let _upgrade = Upgrade::new(self.context.stats, &self.request);
        match &route.action {
            RouteAction::Direct { status, body } => {
                self.context.stats.rq_direct_response.inc();
                let mut reply =
                    LocalReply::new(status.as_u16(), "", ResponseFlags::NONE, "direct_response");
                reply.body = body.clone();
                Err(reply)
            }
            RouteAction::Redirect(redirect) => {
                self.context.stats.rq_direct_response.inc();
                Err(super::redirect::reply(
                    redirect,
                    &route.matches,
                    &mut self.request,
                ))
            }
            RouteAction::Forward(forward) => {
                let way = (&**table, &table.hosts[host], &**route);
                let target = target.ok_or_else(|| {
                    self.context.stats.no_cluster.inc();
                    LocalReply::no_cluster(forward.cluster_not_found.as_u16())
                })?;
                self.forward(way, (snapshot, target), forward, source, client)
                    .await?;
                Ok(None)
            }
        }
    }

    fn find_route(&self, table: &RouteTable) -> Result<(usize, Arc<Route>), LocalReply> {
        let authority = std::str::from_utf8(&self.request.authority).unwrap_or_default();
        let found = table
            .virtual_host(authority)
            .ok_or_else(LocalReply::no_route);
        let (index, host) = found?;
        if host.require_tls && self.request.scheme != Some("https") {
            return Err(super::redirect::to_https(&self.request));
        }
        let route = host.route(&self.request).cloned();
        let route = route.ok_or_else(LocalReply::no_route)?;
        Ok((index, route))
    }

    async fn forward(
        &mut self,
        (table, host, route): (&RouteTable, &VirtualHost, &Route),
        (snapshot, cluster): (&Snapshot, &Arc<Cluster>),
        forward: &Forward,
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
    ) -> Result<(), LocalReply> {
        self.rewrite_request((table, host, route), forward);
        let clock = Clock::new(self.context, forward, &self.request, self.meter.started);
        tell_grpc_timeout(forward, &mut self.request);
        let mirrors = self.mirror(forward, snapshot, source);
        let attempts = self.attempts(cluster, forward, source, client, &clock);
        let result = clock.limit(attempts).await;
        if let Some(mirrors) = mirrors {
            mirrors.finish(self.context.worker);
        }
        match result {
            Ok(result) => {
                match &result {
                    Ok(()) => self.count_time(cluster),
                    Err(reply) if reply.is_of_upstream() => self.count_code(cluster, reply.status),
                    Err(_) => {}
                }
                result
            }
            Err(expired) => {
                self.count_expired(cluster, expired);
                self.count_cancelled(cluster);
                if self.outcome.status != 0 {
                    self.cut_off(client);
                    self.outcome.flags |= expired.flags();
                    self.outcome.details = clock.reply(expired).details;
                    return Ok(());
                }
                let reply = clock.reply(expired);
                if expired == Expired::Response {
                    self.count_code(cluster, reply.status);
                }
                Err(reply)
            }
        }
    }

    fn count_expired(&self, cluster: &Cluster, expired: Expired) {
        let upstream = cluster.stats.worker(self.context.worker.index);
        let stats = self.context.stats;
        match expired {
            Expired::Response => {
                upstream.upstream_rq_timeout.inc();
                if self.outcome.status == 0 {
                    self.timed_out(cluster);
                }
            }
            Expired::Idle => stats.downstream_rq_idle_timeout.inc(),
            Expired::Duration => stats.downstream_rq_max_duration_reached.inc(),
            Expired::Request => stats.downstream_rq_timeout.inc(),
        }
    }

    /// Counts a response on `cluster`, whether it is the upstream's or ours in its place.
    pub(super) fn count_code(&self, cluster: &Cluster, status: u16) {
        for codes in self.codes(cluster) {
            codes.count(status);
        }
    }

    /// Counts the time of a request that has its whole response.
    fn count_time(&self, cluster: &Cluster) {
        if self.outcome.status != 0 && self.outcome.flags.is_empty() {
            let time = milliseconds(self.meter.started);
            for codes in self.codes(cluster) {
                codes.upstream_rq_time.record(time);
            }
        }
    }

    /// Where the answers to this request are counted.
    fn codes<'c>(&self, cluster: &'c Cluster) -> [&'c CodesBlock; 2] {
        let stats = cluster.stats.worker(self.context.worker.index);
        let internal = self.request.headers.get("x-envoy-internal");
        let group = match internal.is_some_and(|value| value == "true") {
            true => &stats.internal,
            false => &stats.external,
        };
        [stats.codes.used(), group.used()]
    }

    pub(super) fn client_gone(&mut self) {
        self.outcome.flags |= ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION;
        self.outcome.details = "downstream_remote_disconnect".into();
        self.context.stats.downstream_rq_rx_reset.inc();
        if self.request.protocol != Protocol::Http2 {
            super::count_midway(self.context.stats, &self.context.connection.live);
        }
    }

    /// Gives up a response of which the client has a part.
    pub(super) fn cut_off(&self, client: &mut Client<'_, '_>) {
        client.abort();
        self.context.stats.downstream_rq_tx_reset.inc();
    }

    /// Answers with words of our own.
    pub(super) async fn reply(
        &mut self,
        reply: LocalReply,
        client: &mut Client<'_, '_>,
        closing: bool,
    ) {
        self.outcome.flags |= reply.flags;
        self.outcome.details = reply.details.clone();
        self.outcome.transport_failure = reply.transport_failure.clone();
        let of_upstream = reply.is_of_upstream();
        // As in Envoy, the operations of the route see nothing of the response yet.
        let mut made = Headers::default();
        if of_upstream {
            self.tell_attempts(&mut made);
        }
        if !reply.is_bare {
            self.rewrite_response(&mut made);
        }
        for (name, _) in &reply.headers {
            made.remove(name.as_str());
        }
        let (mut response, body) = response::local(self.context.manager, &self.request, reply);
        response.headers.take_over(made);
        self.filter_response(&mut response.headers);
        response::finish(self.context, &self.request, &mut response.headers);
        self.outcome.status = response.status;
        self.keep_headers(&response);
        let Ok(mut sink) = client.respond(response, closing).await else {
            return;
        };
        let mut source = Source::Bytes(body);
        let passed = pump(&mut source, &mut sink, |part| {
            self.meter.response_part(part);
        });
        match passed.await {
            Ok(()) => self.meter.response_is_sent(),
            Err(_) => client.abort(),
        }
    }

    /// Passes a 1xx on.
    pub(super) async fn interim(
        &self,
        status: u16,
        headers: Headers,
        client: &mut Client<'_, '_>,
    ) -> Result<(), Broken> {
        // We answered `Expect: 100-continue` ourselves unless told to leave it to the upstream.
        if status == 100 && !self.context.manager.proxy_100_continue {
            return Ok(());
        }
        client
            .interim(status, headers)
            .await
            .map_err(|_| Broken::Client)
    }

    /// The head of the upstream's response, made ours.
    pub(super) fn finish_head(&mut self, mut response: Response) -> Response {
        self.outcome.status = response.status;
        self.outcome.details = "via_upstream".into();
        self.meter.response_begins();
        response::prepare(self.context, &mut response, self.meter.started);
        self.tell_attempts(&mut response.headers);
        self.give_cookie(&mut response.headers);
        self.rewrite_response(&mut response.headers);
        self.filter_response(&mut response.headers);
        response::finish(self.context, &self.request, &mut response.headers);
        self.keep_headers(&response);
        response
    }

    /// The response is gone when its line is logged.
    fn keep_headers(&mut self, response: &Response) {
        let wanted = &self.context.manager.access_log.needs().response_headers;
        if !wanted.is_empty() {
            self.outcome.response_headers = response.headers.only(wanted);
        }
    }

    /// Whether the client wants trailers.
    pub(super) fn wants_trailers(request: &Request) -> bool {
        request
            .headers
            .known(Known::Te)
            .is_some_and(|te| te.eq_ignore_ascii_case(b"trailers"))
    }
}

/// Counts a request for another protocol, or for a tunnel, while it lives.
struct Upgrade<'x>(Option<&'x HttpBlock>);

impl<'x> Upgrade<'x> {
    fn new(stats: &'x HttpBlock, request: &Request) -> Self {
        if !request.asks_for_tunnel() {
            return Self(None);
        }
        stats.downstream_cx_upgrades_total.inc();
        stats.downstream_cx_upgrades_active.inc();
        Self(Some(stats))
    }
}

impl Drop for Upgrade<'_> {
    fn drop(&mut self) {
        if let Some(stats) = self.0 {
            stats.downstream_cx_upgrades_active.dec();
        }
    }
}

/// Whether a connection may change to what the request asks for: the route has the last word.
fn is_allowed(request: &Request, manager: &HttpManager, action: &RouteAction) -> bool {
    let upgrade = request.upgrade.as_deref().unwrap_or(b"connect");
    let is_it = |name: &str| name.as_bytes().eq_ignore_ascii_case(upgrade);
    let of_route = match action {
        RouteAction::Forward(forward) => forward.upgrades.iter().find(|(name, _)| is_it(name)),
        RouteAction::Redirect(_) | RouteAction::Direct { .. } => None,
    };
    match of_route {
        Some((_, enabled)) => *enabled,
        None => manager.upgrades.iter().any(|name| is_it(name)),
    }
}

/// The cluster of a route that forwards: its name, and its index among weighted ones.
fn choose_cluster<'c>(
    action: &'c RouteAction,
    request: &Request,
) -> Option<(Cow<'c, str>, Option<usize>)> {
    let RouteAction::Forward(forward) = action else {
        return None;
    };
    Some(match &forward.clusters {
        Clusters::One(name) => (Cow::Borrowed(name), None),
        Clusters::Weighted { total, entries } => {
            let mut at = fastrand::u32(..(*total).max(1));
            for (index, entry) in entries.iter().enumerate() {
                if at < entry.weight {
                    return Some((Cow::Borrowed(&entry.name), Some(index)));
                }
                at -= entry.weight;
            }
            (Cow::Borrowed(""), None)
        }
        Clusters::Header(name) => {
            let value = request.headers.get(name.as_str());
            let name = value.and_then(|value| std::str::from_utf8(value).ok());
            (Cow::Owned(name.unwrap_or_default().to_owned()), None)
        }
    })
}
