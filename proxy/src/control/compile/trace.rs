//! Spans of requests: what connection managers and routes say of them. Who is told: `trace_provider`.
//!
//! Spans only observe: what we cannot tell of them is left out with a warning.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use ithildin_proto::pb::envoy::{
    config::route::v3::{Decorator as DecoratorProto, Tracing as RouteTracingProto},
    extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing as TracingProto,
    r#type::{
        tracing::v3::custom_tag::Type,
        v3::{FractionalPercent, Percent as PercentProto},
    },
};

use super::{Compiler, ListenerParts, access_log, custom_tags, fault, trace_provider};
use crate::{
    access_log::Template,
    config::{
        filters::Percent,
        trace::{Decorator, RouteTracing, Sampling, Tracing},
    },
    control::report::At,
};

/// Bytes of a path that a span tells, unless the configuration says otherwise; Envoy's.
const DEFAULT_MAX_PATH_LENGTH: usize = 256;

/// What the parts of a connection manager beside `tracing` say of spans.
pub(super) struct Beside {
    /// The router's `start_child_span`.
    pub(super) start_child_span: bool,
    pub(super) request_id: RequestIdUse,
}

/// What `request_id_extension` says.
#[derive(Clone, Copy)]
pub(super) struct RequestIdUse {
    pub(super) packs_reason: bool,
    pub(super) samples: bool,
}

impl Default for RequestIdUse {
    fn default() -> Self {
        Self {
            packs_reason: true,
            samples: true,
        }
    }
}

/// What a connection manager says of spans.
pub(super) fn tracing(
    config: &TracingProto,
    beside: &Beside,
    compiler: &mut Compiler,
    parts: &ListenerParts,
    at: &At<'_>,
) -> Tracing {
    let TracingProto {
        client_sampling,
        random_sampling,
        overall_sampling,
        verbose,
        max_path_tag_length,
        custom_tags,
        provider,
        spawn_upstream_span,
        operation,
        upstream_operation,
        no_context_propagation,
    } = config;
    if *verbose {
        at.field("verbose")
            .warn("is not supported; spans have no annotations");
    }
    let tracer = match provider {
        Some(config) => trace_provider::tracer(config, compiler, &at.field("provider")),
        None => compiler.default_tracer.clone(),
    };
    let own_hop = spawn_upstream_span.is_some_and(|value| value.value);
    let length = max_path_tag_length.map(|value| value.value as usize);
    Tracing {
        tracer,
        egress: parts.outbound,
        own_hop,
        upstream_spans: own_hop || beside.start_child_span,
        sampling: Sampling {
            client: whole_percent(client_sampling.as_ref()),
            random: percent(random_sampling.as_ref()),
            overall: percent(overall_sampling.as_ref()),
        },
        max_path_length: length.unwrap_or(DEFAULT_MAX_PATH_LENGTH),
        tags: custom_tags::tags(custom_tags, true, at),
        operation: template("operation", operation, at),
        upstream_operation: template("upstream_operation", upstream_operation, at),
        propagates: !no_context_propagation,
        packs_reason: beside.request_id.packs_reason,
        samples_by_request_id: beside.request_id.samples,
        node: Arc::clone(&compiler.node),
    }
}

/// What a route says of spans.
pub(super) fn of_route(config: &RouteTracingProto, at: &At<'_>) -> RouteTracing {
    let RouteTracingProto {
        client_sampling,
        random_sampling,
        overall_sampling,
        custom_tags,
        operation,
        upstream_operation,
    } = config;
    let percent = |field: &'static str, config: &Option<FractionalPercent>| match config {
        Some(config) => fault::percent(Some(config), &at.field(field)).unwrap_or(Percent::NONE),
        None => Percent::ALL,
    };
    let texts = custom_tags.iter().map(|tag| match &tag.r#type {
        Some(Type::Value(text)) => text.as_str(),
        _ => "",
    });
    let mut texts = texts.chain([operation.as_str(), upstream_operation.as_str()]);
    if texts.any(|text| text.contains("TRAILER(")) {
        at.warn("trailers of responses are known to the connection manager's tags alone");
    }
    RouteTracing {
        sampling: Sampling {
            client: percent("client_sampling", client_sampling),
            random: percent("random_sampling", random_sampling),
            overall: percent("overall_sampling", overall_sampling),
        },
        tags: custom_tags::tags(custom_tags, true, at),
        operation: template("operation", operation, at),
        upstream_operation: template("upstream_operation", upstream_operation, at),
    }
}

/// What requests of a route are called.
pub(super) fn decorator(config: &DecoratorProto, at: &At<'_>) -> Option<Decorator> {
    let DecoratorProto {
        operation,
        propagate,
    } = config;
    let at_operation = at.field("operation");
    let told = at_operation.check(HeaderValue::from_str(at.text("operation", operation)?))?;
    Some(Decorator {
        operation: operation.as_str().into(),
        told: propagate
            .is_none_or(|value| value.value)
            .then(|| Bytes::copy_from_slice(told.as_bytes())),
    })
}

/// Whole percents, as Envoy has it for what clients ask.
fn whole_percent(config: Option<&PercentProto>) -> Percent {
    config.map_or(Percent::ALL, |config| Percent {
        numerator: config.value as u32,
        denominator: 100,
    })
}

/// Parts of ten thousand.
fn percent(config: Option<&PercentProto>) -> Percent {
    let denominator = 10_000;
    config.map_or(Percent::ALL, |config| Percent {
        numerator: (config.value * f64::from(denominator) / 100.0).round() as u32,
        denominator,
    })
}

fn template(field: &str, text: &str, at: &At<'_>) -> Option<Template> {
    if text.is_empty() {
        return None;
    }
    access_log::template(text, &at.field(field))
}
