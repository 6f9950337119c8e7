//! The pages themselves: what is read of each node, and how ours compare with Envoy's.

use ithildin_tests::{
    curl::{self, Answer},
    eventually,
    mesh::Pod,
};
use serde_json::Value;

/// Parts of a dump that are compared like the whole.
const PARTS: [&str; 6] = [
    "resource=dynamic_listeners",
    "resource=dynamic_listeners&name_regex=virtual.*&mask=name",
    "resource=dynamic_active_clusters&mask=cluster.name",
    "resource=dynamic_endpoint_configs&include_eds",
    "mask=dynamic_active_clusters",
    "name_regex=.*web.*&include_eds",
];

/// Requests that are refused, in the same words.
const REFUSED: [(&str, &str); 7] = [
    ("GET", "/config_dump?resource=nope"),
    ("GET", "/config_dump?mask=nope"),
    ("GET", "/config_dump?resource=bootstrap"),
    ("GET", "/config_dump?mask=dynamic_listeners.name"),
    ("GET", "/stats?type=nope"),
    ("GET", "/logging"),
    ("GET", "/drain_listeners"),
];

/// Pages in which we may tell less, but nothing in another form.
const TOLD: [&str; 1] = ["/server_info"];

/// Levels are set by name or for all, as `istioctl proxy-config log` does.
const LOGGING: [&str; 4] = [
    "/logging?level=debug",
    "/logging?paths=http:info,upstream:error",
    "/logging?http=trace",
    "/logging?level=warning",
];

/// What istioctl and people read of one node.
#[derive(Clone)]
pub(super) struct Pages {
    pub(super) dump: Value,
    pub(super) clusters: Value,
    pub(super) listeners: Value,
    pub(super) parts: Vec<Value>,
    pub(super) told: Vec<Value>,
    pub(super) refused: Vec<(u16, String)>,
    /// Of the loggers that both have.
    pub(super) levels: Vec<Vec<String>>,
    pub(super) stats: Value,
}

/// Reads them once the node has heard of these endpoints, and waits for nothing more.
pub(super) fn read(pod: &Pod, heard: &[&str]) -> Pages {
    eventually("the node has heard of all", || {
        let clusters = pod.admin("/clusters").body;
        let missing = heard
            .iter()
            .find(|it| !clusters.contains(&format!("::{it}::")));
        match missing {
            Some(missing) => Err(format!("no {missing}")),
            // A Pod that was not ready yet when istiod told.
            None if clusters.contains("failed_eds_health") => Err("an endpoint fails".to_owned()),
            None if pod.admin("/config_dump").body.contains("warming") => Err("warming".to_owned()),
            None => Ok(()),
        }
    });
    let json = |path: &str| {
        let answer = pod.admin(path);
        let page = serde_json::from_str(&answer.body);
        page.unwrap_or_else(|error| panic!("{path}: {error}: {answer:?}"))
    };
    Pages {
        dump: json("/config_dump?include_eds"),
        clusters: json("/clusters?format=json"),
        listeners: json("/listeners?format=json"),
        parts: PARTS
            .map(|part| json(&format!("/config_dump?{part}")))
            .into(),
        told: TOLD.map(json).into(),
        refused: REFUSED
            .map(|(method, path)| refused(&ask(pod, method, path)))
            .into(),
        levels: LOGGING.map(|path| levels(&ask(pod, "POST", path))).into(),
        stats: json("/stats?format=json&filter=_manager"),
    }
}

/// What differs, where and how.
pub(super) fn compare(ours: &Pages, theirs: &Pages) -> Vec<String> {
    let mut found = Vec::new();
    for (page, ours, theirs) in [
        ("/config_dump", &ours.dump, &theirs.dump),
        ("/clusters", &ours.clusters, &theirs.clusters),
        ("/listeners", &ours.listeners, &theirs.listeners),
    ] {
        differ(ours, theirs, page, &mut found);
    }
    for (part, (ours, theirs)) in PARTS.iter().zip(ours.parts.iter().zip(&theirs.parts)) {
        differ(ours, theirs, &format!("/config_dump?{part}: "), &mut found);
    }
    for (page, (ours, theirs)) in TOLD.iter().zip(ours.told.iter().zip(&theirs.told)) {
        other_form(ours, theirs, page, &mut found);
    }
    for (request, (ours, theirs)) in REFUSED.iter().zip(ours.refused.iter().zip(&theirs.refused)) {
        if ours != theirs {
            found.push(format!("{request:?}: {ours:?} and {theirs:?}"));
        }
    }
    for (path, (ours, theirs)) in LOGGING.iter().zip(ours.levels.iter().zip(&theirs.levels)) {
        if ours.len() <= 1 || ours != theirs {
            found.push(format!("{path}: {ours:?} and {theirs:?}"));
        }
    }
    let [ours, theirs] = [ours, theirs].map(|it| it.stats["stats"].as_array());
    let (ours, theirs) = (ours.expect("a list"), theirs.expect("a list"));
    for stat in ours {
        match theirs.iter().find(|it| it["name"] == stat["name"]) {
            Some(their) => other_form(stat, their, "/stats", &mut found),
            None => found.push(format!("/stats: Envoy has no {stat}")),
        }
    }
    found
}

fn ask(pod: &Pod, method: &str, path: &str) -> Answer {
    let url = format!("http://127.0.0.1:15000{path}");
    curl::get(&pod.net, &url, &["-X", method])
}

fn refused(answer: &Answer) -> (u16, String) {
    (answer.status, answer.body.clone())
}

/// `  http: debug`, of the components that `istioctl` is asked about most.
fn levels(answer: &Answer) -> Vec<String> {
    let both = ["admin", "config", "filter", "http", "router", "upstream"];
    let mut lines = answer.body.lines();
    let first = lines.next().map(str::to_owned);
    let known = lines.filter(|line| {
        let name = line.trim_start().split_once(": ").map(|(name, _)| name);
        name.is_some_and(|name| both.contains(&name))
    });
    first.into_iter().chain(known.map(str::to_owned)).collect()
}

/// All that is not the same.
fn differ(ours: &Value, theirs: &Value, at: &str, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let more = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(more) {
                differ(&ours[key], &theirs[key], &format!("{at}/{key}"), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differ(a, b, &format!("{at}/{index}"), found);
            }
        }
        // 1.0 is 1.
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => {}
        _ if ours == theirs => {}
        _ => found.push(format!("{at}: {ours} and {theirs}")),
    }
}

/// What Envoy does not tell, or in another type. We may tell less.
fn other_form(ours: &Value, theirs: &Value, at: &str, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                let at = format!("{at}/{key}");
                match b.get(key) {
                    Some(theirs) => other_form(value, theirs, &at, found),
                    None => found.push(format!("{at}: Envoy has none")),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                other_form(a, b, &format!("{at}/{index}"), found);
            }
        }
        (Value::String(_), Value::String(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::Bool(_), Value::Bool(_))
        | (Value::Null, Value::Null) => {}
        _ => found.push(format!("{at}: {ours} and {theirs}")),
    }
}
