//! `/stats`: all statistics, and the gauges that are read when somebody asks.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use http::StatusCode;
use regex::Regex;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    AdminState, Page,
    contexts::{self, Context},
    pages::{self, JSON, Query, TEXT, ok, server_state},
};
use crate::stats;

const SECONDS_PER_DAY: i64 = 86_400;

pub(super) fn page(state: &AdminState, path: &str, query: &Query<'_>) -> Page {
    let filter = match query.get("filter").map(|filter| Regex::new(&filter)) {
        Some(Err(error)) => {
            return pages::page(
                StatusCode::BAD_REQUEST,
                TEXT,
                format!("Invalid re2 regex: {error}"),
            );
        }
        Some(Ok(filter)) => Some(filter),
        None => None,
    };
    refresh(state);
    let metrics = state.stats.metrics(query.has("usedonly"));
    let metrics = metrics
        .iter()
        .filter(|metric| filter.as_ref().is_none_or(|it| it.is_match(&metric.name)));
    let format = query.get("format");
    match format.as_deref() {
        _ if path == "/stats/prometheus" => ok(
            TEXT,
            stats::prometheus(metrics) + &stats::process_exposition(),
        ),
        Some("prometheus") => ok(
            TEXT,
            stats::prometheus(metrics) + &stats::process_exposition(),
        ),
        Some("json") => {
            let list: Vec<_> = metrics
                .filter_map(|metric| match metric.value {
                    stats::Value::Counter(n) => {
                        Some(serde_json::json!({"name": metric.name, "value": n}))
                    }
                    stats::Value::Gauge(n) => {
                        Some(serde_json::json!({"name": metric.name, "value": n}))
                    }
                    stats::Value::Histogram(_) => None,
                })
                .collect();
            ok(JSON, serde_json::json!({ "stats": list }).to_string())
        }
        _ => ok(TEXT, stats::text(metrics)),
    }
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
             identity,
             validation,
         }| {
            let chain = identity.iter().flat_map(|identity| identity.chain());
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
