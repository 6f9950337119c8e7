//! `/stats`: all statistics, and the gauges that are read when somebody asks.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use http::StatusCode;
use serde_json::json;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    AdminState, Page,
    contexts::{self, Context},
    pages::{self, JSON, Query, TEXT, ok, server_state},
};
use crate::stats::{self, Metric, Value};

const SECONDS_PER_DAY: i64 = 86_400;

pub(super) fn page(state: &AdminState, path: &str, query: &Query<'_>) -> Page {
    let filter = match query.pattern("filter") {
        Ok(filter) => filter,
        Err(text) => return pages::page(StatusCode::BAD_REQUEST, TEXT, text),
    };
    let refused = |text: &str| pages::page(StatusCode::BAD_REQUEST, TEXT, text.to_owned());
    let kind = query.get("type");
    let kind = kind.as_deref().unwrap_or("All");
    if !["All", "Counters", "Gauges", "Histograms", "TextReadouts"].contains(&kind) {
        return refused("invalid &type= param");
    }
    refresh(state);
    let metrics = metrics(state, query.has("usedonly"));
    let of_kind = |metric: &&Metric| match metric.value {
        Value::Counter(_) => matches!(kind, "All" | "Counters"),
        Value::Gauge(_) => matches!(kind, "All" | "Gauges"),
        Value::Histogram(_) => matches!(kind, "All" | "Histograms"),
        Value::Text(_) => matches!(kind, "All" | "TextReadouts"),
    };
    let named = |metric: &&Metric| filter.as_ref().is_none_or(|it| it.is_match(&metric.name));
    let metrics = metrics.iter().filter(of_kind).filter(named);
    let format = query.get("format");
    match (path, format.as_deref()) {
        ("/stats/prometheus", _) | (_, Some("prometheus")) => ok(
            TEXT,
            stats::prometheus(metrics) + &stats::process_exposition(),
        ),
        (_, Some("json")) => ok(JSON, json(metrics).to_string()),
        (_, None | Some("" | "text")) => ok(TEXT, stats::text(metrics)),
        _ => refused("usage: /stats?format=(json|prometheus|text)\n\n"),
    }
}

/// Counters begin anew at zero.
pub(super) fn reset(state: &AdminState) {
    let metrics = state.stats.metrics(true).into_iter();
    let counters = metrics.filter_map(|metric| match metric.value {
        Value::Counter(n) => Some((metric.name, n)),
        Value::Gauge(_) | Value::Histogram(_) | Value::Text(_) => None,
    });
    *state.counted.lock() = counters.collect();
}

/// All statistics; counters since the last reset.
fn metrics(state: &AdminState, used_only: bool) -> Vec<Metric> {
    let mut metrics = state.stats.metrics(used_only);
    let counted = state.counted.lock();
    for metric in &mut metrics {
        if let (Value::Counter(n), Some(before)) = (&mut metric.value, counted.get(&metric.name)) {
            *n = n.saturating_sub(*before);
        }
    }
    metrics
}

fn json<'a>(metrics: impl Iterator<Item = &'a Metric>) -> serde_json::Value {
    let mut list = Vec::new();
    let mut histograms = Vec::new();
    for Metric { name, value, .. } in metrics {
        match value {
            Value::Counter(n) => list.push(json!({"name": name, "value": n})),
            Value::Gauge(n) => list.push(json!({"name": name, "value": n})),
            Value::Text(text) => list.push(json!({"name": name, "value": &**text})),
            Value::Histogram(sum) => {
                let values: Vec<_> = stats::QUANTILES
                    .iter()
                    .map(|percent| sum.quantile(percent / 100.0))
                    // There are no intervals here.
                    .map(|value| json!({"cumulative": value, "interval": null}))
                    .collect();
                histograms.push(json!({"name": name, "values": values}));
            }
        }
    }
    if !histograms.is_empty() {
        list.push(json!({"histograms": {
            "supported_quantiles": stats::QUANTILES,
            "computed_quantiles": histograms,
        }}));
    }
    json!({ "stats": list })
}

/// Gauges that are read when they are asked for.
fn refresh(state: &AdminState) {
    let server = &state.stats.server;
    let live = server_state(state) == "LIVE";
    server.live.set(live.into());
    server.state.set(match server_state(state) {
        "LIVE" => 0,
        "DRAINING" => 1,
        _ => 3,
    });
    server.uptime.set(signed(state.started.elapsed().as_secs()));
    server.concurrency.set(signed(state.stats.workers() as u64));
    if let Some(bytes) = stats::process::resident_bytes() {
        server.memory_physical_size.set(signed(bytes));
    }
    let connections = state.stats.downstream_connections();
    server.total_connections.set(signed(connections));
    if let Some(days) = days_until_first_expiry(state) {
        server.days_until_first_cert_expiring.set(days);
    }
    state
        .stats
        .listener_manager
        .workers_started
        .set(live.into());
}

/// Whole days; certificates of ours and of those whom we trust count alike, as in Envoy.
fn days_until_first_expiry(state: &AdminState) -> Option<i64> {
    // Thousands of contexts share a few certificates.
    let mut ends: BTreeMap<*const u8, i64> = BTreeMap::new();
    contexts::each(
        state,
        |Context {
             identities,
             validation,
         }| {
            let chain = identities.iter().flat_map(|identity| identity.chain());
            let roots = validation.iter().flat_map(|it| it.roots());
            let roots = roots.flat_map(|(_, roots)| roots.certificates());
            for der in chain.chain(roots) {
                ends.entry(der.as_ptr()).or_insert_with(|| not_after(der));
            }
        },
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let left = ends.into_values().min()? - i64::try_from(now.as_secs()).ok()?;
    Some(left.max(0) / SECONDS_PER_DAY)
}

/// Seconds since the Unix epoch.
fn not_after(der: &[u8]) -> i64 {
    X509Certificate::from_der(der).map_or(i64::MAX, |(_, certificate)| {
        certificate.validity().not_after.timestamp()
    })
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
