//! What client connections and their requests add to the statistics, under the names that Envoy gives these.

use std::{cell::Cell, rc::Rc};

use super::{
    exchange::Exchange,
    failure::LocalReply,
    request::{Protocol, Request},
    timeouts::Expired,
};
use crate::{
    access_log::ResponseFlags,
    config::{Cluster, http::Codec},
    io::Live,
    stats::{CodesBlock, EndpointBlock, Gauge, HttpBlock, milliseconds},
    worker::Connection,
};

/// Counts one connection while it lives, however it ends.
pub(super) struct ActiveConnection<'a> {
    stats: &'a HttpBlock,
    connection: Rc<Connection>,
    codec: Cell<Option<&'a Gauge>>,
}

impl<'a> ActiveConnection<'a> {
    pub(super) fn new(stats: &'a HttpBlock, connection: &Rc<Connection>) -> Self {
        stats.downstream_cx_total.inc();
        stats.downstream_cx_active.inc();
        if connection.tls.is_some() {
            stats.downstream_cx_ssl_total.inc();
            stats.downstream_cx_ssl_active.inc();
        }
        Self {
            stats,
            connection: Rc::clone(connection),
            codec: Cell::new(None),
        }
    }

    pub(super) fn speaks(&self, codec: Codec) {
        let stats = self.stats;
        let (total, active) = match codec {
            Codec::Http2 => (
                &stats.downstream_cx_http2_total,
                &stats.downstream_cx_http2_active,
            ),
            Codec::Auto | Codec::Http1 => (
                &stats.downstream_cx_http1_total,
                &stats.downstream_cx_http1_active,
            ),
        };
        total.inc();
        active.inc();
        self.codec.set(Some(active));
    }
}

impl Drop for ActiveConnection<'_> {
    fn drop(&mut self) {
        let (stats, live) = (self.stats, &self.connection.live);
        passed_bytes(stats, live);
        stats.downstream_cx_active.dec();
        if self.connection.tls.is_some() {
            stats.downstream_cx_ssl_active.dec();
        }
        if let Some(active) = self.codec.get() {
            active.dec();
        }
        stats
            .downstream_cx_length_ms
            .record(milliseconds(self.connection.accepted));
        stats.downstream_cx_destroy.inc();
        match live.is_ended_by_peer() {
            true => stats.downstream_cx_destroy_remote.inc(),
            false => stats.downstream_cx_destroy_local.inc(),
        }
    }
}

/// Counts a connection that ends in the middle of a request.
pub(super) fn ended_midway(stats: &HttpBlock, live: &Live) {
    stats.downstream_cx_destroy_active_rq.inc();
    match live.is_ended_by_peer() {
        true => stats.downstream_cx_destroy_remote_active_rq.inc(),
        false => stats.downstream_cx_destroy_local_active_rq.inc(),
    }
}

/// Counts what has passed on a client's connection since it was counted last.
pub(super) fn passed_bytes(stats: &HttpBlock, live: &Live) {
    let (received, sent) = live.take_passed();
    stats.downstream_cx_rx_bytes_total.add(received);
    stats.downstream_cx_tx_bytes_total.add(sent);
}

impl Exchange<'_> {
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

    /// Counts a request that ended, however it did.
    pub(super) fn count(&self) {
        let stats = self.context.stats;
        stats.downstream_rq_active.dec();
        class(stats, self.outcome.status);
        stats
            .downstream_rq_time
            .record(milliseconds(self.meter.started));
    }

    /// Counts an answer to a request that is not all there.
    pub(super) fn response_came_first(&self) {
        let stats = self.context.stats;
        stats.downstream_rq_response_before_rq_complete.inc();
    }

    /// Counts a request for which there is no route.
    pub(super) fn count_routeless(&self, reply: &LocalReply) {
        let stats = self.context.stats;
        stats.rq_total.inc();
        if reply.flags == ResponseFlags::NO_ROUTE_FOUND {
            stats.no_route.inc();
        }
    }

    pub(super) fn count_expired(&self, cluster: &Cluster, expired: Expired) {
        let upstream = cluster.stats.worker(self.context.worker.index);
        let stats = self.context.stats;
        match expired {
            Expired::Response => upstream.upstream_rq_timeout.inc(),
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
    pub(super) fn count_time(&self, cluster: &Cluster) {
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

    /// Counts a request that the upstream broke off.
    pub(super) fn count_broken(&self, cluster: &Cluster, flags: ResponseFlags) {
        let stats = cluster.stats.worker(self.context.worker.index);
        if flags.intersects(ResponseFlags::UPSTREAM_PROTOCOL_ERROR) {
            stats.upstream_cx_protocol_error.inc();
        }
        let by_peer =
            ResponseFlags::UPSTREAM_REMOTE_RESET | ResponseFlags::UPSTREAM_CONNECTION_TERMINATION;
        if flags.intersects(by_peer) && self.has_stream() {
            stats.upstream_rq_rx_reset.inc();
        }
    }

    /// Counts a request that we break off, if it has a stream of its own: an HTTP/1 connection is closed.
    pub(super) fn count_cancelled(&self, cluster: &Cluster) {
        if self.has_stream() {
            let stats = cluster.stats.worker(self.context.worker.index);
            stats.upstream_rq_tx_reset.inc();
        }
    }

    /// Counts an upstream that ends its connection with its response.
    pub(super) fn count_close_notify(&self, cluster: &Cluster) {
        let stats = cluster.stats.worker(self.context.worker.index);
        stats.upstream_cx_close_notify.inc();
    }

    fn has_stream(&self) -> bool {
        self.outcome.endpoint.is_some() && self.outcome.upstream_protocol == Some(Protocol::Http2)
    }

    /// Counts for the endpoint that was chosen, if one was.
    pub(super) fn count_for_host(&self, count: impl FnOnce(&EndpointBlock)) {
        if let Some(endpoint) = &self.outcome.endpoint {
            count(endpoint.stats.worker(self.context.worker.index));
        }
    }
}

/// Counts a request for another protocol, or for a tunnel, while it lives.
pub(super) struct Upgrade<'x>(Option<&'x HttpBlock>);

impl<'x> Upgrade<'x> {
    pub(super) fn new(stats: &'x HttpBlock, request: &Request) -> Self {
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

/// Counts a finished request by its class.
fn class(stats: &HttpBlock, status: u16) {
    match status {
        100..200 => stats.downstream_rq_1xx.inc(),
        200..300 => stats.downstream_rq_2xx.inc(),
        300..400 => stats.downstream_rq_3xx.inc(),
        400..500 => stats.downstream_rq_4xx.inc(),
        500..600 => stats.downstream_rq_5xx.inc(),
        _ => return,
    }
    stats.downstream_rq_completed.inc();
}
