//! Spans in OpenTelemetry's words: the items of an OTLP request, and what goes around them.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use ithildin_proto::{
    opentelemetry::spans as proto,
    pb::opentelemetry::proto::common::v1::{AnyValue, KeyValue, any_value},
};
use prost::encoding::{self, WireType};

use super::{
    Ended,
    span::{Kind, Span},
    tags::{GRPC_STATUS_CODE, STATUS_CODE, Tags},
};
use crate::{
    http::collector::{Fate, Report},
    stats::OpenTelemetryStats,
};

/// Fields of the request, of `ResourceSpans` and of `ScopeSpans`.
const RESOURCE_SPANS: u32 = 1;
const RESOURCE: u32 = 1;
const SCOPE_SPANS: u32 = 2;
const SCOPE: u32 = 1;
const SPANS: u32 = 2;

/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK` and `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`.
const FLAG_KNOWS_PARENT: u32 = 1 << 8;
const FLAG_REMOTE_PARENT: u32 = 1 << 9;

/// Appends a span, as a field of the `ScopeSpans` that it will be in.
pub(super) fn append(ended: &Ended<'_>, out: &mut Vec<u8>) {
    let Ended { span, name, tags } = ended;
    let started = nanoseconds(span.started);
    let took = u64::try_from(span.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let attributes = tags.iter().map(|(key, value)| attribute(key, value));
    let state = span.state.as_deref().unwrap_or_default();
    let message = proto::Span {
        trace_id: span.ids.trace.to_be_bytes().into(),
        span_id: span.ids.span.to_be_bytes().into(),
        trace_state: String::from_utf8_lossy(state).into_owned(),
        parent_span_id: match span.parent {
            Some(parent) => parent.to_be_bytes().into(),
            None => Vec::new(),
        },
        name: name.to_string(),
        kind: match span.kind {
            Kind::Server => proto::span::Kind::Server.into(),
            Kind::Client => proto::span::Kind::Client.into(),
        },
        start_time_unix_nano: started,
        end_time_unix_nano: started.saturating_add(took),
        attributes: attributes.collect(),
        flags: flags(span),
        status: is_error(span.kind, tags).then(|| proto::Status {
            message: String::new(),
            code: proto::status::Code::Error.into(),
        }),
    };
    encoding::message::encode(SPANS, &message, out);
}

/// What goes around the spans of one resource, and what becomes of them.
#[derive(Debug)]
pub(crate) struct OtlpReport {
    /// Encoded, with its tag.
    resource: Vec<u8>,
    /// As well.
    scope: Vec<u8>,
    stats: Arc<OpenTelemetryStats>,
}

impl OtlpReport {
    /// `resource` tells of who sends the spans.
    pub(crate) fn new(
        resource: &[(String, String)],
        has_scope: bool,
        stats: Arc<OpenTelemetryStats>,
    ) -> Self {
        let attributes = resource.iter().map(|(key, value)| attribute(key, value));
        let resource = proto::Resource {
            attributes: attributes.collect(),
        };
        let scope = proto::InstrumentationScope {
            name: "ithildin".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut report = Self {
            resource: Vec::new(),
            scope: Vec::new(),
            stats,
        };
        encoding::message::encode(RESOURCE, &resource, &mut report.resource);
        if has_scope {
            encoding::message::encode(SCOPE, &scope, &mut report.scope);
        }
        report
    }
}

impl Report for OtlpReport {
    fn write(&self, spans: &[u8], body: &mut Vec<u8>) {
        let scope_spans = self.scope.len() + spans.len();
        let resource_spans = self.resource.len() + field_length(SCOPE_SPANS, scope_spans);
        body.reserve(field_length(RESOURCE_SPANS, resource_spans));
        open(RESOURCE_SPANS, resource_spans, body);
        body.extend_from_slice(&self.resource);
        open(SCOPE_SPANS, scope_spans, body);
        body.extend_from_slice(&self.scope);
        body.extend_from_slice(spans);
    }

    fn count(&self, worker: usize, fate: Fate, spans: u64) {
        let stats = self.stats.worker(worker);
        match fate {
            Fate::Dropped => stats.spans_dropped.add(spans),
            Fate::Due => stats.timer_flushed.inc(),
            Fate::Sent | Fate::NoCluster | Fate::Failed | Fate::Refused => {
                stats.spans_sent.add(spans);
            }
        }
    }
}

/// Begins a message of `length` bytes in the field `tag`.
fn open(tag: u32, length: usize, out: &mut Vec<u8>) {
    encoding::encode_key(tag, WireType::LengthDelimited, out);
    encoding::encode_varint(length as u64, out);
}

fn field_length(tag: u32, length: usize) -> usize {
    encoding::key_len(tag) + encoding::encoded_len_varint(length as u64) + length
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = any_value::Value::StringValue(value.to_owned());
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// Whether it is sampled, and where its parent is (`SpanFlags`).
fn flags(span: &Span) -> u32 {
    let parent = match span.has_remote_parent {
        true => FLAG_KNOWS_PARENT | FLAG_REMOTE_PARENT,
        false => FLAG_KNOWS_PARENT,
    };
    parent | u32::from(span.ids.sampled)
}

/// What a client did wrong is no error of who serves it (OpenTelemetry, "Semantic conventions for HTTP
/// spans" and "for gRPC").
fn is_error(kind: Kind, tags: &Tags<'_>) -> bool {
    let number = |tag| tags.get(tag)?.parse::<u32>().ok();
    let (http, grpc) = (number(STATUS_CODE), number(GRPC_STATUS_CODE));
    match kind {
        Kind::Client => http.is_some_and(|it| it >= 400) || grpc.is_some_and(|it| it != 0),
        Kind::Server => {
            http.is_some_and(|it| it >= 500) || matches!(grpc, Some(2 | 4 | 12 | 13 | 14 | 15))
        }
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
