//! One request from its head to the end of its response.
//!
//! Read from top to bottom: prepare, route, choose a cluster, lease a connection, send, answer.

use std::{
    borrow::Cow,
    future::{Future, poll_fn},
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use ithildin_http1::Known;

use super::{
    authorization,
    body::{Source, pump},
    client::{Client, Response},
    failure::LocalReply,
    headers::Headers,
    matching,
    meter::Meter,
    mutate, prepare,
    race::Beside,
    request::{BodyLength, Protocol, Request},
    response,
    retry::{Body, Budget, Cause},
    tape::Tape,
    timeouts::{Clock, Expired, tell_grpc_timeout},
};
use crate::{
    access_log::ResponseFlags,
    config::{
        Cluster, HttpManager,
        cluster::Endpoint,
        route::{Clusters, Forward, Route, RouteAction, RouteTable, VirtualHost},
    },
    stats::HttpBlock,
    upstream::{HttpLease, LbRequest, Link, UpstreamFailure},
    worker::{Connection, Worker},
};

const ATTEMPT_COUNT: &str = "x-envoy-attempt-count";

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
    pub(super) endpoint: Option<Arc<Endpoint>>,
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
            is_running: false,
        }
    }

    /// Answers the request. Afterwards `source` tells whether the body was taken whole.
    pub(super) async fn serve(&mut self, source: &mut Source<'_, '_>, client: &mut Client<'_, '_>) {
        let stats = self.context.stats;
        stats.downstream_rq_total.inc();
        stats.downstream_rq_active.inc();
        self.is_running = true;
        if self.request.body == BodyLength::Empty {
            self.meter.request_is_whole();
        }
        if let Err(reply) = self.route_and_forward(source, client).await {
            // Its connection ends with an answer to a request that is not all there, or that should
            // not have been sent.
            let is_whole = source.skip_ready().await;
            let is_bad = reply.status == 400 && self.outcome.route.is_none();
            self.reply(reply, client, !is_whole || is_bad).await;
        }
        self.is_running = false;
        self.count();
    }

    pub(super) fn count(&self) {
        self.context.stats.downstream_rq_active.dec();
        response::count(self.context.stats, self.outcome.status);
    }

    async fn route_and_forward(
        &mut self,
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
    ) -> Result<(), LocalReply> {
        let manager = self.context.manager;
        prepare::request(manager, self.context.connection, &mut self.request)?;
        let table = manager
            .routes
            .load_full()
            .ok_or_else(LocalReply::no_route)?;
        let found = self.find_route(&table);
        // Who is denied learns nothing of the routes.
        authorization::authorize(self.context, &self.request)?;
        let (host, route) = found?;
        self.outcome.route = Some(Arc::clone(&route));
        self.outcome.host = Some((Arc::clone(&table), host));
        if let Some(upgrade) = &self.request.upgrade
            && !is_allowed(upgrade, manager, &route.action)
        {
            return Err(LocalReply::upgrade_failed());
        }
        match &route.action {
            RouteAction::Direct { status, body } => {
                self.context.stats.rq_direct_response.inc();
                let mut reply =
                    LocalReply::new(status.as_u16(), "", ResponseFlags::NONE, "direct_response");
                reply.body = body.clone();
                Err(reply)
            }
            RouteAction::Redirect(redirect) => {
                self.context.stats.rq_redirect.inc();
                Err(super::redirect::reply(
                    redirect,
                    &route.matches,
                    &self.request,
                ))
            }
            RouteAction::Forward(_) if self.request.is_connect() => {
                Err(LocalReply::upgrade_failed())
            }
            RouteAction::Forward(forward) => {
                let host = &table.hosts[host];
                self.forward((&table, host, &route), forward, source, client)
                    .await
            }
        }
    }

    fn find_route(&self, table: &RouteTable) -> Result<(usize, Arc<Route>), LocalReply> {
        let authority = std::str::from_utf8(&self.request.authority).unwrap_or_default();
        let found = table
            .virtual_host(authority)
            .ok_or_else(LocalReply::no_route);
        let (index, host) = found.inspect_err(|_| self.context.stats.no_route.inc())?;
        if host.require_tls && self.request.scheme != Some("https") {
            return Err(super::redirect::to_https(&self.request));
        }
        let route = host.route(&self.request);
        if route.is_none() {
            self.context.stats.no_route.inc();
        }
        let route = route.cloned().ok_or_else(LocalReply::no_route)?;
        Ok((index, route))
    }

    async fn forward(
        &mut self,
        (table, host, route): (&RouteTable, &VirtualHost, &Route),
        forward: &Forward,
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
    ) -> Result<(), LocalReply> {
        let snapshot = self.context.worker.snapshot();
        let (name, weighted) = choose_cluster(&forward.clusters, &self.request);
        self.outcome.weighted = weighted;
        let Some(cluster) = snapshot.clusters.get(name) else {
            self.context.stats.no_cluster.inc();
            return Err(LocalReply::no_cluster(forward.cluster_not_found.as_u16()));
        };
        self.outcome.cluster = Some(Arc::clone(&cluster.name));
        self.rewrite_request((table, host, route), forward);
        let clock = Clock::new(self.context, forward, &self.request, self.meter.started);
        tell_grpc_timeout(forward, &mut self.request);
        let attempts = self.attempts(cluster, forward, source, client, &clock);
        match clock.limit(attempts).await {
            Ok(result) => result,
            Err(expired) => {
                self.count_expired(cluster, expired);
                if self.outcome.status != 0 {
                    client.abort();
                    self.outcome.flags |= expired.flags();
                    self.outcome.details = clock.reply(expired).details;
                    return Ok(());
                }
                Err(clock.reply(expired))
            }
        }
    }

    fn count_expired(&self, cluster: &Cluster, expired: Expired) {
        let upstream = cluster.stats.worker(self.context.worker.index);
        let stats = self.context.stats;
        match expired {
            Expired::Response => upstream.upstream_rq_timeout.inc(),
            Expired::Idle => stats.downstream_rq_idle_timeout.inc(),
            Expired::Duration => stats.downstream_rq_max_duration_reached.inc(),
            Expired::Request => stats.downstream_rq_timeout.inc(),
        }
    }

    /// Tries until a response has come, or may not try again.
    async fn attempts(
        &mut self,
        cluster: &Arc<Cluster>,
        forward: &Forward,
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
        clock: &Clock,
    ) -> Result<(), LocalReply> {
        let body = self.keep_body(cluster, forward, source);
        let mut retries = Budget::new(self.context, cluster, forward.retry.as_ref(), body);
        loop {
            self.outcome.attempts += 1;
            self.announce(clock);
            let attempt = self.attempt(cluster, forward, source, client, clock, &mut retries);
            let result = clock.limit_try(attempt).await;
            let (reply, cause) = match result.unwrap_or(Err(Broken::Slow)) {
                Ok(()) => return Ok(()),
                Err(Broken::Midway(flags, details)) => {
                    client.abort();
                    self.outcome.flags |= flags;
                    self.outcome.details = details.into();
                    return Ok(());
                }
                Err(Broken::Client) => {
                    self.client_gone();
                    return Ok(());
                }
                Err(Broken::Refused) => (None, None),
                Err(Broken::Slow) => {
                    let stats = cluster.stats.worker(self.context.worker.index);
                    stats.upstream_rq_per_try_timeout.inc();
                    (Some(LocalReply::per_try_timeout()), Some(Cause::Slow))
                }
                Err(Broken::Unavailable(failure)) => {
                    self.outcome.endpoint.clone_from(&failure.endpoint);
                    let cause = Cause::Unavailable(failure.kind);
                    (Some(LocalReply::unavailable(&failure)), Some(cause))
                }
                Err(Broken::BeforeResponse { reply, stale }) => {
                    (Some(reply), Some(Cause::Reset { stale }))
                }
            };
            let endpoint = self.outcome.endpoint.as_ref();
            if let (Some(reply), Some(cause)) = (reply, cause)
                && !retries.grants(cause, endpoint)
            {
                self.retries_ended(&retries);
                return Err(match retries.has_retried() {
                    true => reply.after_retries(),
                    false => reply,
                });
            }
            if Self::unless_gone(client, retries.back_off())
                .await
                .is_none()
            {
                self.client_gone();
                return Ok(());
            }
            source.rewind();
        }
    }

    /// Keeps the body where it may have to be sent again.
    fn keep_body(&self, cluster: &Cluster, forward: &Forward, source: &mut Source<'_, '_>) -> Body {
        if self.request.body == BodyLength::Empty {
            return Body::None;
        }
        if forward.retry.is_none() {
            return Body::Gone;
        }
        let limit = self.context.connection.listener.buffer_limit as usize;
        let tape = Tape::new(limit, &cluster.stats, self.context.worker.index);
        source.record(&tape);
        Body::Kept(tape)
    }

    async fn attempt(
        &mut self,
        cluster: &Arc<Cluster>,
        forward: &Forward,
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
        clock: &Clock,
        retries: &mut Budget<'_>,
    ) -> Result<(), Broken> {
        let lease = self.lease(cluster, client, retries).await?;
        if forward.auto_host_rewrite {
            self.take_host(lease.endpoint(), forward);
        }
        match lease {
            HttpLease::Http1(lease) => {
                Box::pin(self.over_http1(lease, source, client, clock, retries)).await
            }
            HttpLease::Http2(lease) => {
                Box::pin(self.over_http2(lease, source, client, clock, retries)).await
            }
        }
    }

    /// Sends the request under the endpoint's own name.
    fn take_host(&mut self, endpoint: &Endpoint, forward: &Forward) {
        let host = Bytes::copy_from_slice(endpoint.hostname.as_bytes());
        if self.outcome.attempts == 1 {
            let append = forward.append_x_forwarded_host;
            mutate::rewrite_host(self.context.manager, &mut self.request, &host, append);
        } else {
            self.request.authority = host;
        }
    }

    /// Whether another try is granted in place of this response.
    pub(super) fn refuses(
        &mut self,
        status: u16,
        headers: &Headers,
        retries: &mut Budget<'_>,
    ) -> bool {
        if !retries.judges_responses() {
            return false;
        }
        let grpc = headers.get("grpc-status");
        let grpc = grpc.and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
        let cause = Cause::Response { status, grpc };
        if retries.grants(cause, self.outcome.endpoint.as_ref()) {
            return true;
        }
        self.retries_ended(retries);
        retries.succeeded(status);
        false
    }

    fn retries_ended(&mut self, retries: &Budget<'_>) {
        if retries.is_exhausted() {
            self.outcome.flags |= ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
        }
    }

    /// Tells the upstream which try this is, and how long it may take.
    fn announce(&mut self, clock: &Clock) {
        let attempt = self.outcome.attempts;
        let headers = &mut self.request.headers;
        let counts = |(table, host): &(Arc<RouteTable>, usize)| {
            table.hosts[*host].include_request_attempt_count
        };
        if self.outcome.host.as_ref().is_some_and(counts) {
            // Nearly always it is the first.
            let count = match attempt {
                1 => Bytes::from_static(b"1"),
                attempt => attempt.to_string().into(),
            };
            headers.set(Known::XEnvoy, ATTEMPT_COUNT, count);
        }
        let expected = clock.expected(attempt);
        if let Some(expected) = expected.filter(|_| !self.context.manager.suppress_envoy_headers) {
            let name = "x-envoy-expected-rq-timeout-ms";
            headers.set(Known::XEnvoy, name, expected.as_millis().to_string());
        }
    }

    async fn lease(
        &self,
        cluster: &Arc<Cluster>,
        client: &mut Client<'_, '_>,
        retries: &Budget<'_>,
    ) -> Result<HttpLease, Broken> {
        let authority = std::str::from_utf8(&self.request.authority).unwrap_or_default();
        let authority = matching::lower_case(matching::without_port(authority));
        let request = LbRequest {
            downstream: self.request.protocol.downstream(),
            excluded: retries.excluded(),
            selection_attempts: retries.selection_attempts(),
            authority: Some(&authority),
            original_destination: Some(self.context.connection.local),
        };
        let lease = self.context.worker.upstreams.http(cluster, &request);
        let lease = Self::unless_gone(client, lease).await;
        lease.ok_or(Broken::Client)?.map_err(Broken::Unavailable)
    }

    /// `future`, unless the client goes away first.
    async fn unless_gone<F: Future>(client: &mut Client<'_, '_>, future: F) -> Option<F::Output> {
        let mut gone = std::pin::pin!(poll_fn(|cx| client.poll_gone(cx)));
        Beside::new(gone.as_mut()).with(future, |()| true).await
    }

    pub(super) fn client_gone(&mut self) {
        self.outcome.flags |= ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION;
        self.outcome.details = "downstream_remote_disconnect".into();
        self.context.stats.downstream_rq_rx_reset.inc();
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
        self.rewrite_response(&mut made);
        let (mut response, body) = response::local(self.context, &self.request, reply);
        response.headers.take_over(made);
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
        response::prepare(
            self.context,
            &self.request,
            &mut response,
            self.meter.started,
        );
        self.tell_attempts(&mut response.headers);
        self.rewrite_response(&mut response.headers);
        self.keep_headers(&response);
        response
    }

    /// Tells the client how many tries there were.
    fn tell_attempts(&self, headers: &mut Headers) {
        let Some((table, host)) = &self.outcome.host else {
            return;
        };
        let attempts = self.outcome.attempts;
        if attempts > 0 && table.hosts[*host].include_attempt_count_in_response {
            headers.set(Known::XEnvoy, ATTEMPT_COUNT, attempts.to_string());
        }
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

/// Whether a connection may change to the protocol `upgrade`: the route has the last word.
fn is_allowed(upgrade: &[u8], manager: &HttpManager, action: &RouteAction) -> bool {
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

/// A cluster's name, and its index among weighted ones.
fn choose_cluster<'c>(clusters: &'c Clusters, request: &'c Request) -> (&'c str, Option<usize>) {
    match clusters {
        Clusters::One(name) => (name, None),
        Clusters::Weighted { total, entries } => {
            let mut at = fastrand::u32(..(*total).max(1));
            for (index, entry) in entries.iter().enumerate() {
                if at < entry.weight {
                    return (&entry.name, Some(index));
                }
                at -= entry.weight;
            }
            ("", None)
        }
        Clusters::Header(name) => {
            let value = request.headers.get(name.as_str());
            let name = value.and_then(|value| std::str::from_utf8(value).ok());
            (name.unwrap_or_default(), None)
        }
    }
}
