//! Spans in Zipkin's words: objects of JSON (its API v2), and the list around them.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};

use super::{Ended, span::Kind};
use crate::{
    config::trace::Zipkin,
    http::collector::{Fate, Report},
    stats::ZipkinStats,
};

/// Appends a span behind a comma.
pub(super) fn append(zipkin: &Zipkin, ended: &Ended<'_>, out: &mut Vec<u8>) {
    let Ended { span, name, tags } = ended;
    let id = |id: u64| format!("{id:016x}");
    let mut object = json!({
        "traceId": span.ids.trace_hex(),
        "id": id(span.ids.span),
        "name": name,
        "kind": match span.kind {
            Kind::Server => "SERVER",
            Kind::Client => "CLIENT",
        },
        "timestamp": microseconds(since_epoch(span.started)),
        "duration": microseconds(span.elapsed()),
        "localEndpoint": endpoint(zipkin),
    });
    if let Some(parent) = span.parent {
        object["parentId"] = id(parent).into();
    }
    let ended = microseconds(since_epoch(span.started) + span.elapsed());
    object["annotations"] = json!([{
        "timestamp": ended,
        "value": match span.kind {
            Kind::Server => "ss",
            Kind::Client => "cr",
        },
    }]);
    if zipkin.shares_context && span.kind == Kind::Server {
        object["shared"] = true.into();
    }
    // What says nothing is left out.
    let tags = tags.iter().filter(|(_, value)| !value.is_empty());
    let tags = tags.map(|(key, value)| (key.to_owned(), Value::from(value)));
    object["tags"] = Value::Object(tags.collect());
    out.push(b',');
    out.extend_from_slice(object.to_string().as_bytes());
}

/// Makes a list of what was appended, and counts what becomes of it.
#[derive(Debug)]
pub(crate) struct ZipkinReport(Arc<ZipkinStats>);

impl ZipkinReport {
    pub(crate) fn new(stats: Arc<ZipkinStats>) -> Self {
        Self(stats)
    }
}

impl Report for ZipkinReport {
    fn write(&self, spans: &[u8], body: &mut Vec<u8>) {
        body.push(b'[');
        body.extend_from_slice(spans.strip_prefix(b",").unwrap_or(spans));
        body.push(b']');
    }

    fn count(&self, worker: usize, fate: Fate, spans: u64) {
        let stats = self.0.worker(worker);
        match fate {
            Fate::Dropped => return stats.spans_dropped.add(spans),
            Fate::Due => return stats.timer_flushed.inc(),
            Fate::Sent => stats.reports_sent.inc(),
            Fate::NoCluster => stats.reports_skipped_no_cluster.inc(),
            Fate::Failed => stats.reports_failed.inc(),
            Fate::Refused => stats.reports_dropped.inc(),
        }
        stats.spans_sent.add(spans);
    }
}

fn endpoint(zipkin: &Zipkin) -> Value {
    let mut endpoint = Map::new();
    if let Some(address) = zipkin.address {
        let key = match address {
            IpAddr::V4(_) => "ipv4",
            IpAddr::V6(_) => "ipv6",
        };
        endpoint.insert(key.to_owned(), address.to_string().into());
        endpoint.insert("port".to_owned(), 0.into());
    }
    if !zipkin.service.is_empty() {
        endpoint.insert("serviceName".to_owned(), (*zipkin.service).into());
    }
    endpoint.into()
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
