//! Which statistics a data plane keeps, and how their names become tags.

mod forms;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use anyhow::Context;
use serde_json::Value;
use tracing::warn;

use crate::proxy::{duration, settings::Settings};

/// Readiness needs them, and Istio's dashboards.
const PREFIXES: [&str; 5] = [
    "cluster_manager",
    "listener_manager",
    "server",
    "cluster.xds-grpc",
    "wasm",
];
/// Decisions of authorization policies.
const SUFFIXES: [&str; 4] = [
    "rbac.allowed",
    "rbac.denied",
    "shadow_allowed",
    "shadow_denied",
];
/// What draining counts.
const ACTIVE_CONNECTIONS: &str = "downstream_cx_active";
/// Routes with a `stat_prefix`.
const REGEXPS: [&str; 1] = [r"vhost\..*\.route\..*"];
/// Stands for each address of the Pod.
const POD_IP: &str = "{pod_ip}";
/// Envoy's own interval of flushing statistics.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

const TAGS: [(&str, &str); 16] = [
    ("cluster_name", r"^cluster(\.(.+);)"),
    (
        "http_conn_manager_prefix",
        r"^http\.(((?:[_.[:digit:]\w]*|[_\[\]aAbBcCdDeEfF[:digit:]\w\:]*));\.)",
    ),
    ("thread_name", r"^server(\.(.+))\.watchdog"),
    ("tcp_prefix", r"^tcp\.((.*?)\.)\w+?$"),
    ("response_code", r"_rq(_(\d{3}))$"),
    ("response_code_class", r"_rq(_(\dxx))$"),
    (
        "http_conn_manager_listener_prefix",
        r"^listener(?=\.).*?\.http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)",
    ),
    (
        "listener_address",
        r"^listener\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)",
    ),
    (
        "mongo_prefix",
        r"^mongo\.(.+?)\.(collection|cmd|cx_|op_|delays_|decoding_)(.*?)$",
    ),
    ("cache", r"(cache\.(.+?)\.)"),
    ("component", r"(component\.(.+?)\.)"),
    ("tag", r"(tag\.(.+?);\.)"),
    ("wasm_filter", r"(wasm_filter\.(.+?)\.)"),
    ("authz_enforce_result", r"rbac(\.(allowed|denied))"),
    ("authz_dry_run_action", r"(\.istio_dry_run_(allow|deny)_)"),
    ("authz_dry_run_result", r"(\.shadow_(allowed|denied))"),
];
/// Tags of the user come behind so many of Istio's: Envoy takes the first that matches.
const TAGS_BEFORE_EXTRA: usize = 9;

/// Envoy's `StatsConfig`, which [`forms`] writes in two forms.
pub(super) struct Statistics {
    tags: Vec<Tag>,
    included: Vec<Pattern>,
    /// By the prefix of a histogram's name.
    buckets: BTreeMap<String, Vec<f64>>,
}

/// The first group that `regex` finds in a name is the tag, and leaves the name.
struct Tag {
    name: String,
    regex: String,
}

/// Names of statistics that are kept.
enum Pattern {
    Prefix(String),
    Suffix(String),
    Regex(String),
}

impl Statistics {
    /// With `discovery` Envoy asks for the metadata of workloads.
    ///
    /// # Errors
    /// An annotation that cannot be read.
    pub(super) fn new(settings: &Settings, discovery: bool) -> anyhow::Result<Self> {
        Ok(Self {
            tags: tags(settings),
            included: patterns(settings, discovery),
            buckets: buckets(settings)?,
        })
    }
}

fn tags(settings: &Settings) -> Vec<Tag> {
    let tag = |name: &str, regex: &str| Tag {
        name: name.to_owned(),
        regex: regex.to_owned(),
    };
    let mut tags: Vec<_> = TAGS.iter().map(|(name, regex)| tag(name, regex)).collect();
    let annotated = annotation(settings, "sidecar.istio.io/extraStatTags");
    let mut extra: Vec<&str> = Vec::new();
    let configured = settings.proxy_config.extra_stat_tags.iter();
    for name in configured.map(String::as_str).chain(listed(annotated)) {
        if !name.is_empty() && !extra.contains(&name) {
            extra.push(name);
        }
    }
    let extra = extra
        .iter()
        .map(|name| tag(name, &format!(r"({name}=\.=(.*?);\.;)")));
    tags.splice(TAGS_BEFORE_EXTRA..TAGS_BEFORE_EXTRA, extra);
    tags
}

fn patterns(settings: &Settings, discovery: bool) -> Vec<Pattern> {
    let matcher = &settings.proxy_config.stats_matcher;
    let included = |name: &str, configured: &[String], required: &[&str]| {
        let annotated = annotation(settings, name).filter(|text| !text.is_empty());
        let mut wanted: Vec<String> = match annotated {
            // Of annotation and configuration, the annotation alone counts.
            Some(text) => listed(Some(text)).map(str::to_owned).collect(),
            None => configured.to_vec(),
        };
        wanted.extend(required.iter().map(|name| (*name).to_owned()));
        for_each_ip(wanted, &settings.node.ips)
    };
    let mut suffixes = SUFFIXES.to_vec();
    if settings.drain.until_idle {
        suffixes.push(ACTIVE_CONNECTIONS);
    }
    let prefixes = included(
        "sidecar.istio.io/statsInclusionPrefixes",
        &matcher.inclusion_prefixes,
        &PREFIXES,
    );
    let suffixes = included(
        "sidecar.istio.io/statsInclusionSuffixes",
        &matcher.inclusion_suffixes,
        &suffixes,
    );
    let regexps = included(
        "sidecar.istio.io/statsInclusionRegexps",
        &matcher.inclusion_regexps,
        &REGEXPS,
    );
    let prefix = |text: &str| Pattern::Prefix(text.to_owned());
    let mut patterns = vec![prefix("reporter=")];
    patterns.extend(discovery.then(|| prefix("workload_discovery")));
    patterns.extend(prefixes.into_iter().map(Pattern::Prefix));
    patterns.extend(suffixes.into_iter().map(Pattern::Suffix));
    patterns.extend(regexps.into_iter().map(Pattern::Regex));
    patterns.extend([prefix("component"), prefix("istio")]);
    patterns
}

fn for_each_ip(patterns: Vec<String>, ips: &[IpAddr]) -> Vec<String> {
    let expanded = patterns
        .into_iter()
        .flat_map(|pattern| match pattern.contains(POD_IP) {
            true => ips
                .iter()
                .map(|ip| pattern.replace(POD_IP, &ip.to_string()))
                .collect(),
            false => vec![pattern],
        });
    expanded.collect()
}

/// From an annotation.
fn buckets(settings: &Settings) -> anyhow::Result<BTreeMap<String, Vec<f64>>> {
    const NAME: &str = "sidecar.istio.io/statsHistogramBuckets";
    match annotation(settings, NAME) {
        Some(text) => serde_json::from_str(text).context(format!("annotation {NAME}")),
        None => Ok(BTreeMap::new()),
    }
}

/// How often statistics are flushed, and those evicted that nothing counts any more.
pub(super) fn intervals(settings: &Settings) -> Vec<(&'static str, Value)> {
    let mut intervals = Vec::new();
    let flush = interval(settings, "sidecar.istio.io/statsFlushInterval");
    if let Some(flush) = flush {
        intervals.push(("stats_flush_interval", duration::to_json(flush).into()));
    }
    const EVICTION: &str = "sidecar.istio.io/statsEvictionInterval";
    let flush = flush.unwrap_or(FLUSH_INTERVAL);
    match interval(settings, EVICTION) {
        Some(eviction) if eviction.as_nanos() % flush.as_nanos() != 0 => {
            warn!(
                annotation = EVICTION,
                ?flush,
                "no multiple of the flush interval: ignored"
            );
        }
        Some(eviction) => {
            intervals.push((
                "stats_eviction_interval",
                duration::to_json(eviction).into(),
            ));
        }
        None => {}
    }
    intervals
}

fn interval(settings: &Settings, name: &str) -> Option<Duration> {
    let text = annotation(settings, name)?;
    let parsed = duration::parse(text).ok().filter(|it| !it.is_zero());
    if parsed.is_none() {
        warn!(
            annotation = name,
            value = text,
            "no duration such as 5s: ignored"
        );
    }
    parsed
}

fn annotation<'a>(settings: &'a Settings, name: &str) -> Option<&'a str> {
    settings.annotations.get(name).map(String::as_str)
}

fn listed(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.unwrap_or_default().split(',')
}
