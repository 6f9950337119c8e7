//! Spans of requests (`HttpConnectionManager.Tracing`, `envoy.config.trace.v3`), compiled.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;

use super::{custom_tag::CustomTag, filters::Percent};
use crate::{access_log::Template, http::collector::Collector, istio::Node};

/// What a connection manager says of spans.
#[derive(Debug)]
pub struct Tracing {
    /// Who is told of them; `None`: nobody, but requests are sampled all the same.
    pub tracer: Option<Arc<Tracer>>,
    /// `traffic_direction: OUTBOUND` of the listener.
    pub egress: bool,
    /// This proxy is a hop of its own (`spawn_upstream_span`), whatever the direction.
    pub own_hop: bool,
    /// Each try has a span of its own: as above, or by the router's `start_child_span`.
    pub upstream_spans: bool,
    pub sampling: Sampling,
    /// Bytes of a path that a span tells.
    pub max_path_length: usize,
    pub tags: Box<[CustomTag]>,
    /// Goes before what routes and the other side call a request.
    pub operation: Option<Template>,
    /// Of the span of a try.
    pub upstream_operation: Option<Template>,
    /// Whether the upstream is told of the span.
    pub propagates: bool,
    /// Whether `x-request-id` tells the next hop what was decided (`pack_trace_reason`).
    pub packs_reason: bool,
    /// Whether it is what decides (`use_request_id_for_trace_sampling`).
    pub samples_by_request_id: bool,
    pub node: Arc<Node>,
}

impl Tracing {
    /// What is printed of a request when it is over.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        let tags = self.tags.iter().filter_map(CustomTag::template);
        let names = [&self.operation, &self.upstream_operation];
        tags.chain(names.into_iter().flatten())
    }
}

/// Which requests have spans, each share of all.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Of those whose client asks for it.
    pub client: Percent,
    pub random: Percent,
    /// Of those that were chosen.
    pub overall: Percent,
}

/// What a route says of spans (`Route.tracing`).
#[derive(Debug)]
pub struct RouteTracing {
    pub sampling: Sampling,
    /// They go before those of the connection manager.
    pub tags: Box<[CustomTag]>,
    pub operation: Option<Template>,
    pub upstream_operation: Option<Template>,
}

/// What requests of a route are called (`Route.decorator`).
#[derive(Debug)]
pub struct Decorator {
    pub operation: Box<str>,
    /// What the other side is told, if anything.
    pub told: Option<Bytes>,
}

/// Who is told of spans, and in which words. Connection managers with one configuration share it.
#[derive(Debug)]
pub struct Tracer {
    pub dialect: Dialect,
    /// `None`: spans go from hop to hop, and no further.
    pub(crate) collector: Option<Arc<Collector>>,
}

#[derive(Debug)]
pub enum Dialect {
    OpenTelemetry {
        /// `always_on`: whatever was decided.
        samples_all: bool,
    },
    Zipkin(Zipkin),
}

/// `envoy.config.trace.v3.ZipkinConfig`.
#[derive(Debug)]
pub struct Zipkin {
    /// New traces have ids of 128 bits.
    pub wide_ids: bool,
    /// They begin with the time in seconds.
    pub timed_ids: bool,
    /// A server's span is the client's (`shared_span_context`).
    pub shares_context: bool,
    /// As `Tracing::own_hop` (`split_spans_for_request`).
    pub own_hop: bool,
    /// `traceparent` is read where there is nothing of B3, and written beside it.
    pub speaks_w3c: bool,
    /// Who tells: the cluster of this proxy, and its address.
    pub service: Arc<str>,
    pub address: Option<IpAddr>,
}
