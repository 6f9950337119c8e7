//! Which page answers which path.

use bytes::Bytes;
use http::{Method, Response, StatusCode, Uri};
use http_body_util::Full;
use regex::Regex;

use super::{
    AdminState, Page, certs, clusters, config_dump, listeners, process, server_info, statistics,
};
use crate::{runtime::Drain, server::Readiness};

pub(super) const TEXT: &str = "text/plain; charset=UTF-8";
/// Of what `/config_dump` refuses.
const PLAIN: &str = "text/plain";
pub(super) const JSON: &str = "application/json";

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
    (
        "/hot_restart_version",
        false,
        "print the hot restart compatibility version",
    ),
    ("/init_dump", false, "dump what is not initialised yet"),
    ("/listeners", false, "print listener info"),
    ("/logging", true, "query/change logging levels"),
    ("/memory", false, "print current allocation/heap usage"),
    ("/quitquitquit", true, "exit the server"),
    (
        "/ready",
        false,
        "print server state, return 200 if LIVE, otherwise return 503",
    ),
    ("/reopen_logs", true, "reopen access logs"),
    ("/reset_counters", true, "reset all counters to zero"),
    ("/runtime", false, "print runtime values"),
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

pub(super) async fn answer(state: &AdminState, method: &Method, uri: &Uri) -> Page {
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
        "/clusters" => clusters_page(state, &query),
        "/config_dump" => dump(state, &query).await,
        "/init_dump" => ok(JSON, pretty(&init_dump(state))),
        "/listeners" if json => ok(JSON, pretty(&listeners::json(state))),
        "/listeners" => ok(TEXT, listeners::text(state)),
        "/logging" => process::logging(&query),
        "/memory" => ok(JSON, pretty(&process::memory())),
        "/ready" => ready(state),
        "/runtime" => ok(JSON, pretty(&process::runtime(state))),
        "/server_info" => ok(JSON, pretty(&server_info::server_info(state))),
        "/stats" | "/stats/prometheus" => statistics::page(state, path, &query),
        "/help" => ok(TEXT, help()),
        "/hot_restart_version" => ok(TEXT, "disabled".to_owned()),
        path => {
            command(state, path, &query);
            ok(TEXT, "OK\n".to_owned())
        }
    }
}

fn clusters_page(state: &AdminState, query: &Query<'_>) -> Page {
    let filter = match query.pattern("filter") {
        Ok(filter) => filter,
        Err(text) => return page(StatusCode::BAD_REQUEST, TEXT, text),
    };
    let wanted = |name: &str| filter.as_ref().is_none_or(|filter| filter.is_match(name));
    match query.get("format").as_deref() {
        Some("json") => ok(JSON, pretty(&clusters::json(state, wanted))),
        _ => ok(TEXT, clusters::text(state, wanted)),
    }
}

async fn dump(state: &AdminState, query: &Query<'_>) -> Page {
    let name = query.get("name_regex");
    let name = match name.as_deref().map(config_dump::whole_name).transpose() {
        Ok(name) => name,
        Err(error) => {
            let text = format!("INVALID_ARGUMENT: Error while parsing name_regex: {error}");
            return page(StatusCode::BAD_REQUEST, PLAIN, text);
        }
    };
    let wanted = config_dump::Selection {
        include_eds: query.has("include_eds"),
        resource: query.get("resource"),
        mask: query.get("mask"),
        name,
    };
    match config_dump::config_dump(state, &wanted).await {
        Ok(dump) => ok(JSON, pretty(&dump)),
        Err((status, text)) => page(status, PLAIN, text),
    }
}

/// `envoy.admin.v3.UnreadyTargetsDumps`, in the words of our readiness.
fn init_dump(state: &AdminState) -> serde_json::Value {
    let waiting = state.control.borrow().waiting.clone();
    if waiting.is_empty() {
        return serde_json::json!({});
    }
    let names: Vec<&str> = waiting.iter().map(|it| &**it).collect();
    let dump = serde_json::json!({"name": "server", "target_names": names});
    serde_json::json!({"unready_targets_dumps": [dump]})
}

fn command(state: &AdminState, path: &str, query: &Query<'_>) {
    match path {
        "/quitquitquit" => state.commands.set(|requested| requested.quit = true),
        "/drain_listeners" => state.drainer.drain(Drain {
            inbound_only: query.has("inboundonly"),
            graceful: query.has("graceful"),
            skip_exit: query.has("skip_exit"),
        }),
        "/healthcheck/fail" => state.commands.set(|it| it.fail_health_checks = true),
        "/healthcheck/ok" => state.commands.set(|it| it.fail_health_checks = false),
        "/reset_counters" => statistics::reset(state),
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

pub(super) fn ok(kind: &'static str, text: String) -> Page {
    page(StatusCode::OK, kind, text)
}

pub(super) fn page(status: StatusCode, kind: &'static str, text: String) -> Page {
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
pub(super) struct Query<'a>(&'a str);

impl Query<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        let mut pairs = self.pairs();
        pairs.find_map(|(key, value)| (key == name).then_some(value))
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = (String, String)> {
        let pairs = self.0.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
    }

    /// A regular expression, or what is said of one that is none.
    pub(super) fn pattern(&self, name: &str) -> Result<Option<Regex>, String> {
        let pattern = self.get(name).map(|text| Regex::new(&text)).transpose();
        pattern.map_err(|error| format!("Invalid re2 regex: {error}"))
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
