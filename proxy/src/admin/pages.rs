//! Which page answers which path.

use bytes::Bytes;
use http::{Method, Response, StatusCode, Uri};
use http_body_util::Full;
use regex::Regex;

use super::{AdminState, Page, certs, clusters, config_dump, listeners, server_info};
use crate::{server::Readiness, stats};

const TEXT: &str = "text/plain; charset=UTF-8";
const JSON: &str = "application/json";

/// Path, whether it changes something (then it wants `POST`), and what `/help` says.
const PAGES: &[(&str, bool, &str)] = &[
    ("/certs", false, "print certs on machine"),
    ("/clusters", false, "upstream cluster status"),
    ("/config_dump", false, "dump current Envoy configs"),
    ("/drain_listeners", true, "drain listeners"),
    (
        "/healthcheck/fail",
        true,
        "cause the server to fail health checks",
    ),
    (
        "/healthcheck/ok",
        true,
        "cause the server to pass health checks",
    ),
    ("/help", false, "print out list of admin commands"),
    ("/listeners", false, "print listener info"),
    ("/quitquitquit", true, "exit the server"),
    (
        "/ready",
        false,
        "print server state, return 200 if LIVE, otherwise return 503",
    ),
    ("/reopen_logs", true, "reopen access logs"),
    (
        "/server_info",
        false,
        "print server version/status information",
    ),
    ("/stats", false, "print server stats"),
    (
        "/stats/prometheus",
        false,
        "print server stats in prometheus format",
    ),
];

pub(super) fn answer(state: &AdminState, method: &Method, uri: &Uri) -> Page {
    let path = uri.path();
    let Some((_, changes, _)) = PAGES.iter().find(|(known, ..)| *known == path) else {
        let text = format!("invalid path. {}", help());
        return page(StatusCode::NOT_FOUND, TEXT, text);
    };
    if *changes && method != Method::POST {
        let text = format!("Method {method} not allowed, POST required.");
        return page(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
    }
    let query = Query(uri.query().unwrap_or_default());
    let json = query.get("format").as_deref() == Some("json");
    match path {
        "/certs" => ok(JSON, pretty(&certs::certs(state))),
        "/clusters" if json => ok(JSON, pretty(&clusters::json(state))),
        "/clusters" => ok(TEXT, clusters::text(state)),
        "/config_dump" => {
            let dump = config_dump::config_dump(state, query.has("include_eds"));
            ok(JSON, pretty(&dump))
        }
        "/listeners" if json => ok(JSON, pretty(&listeners::json(state))),
        "/listeners" => ok(TEXT, listeners::text(state)),
        "/ready" => ready(state),
        "/server_info" => ok(JSON, pretty(&server_info::server_info(state))),
        "/stats" | "/stats/prometheus" => statistics(state, path, &query),
        "/help" => ok(TEXT, help()),
        path => {
            command(state, path);
            ok(TEXT, "OK\n".to_owned())
        }
    }
}

fn command(state: &AdminState, path: &str) {
    match path {
        "/quitquitquit" => state.commands.set(|requested| requested.quit = true),
        "/drain_listeners" => state.commands.set(|requested| requested.drain = true),
        "/healthcheck/fail" => state.commands.set(|it| it.fail_health_checks = true),
        "/healthcheck/ok" => state.commands.set(|it| it.fail_health_checks = false),
        _ => state.logs.reopen(),
    }
}

/// `LIVE`, `DRAINING`, `INITIALIZING`.
pub(super) fn server_state(state: &AdminState) -> &'static str {
    if state.commands.current().fail_health_checks {
        return "DRAINING";
    }
    match *state.readiness.borrow() {
        Readiness::Ready => "LIVE",
        Readiness::Draining => "DRAINING",
        Readiness::Waiting(_) => "INITIALIZING",
    }
}

fn ready(state: &AdminState) -> Page {
    let name = server_state(state);
    let status = match name {
        "LIVE" => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    page(status, TEXT, format!("{name}\n"))
}

fn statistics(state: &AdminState, path: &str, query: &Query<'_>) -> Page {
    let filter = match query.get("filter").map(|filter| Regex::new(&filter)) {
        Some(Err(error)) => {
            return page(
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
    let snapshot = state.published.current.load();
    let managers = (&state.stats.listener_manager, &state.stats.cluster_manager);
    managers
        .0
        .total_listeners_active
        .set(signed(snapshot.listeners.len() as u64));
    managers.0.workers_started.set(live.into());
    managers
        .1
        .active_clusters
        .set(signed(snapshot.clusters.len() as u64));
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn help() -> String {
    let mut text = "admin commands are:\n".to_owned();
    for (path, changes, what) in PAGES {
        let post = if *changes { " (POST)" } else { "" };
        text.push_str(&format!("  {path}{post}: {what}\n"));
    }
    text
}

fn pretty(value: &serde_json::Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    serde::Serialize::serialize(value, &mut serializer).expect("a JSON value is serialisable");
    let text = String::from_utf8(out).expect("JSON is text");
    text + "\n"
}

fn ok(kind: &'static str, text: String) -> Page {
    page(StatusCode::OK, kind, text)
}

fn page(status: StatusCode, kind: &'static str, text: String) -> Page {
    Response::builder()
        .status(status)
        .header("content-type", kind)
        .header("cache-control", "no-cache, max-age=0")
        .header("x-content-type-options", "nosniff")
        .header("server", "envoy")
        .body(Full::new(Bytes::from(text)))
        .expect("the headers are constants")
}

/// The parameters behind the question mark.
struct Query<'a>(&'a str);

impl Query<'_> {
    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn get(&self, name: &str) -> Option<String> {
        self.0.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then(|| decode(value))
        })
    }
}

/// Percent-decoding; what is malformed stays as it is.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let escaped = match after {
            [high, low, ..] if *byte == b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                digit(*high).zip(digit(*low))
            }
            _ => None,
        };
        if let Some((high, low)) = escaped {
            out.extend(u8::try_from(high * 16 + low));
            rest = &after[2..];
        } else {
            out.push(if *byte == b'+' { b' ' } else { *byte });
            rest = after;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
