//! What routes match on and do, beside a real Envoy with the same file: each kind of matcher of
//! `RouteMatch` and of domains, each header operation at each level, rewrites, redirects, weighted
//! clusters, direct responses, clusters that are not there, and an edge's own profile.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use crate::like_envoy::{Case, compare, origin};

#[tokio::test]
async fn routes_are_taken_like_envoys() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED routes_are_taken_like_envoys: ENVOY_BIN is not set");
        return;
    };
    let yaml = include_str!("routing.yaml")
        .replace("ORIGIN", &origin().port().to_string())
        // More than the 4 KiB that a route configuration has without a limit of its own.
        .replace("BODY", &"0123456789".repeat(1000));
    compare(&binary, &yaml, &cases()).await;
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for path in PATHS {
        cases.push(("sidecar", request("GET", path, "a.test", "")));
    }
    for fields in FIELDS {
        cases.push(("sidecar", request("GET", "/h/x", "a.test", fields)));
    }
    for host in HOSTS {
        cases.push(("sidecar", request("GET", "/x?y", host, "")));
        cases.push(("sidecar", request("GET", "/h/x", host, "")));
    }
    for (path, fields) in WITH_FIELDS {
        cases.push(("sidecar", request("GET", path, "a.test:81", fields)));
    }
    for path in EDGE_PATHS {
        cases.push(("edge", request("GET", path, "a.test", "")));
    }
    for fields in EDGE_FIELDS {
        cases.push(("edge", request("GET", "/x", "a.test", fields)));
    }
    cases.push((
        "sidecar",
        request("PUT", "/h/x", "a.test", "Content-Length: 0\r\n"),
    ));
    cases.push(("sidecar", request("GET", "/x", "only.test", "")));
    cases.push((
        "sidecar",
        request("CONNECT", "a.test:443", "a.test:443", ""),
    ));
    cases
}

fn request(method: &str, target: &str, host: &str, fields: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}Connection: close\r\n\r\n")
}

const PATHS: &[&str] = &[
    "/sep",
    "/sep?a",
    "/sep/",
    "/sep/x?a=b",
    "/separate",
    "/exact",
    "/exact?a",
    "/exact/",
    "/folded/a/Rest",
    "/FOLDED/ARest",
    "/folded/b",
    "/folded/c",
    "/Folded/Cx",
    "/regex/abc",
    "/regex/abc?q=/z",
    "/regex/abc1",
    "/re/one/two?three=/re/",
    "/many/foo/boo?o=o",
    "/rere/x?y=z",
    "/redirect/regex/a/b?c",
    "/redirect/302/x?y",
    "/redirect/303/x?y",
    "/redirect/307?y",
    "/query",
    "/query?a=1",
    "/query?a=2&e",
    "/query?e&a=1",
    "/query?e&a=2&a=1",
    "/query?e&b=px",
    "/query?e&b=Px",
    "/query?e&c=12",
    "/query?e&c=12x",
    "/query?e&d",
    "/query?e&d=",
    "/query?e&f=",
    "/query?e&f",
    "/query?e&%61=1",
    "/query?e&a=%31",
    "/query?e=1&b=%50",
    "/unknown/503",
    "/unknown/404",
    "/unknown/500",
    "/empty",
    "/by",
    "/host/x",
    "/direct/200",
    "/direct/204",
    "/direct/bytes",
    "/claim",
    "/",
];

/// Fields of requests for `/h/x`.
const FIELDS: &[&str] = &[
    "",
    "X-A: one\r\n",
    "X-A: One\r\n",
    "X-A: two\r\n",
    "X-A: one\r\nX-A: two\r\n",
    "X-A: two\r\nX-A: one\r\n",
    "X-A: other\r\nX-A: mid\r\n",
    "X-B: one\r\nX-B: two\r\n",
    "X-C: one\r\nX-C: two\r\nX-D: 1\r\n",
    "Cookie: a=b\r\nCookie: user=me\r\n",
    "X-A: prefix\r\n",
    "X-A: no suf\r\n",
    "X-A: a mid b\r\n",
    "X-A: r12\r\n",
    "X-A: r123\r\n",
    "X-A: 4\r\n",
    "X-A: 5\r\n",
    "X-A: -5\r\n",
    "X-A: 4.5\r\n",
    "X-A: +4\r\n",
    "X-B: one\r\n",
    "X-B: two\r\n",
    "X-B:\r\n",
    "X-C: one\r\nX-D: 1\r\n",
    "X-C: two\r\nX-D: 1\r\n",
    "X-D: 1\r\n",
    "X-E: 1\r\nX-G: 1\r\n",
    "X-E:\r\nX-G: 1\r\n",
    "X-G: 1\r\n",
    "X-F: 1\r\nX-G: 1\r\n",
    "X-I: 1\r\n",
    "X-H: 1\r\nX-I: 1\r\n",
    "X-J:\r\n",
    "X-J: 1\r\n",
    "X-K: 1\r\nX-L: 1\r\n",
    "X-L: 1\r\n",
    "X-Forwarded-Proto: https\r\n",
    "Cookie: user=me\r\n",
    "Cookie: a=b; user=me; c=d\r\n",
    "Cookie: a=b;user=me;c=d\r\n",
    "Cookie: user=you\r\n",
    "X-Grpc: 1\r\nContent-Type: application/grpc\r\n",
    "X-Grpc: 1\r\nContent-Type: application/grpc+proto\r\n",
    "X-Grpc: 1\r\nContent-Type: application/grpc-web\r\n",
];

const HOSTS: &[&str] = &[
    "host.test",
    "secure.test",
    "secure.test:80",
    "secure.test:8080",
    "exact.wild.test",
    "EXACT.wild.test:80",
    "upper.test",
    "UPPER.TEST:1",
    "[::1]",
    "[::1]:80",
    "127.0.0.9:9",
    "x.wild.test",
    ".wild.test",
    "wild.test",
    "a.b.wild.test",
    "b.wild.test",
    "x-c.wild.test",
    "-c.wild.test",
    "pre.x",
    "pre.",
    "pre.b.wild.test",
    "block.test",
    "a.test.",
];

const WITH_FIELDS: &[(&str, &str)] = &[
    (
        "/weighted/x",
        "X-Who: client\r\nX-Secret: 1\r\nX-Client: c\r\nX-Strip: s\r\n",
    ),
    ("/weighted/x", ""),
    (
        "/headers/x?y",
        "X-Add: 0\r\nX-Set: 0\r\nX-Set: 1\r\nX-Absent: 0\r\nX-Exists: 0\r\n",
    ),
    (
        "/headers/x?y",
        "X-Yes: abcdef\r\nX-Client: a b\r\nX-Empty: 1\r\nX-Kept: 1\r\n",
    ),
    ("/headers/x?y", "X-Who: client\r\nX-Twice: 1\r\n"),
    ("/by", "X-Cluster: origin\r\n"),
    ("/by", "X-Cluster: nowhere\r\n"),
    ("/by", "X-Cluster: BlackHoleCluster\r\n"),
    ("/attempts", "X-Act: once 503\r\nX-Key: a <proxy>\r\n"),
    ("/attempts", "X-Act: 503\r\nX-Key: b <proxy>\r\n"),
    ("/attempts", "X-Act: close\r\nX-Key: c <proxy>\r\n"),
    ("/sep/x", "X-Envoy-Original-Path: /before\r\n"),
    ("/host/x", "X-Envoy-Original-Host: before.test\r\n"),
];

const EDGE_PATHS: &[&str] = &[
    "/a%2fb",
    "/a%2Fb%5Cc?d%2fe",
    "/a//b///c?d//e",
    "/a/%2e%2e/b",
    "/a%2f%2e%2e%2fb",
    "/a//../b",
    "/x?a%5c",
];

const EDGE_FIELDS: &[&str] = &[
    "",
    "a_b: 1\r\n",
    "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n",
    "X-Envoy-Internal: true\r\nX-Envoy-Retry-On: 5xx\r\n",
    "X-Envoy-Peer-Metadata: abc\r\nX-Envoy-Peer-Metadata-Id: def\r\n",
    "Server: x\r\nX-Request-Id: 1\r\n",
];
