//! One request from its head to the end of its response.
//!
//! [`routing`](super::routing) finds where it goes, [`attempts`](super::attempts) sends it there, and
//! [`counts`](super::counts) has what all of it adds to the statistics.

use std::{borrow::Cow, pin::pin, rc::Rc, sync::Arc};

use bytes::Bytes;

use super::{
    body::{Source, pump},
    client::{Client, Response},
    counts,
    failure::LocalReply,
    filters::FilterState,
    headers::Headers,
    meter::Meter,
    request::{BodyLength, Protocol, Request},
    response,
    timeouts::{Clock, Expired, tell_grpc_timeout},
    trace::Trace,
};
use crate::{
    access_log::ResponseFlags,
    config::{
        Cluster, HttpManager, Snapshot,
        cluster::Endpoint,
        route::{Forward, Route, RouteTable, VirtualHost},
    },
    stats::HttpBlock,
    upstream::{Link, UpstreamFailure},
    worker::{Connection, Worker},
};

/// What all requests of one downstream connection share.
pub(super) struct Context<'x> {
    pub(super) worker: &'x Rc<Worker>,
    pub(super) connection: &'x Rc<Connection>,
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
    /// Once its route is found, if its connection manager traces.
    pub(super) trace: Option<Box<Trace>>,
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
            trace: None,
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

    /// Sends the request to the cluster until it has a response, or the time for it is over.
    pub(super) async fn forward(
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
        let result = clock.limit(pin!(attempts)).await;
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
                self.end_last_try_span();
                self.count_expired(cluster, expired);
                if expired == Expired::Response && self.outcome.status == 0 {
                    self.timed_out(cluster);
                }
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

    pub(super) fn client_gone(&mut self) {
        self.outcome.flags |= ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION;
        self.outcome.details = "downstream_remote_disconnect".into();
        self.context.stats.downstream_rq_rx_reset.inc();
        if self.request.protocol != Protocol::Http2 {
            counts::ended_midway(self.context.stats, &self.context.connection.live);
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
        let mut source = Source::Bytes(body);
        // What cannot be read of our own words is not there.
        let _ = self.filter_response(&mut response, &mut source).await;
        response::finish(self.context, &self.request, &mut response.headers);
        self.name_by_response(&mut response.headers);
        self.outcome.status = response.status;
        self.keep_headers(&response);
        let closing = closing || self.filters.drains;
        self.meter.response_is_sending();
        let Ok(mut sink) = client.respond(response, closing).await else {
            return;
        };
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

    /// The head of the upstream's response, made ours. An error is what to answer in its place.
    pub(super) async fn finish_head(
        &mut self,
        mut response: Response,
        body: &mut Source<'_, '_>,
    ) -> Result<Response, LocalReply> {
        self.outcome.status = response.status;
        self.outcome.details = "via_upstream".into();
        self.meter.response_begins();
        response::prepare(self.context, &mut response, self.meter.started);
        self.tell_attempts(&mut response.headers);
        self.give_cookie(&mut response.headers);
        self.rewrite_response(&mut response.headers);
        self.filter_response(&mut response, body).await?;
        self.outcome.status = response.status;
        response::finish(self.context, &self.request, &mut response.headers);
        self.name_by_response(&mut response.headers);
        self.keep_headers(&response);
        Ok(response)
    }

    /// The response is gone when its line is logged.
    fn keep_headers(&mut self, response: &Response) {
        let needs = self.context.manager.access_log.needs();
        if self.span_tells_of_route() {
            self.outcome.response_headers = response.headers.clone();
        } else if !needs.response_headers.is_empty() {
            self.outcome.response_headers = response.headers.only(&needs.response_headers);
        }
        self.note_response_head(response);
    }
}
