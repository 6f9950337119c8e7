//! Local rate limits: the same requests to this proxy and to a real Envoy; and what is counted.

use std::path::PathBuf;

use ithildin_proxy::stats::Value;

use crate::{
    like_envoy::{Case, compare, origin},
    support::{Bench, exchange},
};

fn yaml() -> String {
    include_str!("rate_limit.yaml").replace("ORIGIN", &origin().port().to_string())
}

fn request(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{fields}Connection: close\r\n\r\n")
}

#[tokio::test]
async fn requests_are_limited_like_envoys() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED requests_are_limited_like_envoys: ENVOY_BIN is not set");
        return;
    };
    compare(&binary, &yaml(), &cases()).await;
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let grpc = "Content-Type: application/grpc\r\nContent-Length: 0\r\n";
    for path in [
        "/enforced",
        "/counted",
        "/asleep",
        "/other",
        "/low",
        "/free",
    ] {
        for _ in 0..3 {
            cases.push(("routes", request("GET", path, "")));
        }
        cases.push(("routes", request("POST", path, grpc)));
        cases.push(("routes", request("HEAD", path, "")));
    }
    for path in ["/a", "/off", "/b", "/off", "/c", "/off", "/off"] {
        cases.push(("all", request("GET", path, "")));
    }
    for path in [
        "/both/page",
        "/both/other",
        "/apart",
        "/told",
        "/rules/override",
        "/rules/include",
        "/rules/ignore",
        "/none/override",
        "/none/include",
        "/none/ignore",
        "/always",
        "/stage",
        "/own",
    ] {
        for user in ["x-user: a\r\n", "x-user: b\r\n", "", "x-user: a\r\n", ""] {
            cases.push(("described", request("GET", path, user)));
        }
    }
    // What no route takes needs a token, too.
    let nowhere = request("GET", "/a", "").replace("a.test", "b.test");
    for _ in 0..3 {
        cases.push(("all", nowhere.clone()));
    }
    cases
}

#[tokio::test]
async fn limits_are_counted() {
    let bench = Bench::start(&yaml()).await;
    for path in [
        "/enforced",
        "/enforced",
        "/enforced",
        "/counted",
        "/counted",
        "/free",
    ] {
        exchange(bench.address("routes"), &request("GET", path, "")).await;
    }
    bench.lines(6).await;
    let metrics = bench.proxy.stats().metrics(false);
    for (name, expected) in [
        ("limits.http_local_rate_limit.enabled", 5),
        ("limits.http_local_rate_limit.ok", 3),
        ("limits.http_local_rate_limit.rate_limited", 2),
        ("limits.http_local_rate_limit.enforced", 1),
        ("limits.http_local_rate_limit.shadow_mode", 0),
        ("all.http_local_rate_limit.enabled", 0),
    ] {
        let found = metrics.iter().find(|metric| metric.name == name);
        let expected = Some(&Value::Counter(expected));
        assert_eq!(found.map(|it| &it.value), expected, "{name}");
    }
}
