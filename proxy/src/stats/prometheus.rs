//! `/stats/prometheus`: Envoy's statistics under the names and tags that its dashboards know.

use std::{collections::BTreeMap, fmt::Write as _};

use prometheus::{Encoder as _, IntGauge, Registry, TextEncoder};

use super::{HistogramSum, Metric, Tag, Value};

/// The exposition of `metrics`: families by name; counters, then gauges, then histograms.
pub fn prometheus<'a>(metrics: impl Iterator<Item = &'a Metric>) -> String {
    let mut families: BTreeMap<(u8, String), Vec<&Metric>> = BTreeMap::new();
    for metric in metrics {
        let kind = match metric.value {
            Value::Counter(_) => 0,
            Value::Gauge(_) => 1,
            Value::Histogram(_) => 2,
            // Prometheus has numbers alone.
            Value::Text(_) => continue,
        };
        let family = families.entry((kind, family_name(&metric.family)));
        family.or_default().push(metric);
    }
    let mut out = String::new();
    for ((kind, name), metrics) in families {
        let kind = ["counter", "gauge", "histogram"][usize::from(kind)];
        line(&mut out, format_args!("# TYPE {name} {kind}"));
        for Metric { tags, value, .. } in metrics {
            match value {
                Value::Counter(n) => line(&mut out, format_args!("{name}{{{}}} {n}", labels(tags))),
                Value::Gauge(n) => line(&mut out, format_args!("{name}{{{}}} {n}", labels(tags))),
                Value::Histogram(sum) => histogram(&mut out, &name, tags, sum),
                Value::Text(_) => {}
            }
        }
    }
    out
}

/// Memory, threads and files of this process, as Prometheus' own clients name them.
pub fn process() -> String {
    let registry = Registry::new();
    for (name, help, value) in [
        (
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            super::process::resident_bytes(),
        ),
        (
            "process_open_fds",
            "Number of open file descriptors.",
            super::process::open_files(),
        ),
        (
            "process_threads",
            "Number of OS threads in the process.",
            super::process::threads(),
        ),
    ] {
        let (Some(value), Ok(gauge)) = (value, IntGauge::new(name, help)) else {
            continue;
        };
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry
            .register(Box::new(gauge))
            .expect("each name is registered once");
    }
    let mut out = Vec::new();
    TextEncoder::new()
        .encode(&registry.gather(), &mut out)
        .expect("gauges are encodable");
    String::from_utf8(out).expect("the exposition is text")
}

fn histogram(out: &mut String, name: &str, tags: &[Tag], sum: &HistogramSum) {
    let labels = labels(tags);
    let comma = if labels.is_empty() { "" } else { "," };
    for (bound, count) in sum.cumulative() {
        line(
            out,
            format_args!("{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"),
        );
    }
    let count = sum.count();
    line(
        out,
        format_args!("{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}"),
    );
    line(out, format_args!("{name}_sum{{{labels}}} {}", sum.sum));
    line(out, format_args!("{name}_count{{{labels}}} {count}"));
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("writing to a String does not fail");
}

/// Metrics in a namespace of their own keep their names without it, as in Envoy.
fn family_name(family: &str) -> String {
    let (prefix, family) = match family.strip_prefix("istiocustom.") {
        Some(family) => ("", family),
        None => ("envoy_", family),
    };
    let name = family
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
    format!("{prefix}{}", name.collect::<String>())
}

fn labels(tags: &[Tag]) -> String {
    let labels = tags.iter().map(|Tag { key, value }| {
        let value = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        format!("{key}=\"{value}\"")
    });
    labels.collect::<Vec<_>>().join(",")
}
