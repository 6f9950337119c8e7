//! Summing the blocks of targets, and naming the sums as Envoy does.

use std::{collections::BTreeMap, collections::btree_map::Entry, sync::Arc};

use super::{
    ClusterStats, FilterStats, HttpStats, ListenerStats, Metric, PerWorker, RbacStats, ScopedStats,
    StatsShape, Tag, Value,
    block::{Block, Name, Reading},
};

/// Tells connection managers apart.
const HTTP_PREFIX: &str = "envoy_http_conn_manager_prefix";

/// Where a block's cells belong: the part of their names that comes before them.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// `cluster.backend`.
    name: String,
    /// `cluster`.
    family: String,
    /// The innermost first, as Envoy orders them.
    tags: Vec<Tag>,
    /// Leaves out the `ssl.*` of a target without TLS.
    tls: bool,
}

impl Scope {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            family: name.to_owned(),
            tags: Vec::new(),
            tls: true,
        }
    }

    /// The scope inside this one that a tag tells apart.
    pub(super) fn tagged(mut self, key: &'static str, value: &Arc<str>) -> Self {
        self.name = format!("{}.{value}", self.name);
        self.tags.insert(
            0,
            Tag {
                key: key.into(),
                value: value.clone(),
            },
        );
        self
    }

    /// The scope inside this one.
    fn inner(mut self, name: &str) -> Self {
        self.name = format!("{}.{name}", self.name);
        self.family = format!("{}.{name}", self.family);
        self
    }

    /// `worker_<index>`.
    fn worker(mut self, index: usize) -> Self {
        self.name = format!("{}.worker_{index}", self.name);
        self.family.push_str(".worker");
        let value = index.to_string().into();
        self.tags.insert(
            0,
            Tag {
                key: "envoy_worker_id".into(),
                value,
            },
        );
        self
    }

    fn tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }
}

/// Sums by full name.
#[derive(Debug)]
pub(super) struct Sums<'s> {
    shape: &'s StatsShape,
    used_only: bool,
    metrics: BTreeMap<String, Metric>,
}

impl<'s> Sums<'s> {
    pub(super) fn new(shape: &'s StatsShape, used_only: bool) -> Self {
        Self {
            shape,
            used_only,
            metrics: BTreeMap::new(),
        }
    }

    pub(super) fn into_metrics(self) -> Vec<Metric> {
        self.metrics.into_values().collect()
    }

    pub(super) fn add_listener(&mut self, stats: &ListenerStats) {
        let scope = Scope::new("listener")
            .tagged("envoy_listener_address", &stats.address)
            .tls(stats.has_tls());
        self.add_workers(&scope, &stats.workers);
        if stats.has_tls() {
            self.add(&scope, &stats.control);
        }
        for (index, block) in stats.workers.iter() {
            let worker = scope.clone().worker(index);
            let total = Reading::Counter(block.downstream_cx_total.get());
            self.put(&worker, Name::cell("downstream_cx_total"), total);
            let active = Reading::Gauge(block.downstream_cx_active.get());
            self.put(&worker, Name::cell("downstream_cx_active"), active);
        }
    }

    pub(super) fn add_http(&mut self, stats: &HttpStats) {
        let scope = Scope::new("http").tagged(HTTP_PREFIX, &stats.prefix);
        self.add_workers(&scope, &stats.workers);
        if stats.listener.is_empty() {
            return;
        }
        // Envoy counts the responses once more under the listener.
        let scope = Scope::new("listener")
            .tagged("envoy_listener_address", &stats.listener)
            .inner("http")
            .tagged(HTTP_PREFIX, &stats.prefix);
        for (_, block) in stats.workers.iter() {
            for (cell, counter) in [
                ("downstream_rq_1xx", &block.downstream_rq_1xx),
                ("downstream_rq_2xx", &block.downstream_rq_2xx),
                ("downstream_rq_3xx", &block.downstream_rq_3xx),
                ("downstream_rq_4xx", &block.downstream_rq_4xx),
                ("downstream_rq_5xx", &block.downstream_rq_5xx),
                ("downstream_rq_completed", &block.downstream_rq_completed),
            ] {
                self.put(&scope, Name::cell(cell), Reading::Counter(counter.get()));
            }
        }
    }

    /// The counters of a filter that has names of its own for them.
    pub(super) fn add_rbac(&mut self, stats: &RbacStats) {
        for (_, block) in stats.workers.iter() {
            for (prefix, cell, counter) in [
                (&stats.rules_prefix, "allowed", &block.allowed),
                (&stats.rules_prefix, "denied", &block.denied),
                (
                    &stats.shadow_prefix,
                    "shadow_allowed",
                    &block.shadow_allowed,
                ),
                (&stats.shadow_prefix, "shadow_denied", &block.shadow_denied),
            ] {
                let cell = format!("rbac.{prefix}{cell}");
                let name = format!("http.{}.{cell}", stats.manager);
                self.add_named(name, Value::Counter(counter.get()), || {
                    let tag = Tag {
                        key: HTTP_PREFIX.into(),
                        value: Arc::clone(&stats.manager),
                    };
                    (format!("http.{cell}"), vec![tag])
                });
            }
        }
    }

    pub(super) fn add_filter<B: Block + Default>(&mut self, stats: &FilterStats<B>) {
        let scope = Scope::new("http").tagged(HTTP_PREFIX, &stats.manager);
        self.add_workers(&scope.inner(&stats.scope), &stats.workers);
    }

    pub(super) fn add_scoped<B: Block + Default>(&mut self, stats: &ScopedStats<B>) {
        self.add_workers(&Scope::new(&stats.scope), &stats.workers);
    }

    /// Adds to the metric of that name, whose tags are what they are.
    pub(super) fn add_metric(&mut self, metric: Metric) {
        let unused = self.used_only && !metric.value.is_used();
        if unused || !self.shape.includes(&metric.name) {
            return;
        }
        match self.metrics.entry(metric.name.clone()) {
            Entry::Occupied(mut known) => known.get_mut().value.merge(&metric.value),
            Entry::Vacant(slot) => {
                slot.insert(metric);
            }
        }
    }

    pub(super) fn add_cluster(&mut self, stats: &ClusterStats) {
        let scope = Scope::new("cluster")
            .tagged("envoy_cluster_name", &stats.name)
            .tls(stats.has_tls());
        self.add_workers(&scope, &stats.workers);
        self.add(&scope, &stats.control);
        if let Some(outlier) = stats.outlier.get() {
            self.add(&scope.clone().inner("outlier_detection"), &**outlier);
        }
        let breakers = scope.clone().inner("circuit_breakers.default");
        for (cell, open) in stats.breakers() {
            self.put(&breakers, Name::cell(cell), Reading::Gauge(open.into()));
        }
        // Nothing is routed with the high priority.
        let breakers = scope.inner("circuit_breakers.high");
        for (cell, _) in stats.breakers() {
            self.put(&breakers, Name::cell(cell), Reading::Gauge(0));
        }
    }

    /// The sums over the workers; zeros where none has counted yet.
    pub(super) fn add_workers<B: Block + Default>(&mut self, scope: &Scope, blocks: &PerWorker<B>) {
        self.add(scope, &B::default());
        for (_, block) in blocks.iter() {
            self.add(scope, block);
        }
    }

    pub(super) fn add(&mut self, scope: &Scope, block: &dyn Block) {
        block.read(&mut |name, reading| {
            if scope.tls || !is_of_tls(name) {
                self.put(scope, name, reading);
            }
        });
    }

    fn put(&mut self, scope: &Scope, name: Name, reading: Reading) {
        let value = match reading {
            Reading::Counter(n) => Value::Counter(n),
            Reading::Gauge(n) => Value::Gauge(n),
            Reading::Histogram(sum) => Value::Histogram(Box::new(sum)),
        };
        if comes_with_use(&scope.family, name) && !value.is_used() {
            return;
        }
        self.add_named(full_name(&scope.name, name), value, || {
            let (family, tag) = family_name(&scope.family, name);
            let tags = tag.into_iter().chain(scope.tags.iter().cloned());
            (family, tags.collect())
        });
    }

    /// Adds to the metric of that name; `own` are its family and its tags as Envoy has them by
    /// default.
    pub(super) fn add_named(
        &mut self,
        name: String,
        value: Value,
        own: impl FnOnce() -> (String, Vec<Tag>),
    ) {
        let unused = self.used_only && !value.is_used();
        if unused || !self.shape.includes(&name) {
            return;
        }
        match self.metrics.entry(name) {
            Entry::Occupied(mut metric) => metric.get_mut().value.merge(&value),
            Entry::Vacant(slot) => {
                let name = slot.key().clone();
                let (family, tags) = self.shape.apply(&name, own());
                slot.insert(Metric {
                    name,
                    family,
                    tags,
                    value,
                });
            }
        }
    }
}

/// `cluster.backend` and a cell: `cluster.backend.upstream_rq_503`.
fn full_name(scope: &str, name: Name) -> String {
    let Name { group, cell, label } = name;
    let dot = if group.is_empty() { "" } else { "." };
    match label {
        "" => format!("{scope}.{group}{dot}{cell}"),
        code if is_code_family(name) => format!("{scope}.{group}{dot}{cell}_{code}"),
        label => format!("{scope}.{group}{dot}{cell}.{label}"),
    }
}

/// The name without its variable part, and that part as a tag.
fn family_name(scope: &str, name: Name) -> (String, Option<Tag>) {
    let Name { group, cell, label } = name;
    let dot = if group.is_empty() { "" } else { "." };
    if !label.is_empty() {
        let key = match cell {
            "ciphers" => "cipher_suite",
            "curves" => "envoy_ssl_curve",
            "sigalgs" => "envoy_ssl_sigalg",
            "versions" => "envoy_ssl_version",
            _ => "envoy_response_code",
        };
        let tag = Tag {
            key: key.into(),
            value: label.into(),
        };
        return (format!("{scope}.{group}{dot}{cell}"), Some(tag));
    }
    // `..._2xx` -> `..._xx` and the class.
    if let Some((rest, class)) = cell
        .strip_suffix("xx")
        .and_then(|rest| rest.rsplit_once('_'))
        && class.len() == 1
    {
        let tag = Tag {
            key: "envoy_response_code_class".into(),
            value: class.into(),
        };
        return (format!("{scope}.{group}{dot}{rest}_xx"), Some(tag));
    }
    (format!("{scope}.{group}{dot}{cell}"), None)
}

fn is_of_tls(name: Name) -> bool {
    name.group == "ssl" || name.cell.contains("_ssl_socket_factory.")
}

/// Statistics that Envoy makes at their first use.
fn comes_with_use(family: &str, name: Name) -> bool {
    const OF_CLUSTERS: [&str; 7] = [
        "upstream_rq_1xx",
        "upstream_rq_2xx",
        "upstream_rq_3xx",
        "upstream_rq_4xx",
        "upstream_rq_5xx",
        "upstream_rq_time",
        // Of EDS.
        "update_rejected",
    ];
    family == "cluster" && OF_CLUSTERS.contains(&name.cell)
}

fn is_code_family(name: Name) -> bool {
    name.cell == "upstream_rq"
}
