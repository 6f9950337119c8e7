//! The tries of one forwarded request: each leases a connection and sends the request over it.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use ithildin_http1::Known;

use super::{
    body::Source,
    client::{Client, Response},
    exchange::{Broken, Exchange},
    failure::LocalReply,
    hash,
    headers::Headers,
    matching, mutate, prepare,
    race::Beside,
    request::BodyLength,
    retry::{Body, Budget, Cause},
    tape::Tape,
    timeouts::Clock,
    trace::TryEnd,
};
use crate::{
    access_log::ResponseFlags,
    config::{
        Cluster,
        cluster::Endpoint,
        forward::NamedHost,
        route::{Forward, RouteTable},
    },
    outlier::Outcome,
    upstream::{HttpLease, LbRequest},
};

const ATTEMPT_COUNT: &str = "x-envoy-attempt-count";

/// See [`Exchange::failed`].
enum Failed {
    /// The client has an answer, a part of one, or is gone.
    ForGood,
    /// There was an answer, in whose place another try was granted.
    Refused,
    /// The answer, unless it is tried again.
    Try(LocalReply, Cause),
    /// The answer.
    Answer(LocalReply),
}

impl Exchange<'_> {
    /// Tries until a response has come, or may not try again.
    pub(super) async fn attempts(
        &mut self,
        cluster: &Arc<Cluster>,
        forward: &Forward,
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
        clock: &Clock,
    ) -> Result<(), LocalReply> {
        self.asked = self.request.authority.clone();
        let body = self.keep_body(cluster, forward, source);
        let hash = self.hash(forward);
        let retry = forward.retry.as_ref();
        let mut retries = Budget::new(self.context, cluster, retry, hash, body);
        loop {
            self.outcome.attempts += 1;
            // It has none yet; what went wrong at the last one is noted.
            self.outcome.endpoint = None;
            self.announce(clock);
            self.begin_try_span(cluster);
            let attempt = self.attempt(cluster, forward, source, client, clock, &mut retries);
            let result = clock.limit_try(pin!(attempt)).await;
            let result = result.unwrap_or(Err(Broken::Slow));
            let end = TryEnd::of(result.as_ref().copied());
            let Err(broken) = result else {
                self.end_try_span(end);
                return Ok(());
            };
            let failed = self.failed(broken, cluster, client);
            self.end_try_span(end);
            match failed {
                Failed::ForGood => return Ok(()),
                Failed::Refused => {}
                Failed::Answer(reply) => return Err(reply),
                Failed::Try(reply, cause) => {
                    if !retries.grants(cause, self.outcome.endpoint.as_ref()) {
                        self.retries_ended(&retries);
                        return Err(match retries.has_retried() {
                            true => reply.after_retries(),
                            false => reply,
                        });
                    }
                }
            }
            let paused = pin!(retries.back_off());
            if Self::unless_gone(client, paused).await.is_none() {
                self.client_gone();
                return Ok(());
            }
            source.rewind();
        }
    }

    /// What a try that brought no whole response means.
    fn failed(&mut self, broken: Broken, cluster: &Cluster, client: &mut Client<'_, '_>) -> Failed {
        match broken {
            Broken::Client => {
                self.count_cancelled(cluster);
                self.client_gone();
                Failed::ForGood
            }
            Broken::Midway(flags, details) => {
                self.cut_off(client);
                self.count_broken(cluster, flags);
                self.record(cluster, Outcome::Failed);
                self.outcome.flags |= flags;
                self.outcome.details = details.into();
                Failed::ForGood
            }
            Broken::Refused => Failed::Refused,
            Broken::Slow => {
                let stats = cluster.stats.worker(self.context.worker.index);
                stats.upstream_rq_per_try_timeout.inc();
                self.count_cancelled(cluster);
                self.timed_out(cluster);
                Failed::Try(LocalReply::per_try_timeout(), Cause::Slow)
            }
            Broken::Unavailable(failure) => {
                self.outcome.endpoint.clone_from(&failure.endpoint);
                self.record(cluster, Outcome::Failed);
                let cause = Cause::Unavailable(failure.kind);
                Failed::Try(LocalReply::unavailable(&failure), cause)
            }
            Broken::BeforeResponse { reply, stale } => {
                self.count_broken(cluster, reply.flags);
                self.record(cluster, Outcome::Failed);
                self.count_for_host(|host| host.rq_error.inc());
                Failed::Try(reply, Cause::Reset { stale })
            }
            Broken::BadRequest(reply) => Failed::Answer(reply),
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
        if forward.terminates_connect && self.request.is_connect() {
            return Box::pin(self.over_tcp(cluster, client, clock, retries)).await;
        }
        let lease = self.lease(cluster, client, retries).await?;
        let worker = self.context.worker.index;
        cluster.record(lease.endpoint(), worker, Outcome::Connected);
        if forward.auto_host_rewrite && !lease.endpoint().hostname.is_empty() {
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
        if self.request.authority == self.asked {
            let append = forward.append_x_forwarded_host;
            mutate::rewrite_host(self.context.manager, &mut self.request, &host, append);
        } else {
            self.request.authority = host;
        }
    }

    /// Tells outlier detection how a try went at the endpoint that was chosen, if one was.
    fn record(&self, cluster: &Cluster, outcome: Outcome) {
        if let Some(endpoint) = &self.outcome.endpoint {
            cluster.record(endpoint, self.context.worker.index, outcome);
        }
    }

    /// The endpoint did not answer in time.
    pub(super) fn timed_out(&self, cluster: &Cluster) {
        self.record(cluster, Outcome::TimedOut);
        self.count_for_host(|host| {
            host.rq_timeout.inc();
            host.rq_error.inc();
        });
    }

    /// Counts a response, and tells whether another try is granted in its place.
    pub(super) fn refuses(&mut self, answer: &Response, retries: &mut Budget<'_>) -> bool {
        self.try_is_answered(answer);
        let (status, headers) = (answer.status, &answer.headers);
        let grpc = headers.get("grpc-status");
        let grpc = grpc.and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
        let judged = grpc.map_or(status, grpc_to_http);
        let outcome = Outcome::Response(retries.cluster().outlier_status(status, judged));
        self.record(retries.cluster(), outcome);
        self.count_for_host(|host| match judged {
            500..600 => host.rq_error.inc(),
            _ => host.rq_success.inc(),
        });
        if !retries.judges_responses() {
            self.count_code(retries.cluster(), status);
            return false;
        }
        let cause = Cause::Response {
            status,
            grpc,
            limited: headers.get("x-envoy-ratelimited").is_some(),
        };
        if retries.grants(cause, self.outcome.endpoint.as_ref()) {
            let stats = retries.cluster().stats.worker(self.context.worker.index);
            stats.retry.used().count(status);
            return true;
        }
        self.count_code(retries.cluster(), status);
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
        let authority = std::str::from_utf8(&self.asked).unwrap_or_default();
        let (authority, port) = matching::host_and_port(authority);
        let request = LbRequest {
            named: Self::named(cluster, &authority, port),
            downstream: self.request.protocol.downstream(),
            excluded: retries.excluded(),
            selection_attempts: retries.selection_attempts(),
            avoid_priorities_every: retries.avoid_priorities_every(),
            hash: retries.hash(),
            authority: Some(&authority),
            alpn: self.alpn(),
            original_destination: self.original_destination(cluster),
            downstream_end: Some(self.context.connection.end()),
        };
        let lease = self.context.worker.upstreams.http(cluster, &request);
        let lease = Self::unless_gone(client, pin!(lease)).await;
        lease.ok_or(Broken::Client)?.map_err(Broken::Unavailable)
    }

    /// Where a cluster leads to that goes by what requests name.
    pub(super) fn named<'a>(
        cluster: &Cluster,
        host: &'a str,
        port: Option<u16>,
    ) -> Option<NamedHost<'a>> {
        cluster.forward.as_ref()?;
        let name = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let default = match cluster.transport.tls(0) {
            Some(_) => 443,
            None => 80,
        };
        Some(NamedHost {
            name: name.unwrap_or(host),
            port: port.unwrap_or(default),
        })
        .filter(|host| !host.name.is_empty())
    }

    /// Where an ORIGINAL_DST cluster leads to: what the request's own header says goes first.
    pub(super) fn original_destination(&self, cluster: &Cluster) -> Option<SocketAddr> {
        let header = cluster.original_dst.header.as_ref();
        let told = header.and_then(|name| self.request.headers.get(name.as_str()));
        let told = told.and_then(|value| {
            let address = std::str::from_utf8(value).ok()?.parse().ok();
            if address.is_none() {
                let stats = cluster.stats.worker(self.context.worker.index);
                stats.original_dst_host_invalid.inc();
            }
            address
        });
        told.or(self.context.connection.original_destination())
    }

    /// Whether the client went away while its answer is waited for. While its body is read, an
    /// HTTP/1 connection tells by that.
    pub(super) fn poll_client_gone(
        &self,
        cx: &mut Context<'_>,
        client: &mut Client<'_, '_>,
        clock: &Clock,
    ) -> Poll<()> {
        let silent = self.request.body == BodyLength::Empty || clock.is_complete();
        match silent || matches!(client, Client::Http2 { .. }) {
            true => client.poll_gone(cx),
            false => Poll::Pending,
        }
    }

    /// `future`, unless the client goes away first.
    pub(super) async fn unless_gone<F: Future>(
        client: &mut Client<'_, '_>,
        future: Pin<&mut F>,
    ) -> Option<F::Output> {
        let mut gone = pin!(poll_fn(|cx| client.poll_gone(cx)));
        Beside::new(gone.as_mut()).with(future, |()| true).await
    }

    /// By the route's policies. A cookie that they make goes with the response.
    fn hash(&mut self, forward: &Forward) -> Option<u64> {
        if forward.hash.is_empty() {
            return None;
        }
        let connection = self.context.connection;
        let told = prepare::told_address(self.context.manager, &self.request.headers);
        let client = told.unwrap_or(connection.remote.ip());
        let hashed = hash::hash(&forward.hash, &self.request, connection, client);
        self.outcome.cookie = hashed.cookie;
        hashed.hash
    }

    /// Gives the client the cookie that leads to the same host again.
    pub(super) fn give_cookie(&mut self, headers: &mut Headers) {
        if let Some(cookie) = self.outcome.cookie.take() {
            headers.append(http::header::SET_COOKIE, cookie);
        }
    }

    /// Tells the client how many tries there were.
    pub(super) fn tell_attempts(&self, headers: &mut Headers) {
        let Some((table, host)) = &self.outcome.host else {
            return;
        };
        let attempts = self.outcome.attempts;
        if attempts > 0 && table.hosts[*host].include_attempt_count_in_response {
            headers.set(Known::XEnvoy, ATTEMPT_COUNT, attempts.to_string());
        }
    }
}

/// The HTTP status that stands for a gRPC code (Envoy's `Grpc::Utility::grpcToHttpStatus`).
fn grpc_to_http(code: u32) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}
