//! Series, the tables in which workers find them, and their sums.

use std::{
    cell::RefCell,
    collections::HashSet,
    hash::{BuildHasher, Hash, Hasher},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{
    MeshMetric, Telemetry,
    labels::{Kept, Labels},
};
use crate::{
    config::Map,
    stats::{Counter, Histogram, Metric, Tag, Value, milliseconds},
};

/// Bytes of the series that one worker tells apart: peers choose some of the labels. What comes
/// later is counted as unknown, until series go that nobody has used for a while. With labels as
/// Kubernetes has them this is room for about 8000 series.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Where there is no room, series go that were not used for this long. Those of Pods that are gone
/// are such; for Prometheus a counter that comes back has begun anew.
const IDLE: Duration = Duration::from_secs(600);

/// How often series that may go are looked for: it takes a look at all of them.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The table of its worker, and the registry. Whoever else holds a series still counts in it.
const HOLDERS: usize = 2;

/// Bytes of a series without its labels, four histograms included.
const SERIES_BYTES: usize = 1024;

/// Envoy's name of all of these metrics; expositions for Prometheus leave it out.
const NAMESPACE: &str = "istiocustom";

/// What one worker counts under one set of labels.
#[derive(Debug)]
pub struct Series {
    telemetry: Arc<Telemetry>,
    labels: Kept,
    /// When it was last looked up, in milliseconds since the registry was made.
    used: AtomicU64,
    /// The registry has let go of it: its worker is to count in a new one.
    expired: AtomicBool,
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
            used: AtomicU64::new(telemetry.registry.now()),
            expired: AtomicBool::new(false),
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
        Arc::ptr_eq(&self.telemetry, telemetry)
            && self.labels.labels() == *labels
            && !self.expired.load(Relaxed)
    }

    /// What it is charged with: labels may be shared with other series, and are counted in full.
    fn bytes(&self) -> usize {
        SERIES_BYTES + self.labels.bytes()
    }
}

/// The series of one worker.
#[derive(Debug, Default)]
pub struct SeriesTable(RefCell<Table>);

#[derive(Debug, Default)]
struct Table {
    hasher: foldhash::fast::RandomState,
    by_hash: Map<u64, SmallVec<[Arc<Series>; 1]>>,
    bytes: usize,
    /// The registry's sweeps whose expired series are gone from here.
    swept: u64,
}

impl SeriesTable {
    /// The series of these labels; made if it is new.
    pub fn series(&self, telemetry: &Arc<Telemetry>, labels: &Labels<'_>) -> Arc<Series> {
        let table = &mut *self.0.borrow_mut();
        if let Some(known) = table.find(telemetry, labels) {
            return known;
        }
        if table.has_room(&telemetry.registry) {
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
        let found = candidates.iter().find(|it| it.is(telemetry, labels))?;
        found.used.store(telemetry.registry.now(), Relaxed);
        Some(Arc::clone(found))
    }

    /// Whether there is room for one more, made by what may go if need be.
    fn has_room(&mut self, registry: &MeshRegistry) -> bool {
        if self.bytes < MAX_BYTES {
            return true;
        }
        let sweeps = registry.sweep();
        if mem::replace(&mut self.swept, sweeps) != sweeps {
            self.by_hash.retain(|_, candidates| {
                candidates.retain(|it| !it.expired.load(Relaxed));
                !candidates.is_empty()
            });
            self.by_hash.shrink_to_fit();
            let left = self.by_hash.values().flatten();
            self.bytes = left.map(|series| series.bytes()).sum();
        }
        self.bytes < MAX_BYTES
    }

    fn add(&mut self, telemetry: &Arc<Telemetry>, labels: &Labels<'_>) -> Arc<Series> {
        let series = Arc::new(Series::new(telemetry, labels));
        let hash = self.hash(telemetry, labels);
        self.by_hash
            .entry(hash)
            .or_default()
            .push(Arc::clone(&series));
        self.bytes += series.bytes();
        telemetry.registry.list.lock().push(Arc::clone(&series));
        series
    }
}

/// The series of all workers.
#[derive(Debug)]
pub struct MeshRegistry {
    began: Instant,
    list: Mutex<Vec<Arc<Series>>>,
    sweeps: Mutex<Sweeps>,
}

#[derive(Debug, Default)]
struct Sweeps {
    count: u64,
    last: Option<Duration>,
}

impl Default for MeshRegistry {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            list: Mutex::default(),
            sweeps: Mutex::default(),
        }
    }
}

impl MeshRegistry {
    /// Milliseconds since it was made.
    fn now(&self) -> u64 {
        milliseconds(self.began)
    }

    /// Lets go of what may go, if the last time is a while ago. Says how often that was done.
    fn sweep(&self) -> u64 {
        let now = self.began.elapsed();
        {
            let mut sweeps = self.sweeps.lock();
            if sweeps.last.is_some_and(|last| now < last + SWEEP_INTERVAL) {
                return sweeps.count;
            }
            sweeps.last = Some(now);
        }
        self.expire(now);
        let mut sweeps = self.sweeps.lock();
        sweeps.count += 1;
        sweeps.count
    }

    /// Lets go of the series that were idle at `now`, and of those of configurations that are gone.
    /// What workers count under the same labels goes at once or not at all: a sum that falls looks
    /// like a counter that began anew.
    fn expire(&self, now: Duration) {
        let mut list = self.list.lock();
        let mut held: Map<u64, usize> = Map::default();
        for series in &*list {
            *held.entry(series.telemetry.id).or_default() += 1;
        }
        let idle_since = now.saturating_sub(IDLE).as_millis();
        let is_kept = |series: &&Arc<Series>| {
            let is_used = u128::from(series.used.load(Relaxed)) > idle_since;
            let is_held = Arc::strong_count(series) > HOLDERS;
            let others = held.get(&series.telemetry.id).copied().unwrap_or_default();
            (is_used || is_held) && Arc::strong_count(&series.telemetry) > others
        };
        // Two that share a hash by chance are kept together, which does no harm.
        let hasher = foldhash::fast::RandomState::default();
        let key =
            |series: &Arc<Series>| hasher.hash_one((series.telemetry.id, series.labels.labels()));
        let kept: HashSet<u64> = list.iter().filter(is_kept).map(key).collect();
        list.retain(|series| {
            let keeps = kept.contains(&key(series));
            series.expired.store(!keeps, Relaxed);
            keeps
        });
        list.shrink_to_fit();
    }

    /// What was counted, series by series; the same metric may come more than once.
    pub(crate) fn read(&self, visit: &mut dyn FnMut(Metric)) {
        let all = self.list.lock().clone();
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

#[cfg(test)]
mod tests;
