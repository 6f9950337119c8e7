//! Series, the tables in which workers find them, and their sums.

use std::{
    cell::RefCell,
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{
    MeshMetric, Telemetry,
    labels::{Kept, Labels},
};
use crate::{
    config::Map,
    stats::{Counter, Histogram, Metric, Tag, Value},
};

/// Series that one worker tells apart, about 1.5 KB each. What comes later is counted as unknown:
/// peers choose some of the labels.
const MAX_SERIES: usize = 8192;

/// Envoy's name of all of these metrics; expositions for Prometheus leave it out.
const NAMESPACE: &str = "istiocustom";

/// What one worker counts under one set of labels.
#[derive(Debug)]
pub struct Series {
    telemetry: Arc<Telemetry>,
    labels: Kept,
    pub requests: Counter,
    /// Milliseconds.
    pub duration: Histogram,
    /// Bytes of a request, as on the wire.
    pub request_bytes: Histogram,
    pub response_bytes: Histogram,
    pub request_messages: Counter,
    pub response_messages: Counter,
    pub tcp_opened: Counter,
    pub tcp_closed: Counter,
    pub tcp_sent: Counter,
    pub tcp_received: Counter,
}

impl Series {
    fn new(telemetry: &Arc<Telemetry>, labels: &Labels<'_>) -> Self {
        Self {
            telemetry: Arc::clone(telemetry),
            labels: Kept::new(labels),
            requests: Counter::default(),
            duration: Histogram::default(),
            request_bytes: Histogram::default(),
            response_bytes: Histogram::default(),
            request_messages: Counter::default(),
            response_messages: Counter::default(),
            tcp_opened: Counter::default(),
            tcp_closed: Counter::default(),
            tcp_sent: Counter::default(),
            tcp_received: Counter::default(),
        }
    }

    fn value(&self, metric: MeshMetric) -> Value {
        let histogram = |histogram: &Histogram| Value::Histogram(Box::new(histogram.sum()));
        match metric {
            MeshMetric::Requests => Value::Counter(self.requests.get()),
            MeshMetric::RequestDuration => histogram(&self.duration),
            MeshMetric::RequestBytes => histogram(&self.request_bytes),
            MeshMetric::ResponseBytes => histogram(&self.response_bytes),
            MeshMetric::RequestMessages => Value::Counter(self.request_messages.get()),
            MeshMetric::ResponseMessages => Value::Counter(self.response_messages.get()),
            MeshMetric::TcpOpened => Value::Counter(self.tcp_opened.get()),
            MeshMetric::TcpClosed => Value::Counter(self.tcp_closed.get()),
            MeshMetric::TcpSent => Value::Counter(self.tcp_sent.get()),
            MeshMetric::TcpReceived => Value::Counter(self.tcp_received.get()),
        }
    }

    fn is(&self, telemetry: &Arc<Telemetry>, labels: &Labels<'_>) -> bool {
        Arc::ptr_eq(&self.telemetry, telemetry) && self.labels.labels() == *labels
    }
}

/// The series of one worker.
#[derive(Debug, Default)]
pub struct SeriesTable(RefCell<Table>);

#[derive(Debug, Default)]
struct Table {
    hasher: foldhash::fast::RandomState,
    by_hash: Map<u64, SmallVec<[Arc<Series>; 1]>>,
    count: usize,
}

impl SeriesTable {
    /// The series of these labels; made if it is new.
    pub fn series(&self, telemetry: &Arc<Telemetry>, labels: &Labels<'_>) -> Arc<Series> {
        let table = &mut *self.0.borrow_mut();
        if let Some(known) = table.find(telemetry, labels) {
            return known;
        }
        if table.count < MAX_SERIES {
            return table.add(telemetry, labels);
        }
        let unknown = Labels::unknown(labels.protocol);
        let known = table.find(telemetry, &unknown);
        known.unwrap_or_else(|| table.add(telemetry, &unknown))
    }
}

impl Table {
    fn hash(&self, telemetry: &Telemetry, labels: &Labels<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        telemetry.id.hash(&mut hasher);
        labels.hash(&mut hasher);
        hasher.finish()
    }

    fn find(&self, telemetry: &Arc<Telemetry>, labels: &Labels<'_>) -> Option<Arc<Series>> {
        let candidates = self.by_hash.get(&self.hash(telemetry, labels))?;
        candidates
            .iter()
            .find(|it| it.is(telemetry, labels))
            .cloned()
    }

    fn add(&mut self, telemetry: &Arc<Telemetry>, labels: &Labels<'_>) -> Arc<Series> {
        let series = Arc::new(Series::new(telemetry, labels));
        let hash = self.hash(telemetry, labels);
        self.by_hash
            .entry(hash)
            .or_default()
            .push(Arc::clone(&series));
        self.count += 1;
        telemetry.registry.0.lock().push(Arc::clone(&series));
        series
    }
}

/// The series of all workers.
#[derive(Debug, Default)]
pub struct MeshRegistry(Mutex<Vec<Arc<Series>>>);

impl MeshRegistry {
    /// What was counted, series by series; the same metric may come more than once.
    pub(crate) fn read(&self, visit: &mut dyn FnMut(Metric)) {
        let all = self.0.lock().clone();
        for series in &all {
            let labels = series.labels.labels();
            for metric in MeshMetric::ALL {
                let value = series.value(metric);
                if !value.is_used() || series.telemetry.changes.is_dropped(metric) {
                    continue;
                }
                let tags = series.telemetry.tags(metric, &labels);
                visit(named(&format!("istio_{}", metric.name()), tags, value));
            }
        }
        if let Some(series) = all.first() {
            visit(build(&series.telemetry.node.istio_version));
        }
    }
}

/// Which version this is.
fn build(version: &str) -> Metric {
    let version = if version.is_empty() {
        "unknown"
    } else {
        version
    };
    let tags = [("component", "proxy"), ("tag", version)];
    let tags = tags.map(|(key, value)| Tag {
        key: key.into(),
        value: value.into(),
    });
    named("istio_build", tags.into(), Value::Gauge(1))
}

fn named(family: &str, tags: Vec<Tag>, value: Value) -> Metric {
    let family = format!("{NAMESPACE}.{family}");
    let mut name = family.clone();
    for Tag { key, value } in &tags {
        name.push('.');
        name.push_str(key);
        name.push('.');
        name.push_str(value);
    }
    Metric {
        name,
        family,
        tags,
        value,
    }
}
