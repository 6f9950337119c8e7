//! Faults, CORS, access control and routes that change them: the same requests to this proxy and to
//! a real Envoy; and what is counted.

use std::path::PathBuf;

use ithildin_proxy::stats::Value;

use crate::{
    like_envoy::{Case, compare, origin},
    support::{Bench, exchange},
};

fn yaml() -> String {
    include_str!("filters.yaml").replace("ORIGIN", &origin().port().to_string())
}

#[tokio::test]
async fn filters_act_like_envoys() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED filters_act_like_envoys: ENVOY_BIN is not set");
        return;
    };
    compare(&binary, &yaml(), &cases()).await;
}

fn request(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{fields}Connection: close\r\n\r\n")
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for path in [
        "/fault/http",
        "/fault/grpc",
        "/fault/delay",
        "/fault/both",
        "/fault/never",
        "/fault/some",
        "/fault/elsewhere",
        "/fault/off",
        "/weighted",
    ] {
        cases.push(("plain", request("GET", path, "")));
        cases.push(("plain", request("GET", path, "X-Hurt: me\r\n")));
        let grpc = "Content-Type: application/grpc\r\nContent-Length: 0\r\n";
        cases.push(("plain", request("POST", path, grpc)));
    }
    let preflight = "Access-Control-Request-Method: PUT\r\n";
    let private = "Access-Control-Request-Private-Network: true\r\n";
    for path in ["/cors/own", "/cors/any", "/cors/off", "/", "/closed"] {
        for origin in [
            "https://a.test",
            "https://b.test",
            "https://pre.x",
            "https://r12.test",
            "https://r12.test.x",
            "https://host.test",
            "null",
            "",
        ] {
            let origin = format!("Origin: {origin}\r\n");
            for fields in ["", preflight, &format!("{preflight}{private}")] {
                let fields = format!("{origin}{fields}");
                cases.push(("plain", request("OPTIONS", path, &fields)));
                cases.push(("guarded", request("OPTIONS", path, &fields)));
            }
            cases.push(("plain", request("GET", path, &origin)));
            cases.push(("guarded", request("GET", path, &origin)));
        }
    }
    for path in [
        "/closed",
        "/closed/open",
        "/own-rules",
        "/awake",
        "/tree/a/leaf/b/c",
        "/tree/a/b/leaf/c",
        "/tree/a/leaf/",
        "/tree//leaf/b",
        "/store//cart",
        "/store/cart",
        "/store/foo/cart",
        "/store/foo/bar/cart",
        "/store/foo/cart/bar",
        "/open",
        "/",
    ] {
        for fields in ["", "X-Who: me\r\n", "X-Tried: 1\r\n", "X-Hurt: 1\r\n"] {
            cases.push(("plain", request("GET", path, fields)));
            cases.push(("guarded", request("GET", path, fields)));
        }
    }
    // No route: filters have their say all the same.
    let other = request("GET", "/open", "").replace("a.test", "b.test");
    cases.push(("guarded", other.clone()));
    cases.push(("guarded", other.replace("/open", "/closed")));
    cases
}

#[tokio::test]
async fn what_filters_do_is_counted() {
    let bench = Bench::start(&yaml()).await;
    let address = bench.address("plain");
    for (path, fields) in [
        ("/fault/both", ""),
        ("/fault/http", ""),
        ("/closed", "X-Tried: 1\r\n"),
        ("/", "Origin: https://host.test\r\n"),
        ("/", "Origin: https://x.test\r\n"),
    ] {
        exchange(address, &request("GET", path, fields)).await;
    }
    bench.lines(5).await;
    let metrics = bench.proxy.stats().metrics(false);
    for (name, expected) in [
        ("http.plain.fault.delays_injected", Value::Counter(1)),
        ("http.plain.fault.aborts_injected", Value::Counter(2)),
        ("http.plain.fault.active_faults", Value::Gauge(0)),
        ("http.plain.cors.origin_valid", Value::Counter(1)),
        ("http.plain.cors.origin_invalid", Value::Counter(1)),
        ("http.plain.rbac.allowed", Value::Counter(4)),
        ("http.plain.rbac.denied", Value::Counter(1)),
        ("http.plain.rbac.dry_shadow_allowed", Value::Counter(1)),
        ("http.plain.rbac.dry_shadow_denied", Value::Counter(4)),
    ] {
        let found = metrics.iter().find(|metric| metric.name == name);
        assert_eq!(found.map(|it| &it.value), Some(&expected), "{name}");
    }
}
