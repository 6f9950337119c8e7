//! The admin pages have the shape of a real Envoy's with the same file: status, content type, and
//! the fields of JSON.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

use serde_json::Value;

use crate::{
    envoy::Envoy,
    support::{Bench, exchange},
};

/// What is asked, and the fields that differ for a reason: what Envoy tells of its build, of its
/// allocator and of arguments that have no meaning here.
const PAGES: &[(&str, &str, &[&str])] = &[
    ("GET", "/certs", &[]),
    ("GET", "/clusters?format=json", &[]),
    ("GET", "/clusters?format=json&filter=two", &[]),
    ("GET", "/clusters?filter=two", &[]),
    ("GET", "/config_dump", &["configs[].bootstrap.node."]),
    (
        "GET",
        "/config_dump?include_eds",
        // A weight of 0 for every locality.
        &[
            "configs[].bootstrap.node.",
            "configs[].static_endpoint_configs[].endpoint_config.endpoints[].load_balancing_weight",
            "configs[].static_endpoint_configs[].endpoint_config.endpoints[].locality",
            "configs[].static_endpoint_configs[].endpoint_config.endpoints[].lb_endpoints[].endpoint.health_check_config",
        ],
    ),
    ("GET", "/config_dump?resource=static_clusters", &[]),
    ("GET", "/config_dump?resource=static_listeners", &[]),
    (
        "GET",
        "/config_dump?resource=static_clusters&mask=cluster.name",
        &[],
    ),
    (
        "GET",
        "/config_dump?resource=static_clusters&name_regex=t",
        &[],
    ),
    (
        "GET",
        "/config_dump?resource=static_clusters&name_regex=t.*",
        &[],
    ),
    ("GET", "/config_dump?resource=nope", &[]),
    ("GET", "/config_dump?resource=static_endpoint_configs", &[]),
    ("GET", "/config_dump?mask=static_clusters", &[]),
    ("GET", "/config_dump?mask=static_clusters.cluster.name", &[]),
    ("GET", "/config_dump?mask=nope", &[]),
    ("GET", "/config_dump?name_regex=%28", &[]),
    ("GET", "/help", &[]),
    ("GET", "/hot_restart_version", &[]),
    ("GET", "/listeners", &[]),
    ("GET", "/listeners?format=json", &[]),
    ("GET", "/logging", &[]),
    ("POST", "/logging", &[]),
    ("POST", "/logging?nope=debug", &[]),
    ("POST", "/logging?level=nope", &[]),
    ("POST", "/logging?paths=http:nope", &[]),
    ("GET", "/memory", &[]),
    ("GET", "/ready", &[]),
    ("POST", "/ready", &[]),
    ("POST", "/healthcheck/fail", &[]),
    ("GET", "/ready", &[]),
    ("POST", "/healthcheck/ok", &[]),
    ("GET", "/healthcheck/ok", &[]),
    ("GET", "/reset_counters", &[]),
    ("POST", "/reset_counters", &[]),
    ("GET", "/runtime", &[]),
    ("GET", "/server_info", &["node.", "command_line_options."]),
    ("GET", "/stats", &[]),
    ("GET", "/stats?filter=(", &[]),
    ("GET", "/stats?type=Bad", &[]),
    ("GET", "/stats?format=bad", &[]),
    (
        "GET",
        "/stats?format=json&filter=cluster.one.upstream_cx_total",
        &[],
    ),
    (
        "GET",
        "/stats?type=Gauges&format=json&filter=cluster.one.upstream_cx",
        &[],
    ),
    (
        "GET",
        "/stats?format=json&filter=cluster.one.upstream_cx_length_ms",
        &[],
    ),
    ("GET", "/stats/prometheus", &[]),
    ("GET", "/nope", &[]),
    ("POST", "/reopen_logs", &[]),
    ("GET", "/quitquitquit", &[]),
    ("GET", "/drain_listeners", &[]),
];

#[tokio::test]
async fn pages_have_the_shape_of_envoys() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED pages_have_the_shape_of_envoys: ENVOY_BIN is not set");
        return;
    };
    let yaml = include_str!("admin.yaml");
    let ours = Bench::start(yaml).await;
    let envoy = Envoy::start(&binary, yaml, 1).await;
    let mut differences = Vec::new();
    for (method, path, other) in PAGES {
        let expected = ask(envoy.admin, method, path, other).await;
        let found = ask(ours.proxy.admin_address().unwrap(), method, path, other).await;
        if expected != found {
            differences.push(format!(
                "{method} {path}\nEnvoy: {:?}\nours: {:?}\nEnvoy's only: {:#?}\nours only: {:#?}",
                expected.0,
                found.0,
                expected.1.difference(&found.1).collect::<Vec<_>>(),
                found.1.difference(&expected.1).collect::<Vec<_>>(),
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

/// Status and content type; and the fields of JSON, or nothing of a text.
async fn ask(
    admin: SocketAddr,
    method: &str,
    path: &str,
    other: &[&str],
) -> (Vec<String>, BTreeSet<String>) {
    let (head, body) = fetch(admin, method, path).await;
    let of_head = |prefix: &str| {
        let line = head.lines().find(|line| line.starts_with(prefix));
        line.unwrap_or_default().to_owned()
    };
    let told = vec![of_head("http/1.1"), of_head("content-type")];
    let mut fields = BTreeSet::new();
    if of_head("content-type").contains("json") {
        let value: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {body}"));
        shape(&value, "", &mut fields);
        fields.retain(|field| !other.iter().any(|it| field.starts_with(it)));
    }
    (told, fields)
}

/// The head in lower case, and the body of an answer.
pub(crate) async fn fetch(admin: SocketAddr, method: &str, path: &str) -> (String, String) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let answer = exchange(admin, &request).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    let body = match head.contains("transfer-encoding: chunked") {
        true => unchunk(body),
        false => body.to_owned(),
    };
    (head, body)
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole.push_str(&rest[..length]);
        body = rest[length..].trim_start_matches("\r\n");
        if length == 0 {
            break;
        }
    }
    whole
}

/// The paths of all fields, and of what kind the leaves are.
fn shape(value: &Value, path: &str, fields: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                if key == "@type" {
                    fields.insert(format!("{path} {value}"));
                } else {
                    shape(value, &path, fields);
                }
            }
        }
        Value::Array(list) => {
            let path = format!("{path}[]");
            list.iter().for_each(|value| shape(value, &path, fields));
        }
        Value::String(_) => drop(fields.insert(format!("{path} text"))),
        Value::Number(_) => drop(fields.insert(format!("{path} number"))),
        Value::Bool(_) => drop(fields.insert(format!("{path} bool"))),
        Value::Null => drop(fields.insert(format!("{path} null"))),
    }
}
