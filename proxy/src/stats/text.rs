//! `/stats` in Envoy's text form.

use std::fmt::Write as _;

use super::{HistogramSum, Metric, Value};

/// What Envoy prints of a histogram.
pub const QUANTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

/// `name: value`, one a line; texts by name, then counters and gauges by name, then histograms by name.
pub fn text<'a>(metrics: impl Iterator<Item = &'a Metric>) -> String {
    let mut out = String::new();
    let (mut texts, mut histograms) = (String::new(), String::new());
    for Metric { name, value, .. } in metrics {
        let written = match value {
            Value::Counter(n) => writeln!(out, "{name}: {n}"),
            Value::Gauge(n) => writeln!(out, "{name}: {n}"),
            Value::Text(text) => writeln!(texts, "{name}: \"{text}\""),
            Value::Histogram(sum) => writeln!(histograms, "{name}: {}", summary(sum)),
        };
        written.expect("writing to a String does not fail");
    }
    texts + &out + &histograms
}

/// Envoy prints the last interval, then the sum of all; there are no intervals here.
fn summary(sum: &HistogramSum) -> String {
    if sum.count() == 0 {
        return "No recorded values".to_owned();
    }
    let quantiles = QUANTILES.iter().map(|percent| {
        let value = sum.quantile(percent / 100.0).unwrap_or_default();
        format!("P{percent}(nan,{value})")
    });
    quantiles.collect::<Vec<_>>().join(" ")
}
