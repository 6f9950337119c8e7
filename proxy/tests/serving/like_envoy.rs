//! The same bytes to this proxy and to a real Envoy with the same file: the answers, the requests
//! that arrive at the origin, and the access logs must be the same.
//!
//! What this proxy refuses on purpose though Envoy takes it (line folding, LF alone, several Host,
//! unknown bytes after a chunk, ...) is not here: see `src/http/tests/smuggling.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    envoy::Envoy,
    support::{Bench, dead_address, exchange, server},
};

/// Listener, and what is sent to it. `CLOSE` is `Connection: close`, so that the answer has an end.
pub(crate) type Case = (&'static str, String);

#[tokio::test]
async fn it_answers_like_envoy() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED it_answers_like_envoy: ENVOY_BIN is not set");
        return;
    };
    let yaml = include_str!("like_envoy.yaml")
        .replace("ORIGIN", &origin().port().to_string())
        .replace("DEAD", &dead_address().port().to_string());
    compare(&binary, &yaml, &cases()).await;
}

/// Both serve `yaml`, and are sent `cases`.
pub(crate) async fn compare(binary: &Path, yaml: &str, cases: &[Case]) {
    let (ours, envoy) = compare_answers(binary, yaml, cases).await;
    let ours = ours.lines(cases.len()).await;
    let envoy = envoy.lines(cases.len()).await;
    let lines = envoy.iter().zip(&ours).zip(cases);
    let differences: Vec<_> = lines
        .filter(|((expected, found), _)| expected != found)
        .collect();
    assert!(
        differences.is_empty(),
        "Envoy's log, ours: {differences:#?}"
    );
}

/// The same without their logs.
pub(crate) async fn compare_answers(binary: &Path, yaml: &str, cases: &[Case]) -> (Bench, Envoy) {
    let ours = Bench::start(yaml).await;
    let listeners = yaml.matches("\n    filter_chains:").count();
    let envoy = Envoy::start(binary, yaml, listeners).await;
    let mut differences = Vec::new();
    for (listener, request) in cases {
        let (a, b) = (ours.address(listener), envoy.address(listener));
        let expected = normal(&exchange(b, &keyed(request, "envoy")).await, b);
        let found = normal(&exchange(a, &keyed(request, "ours")).await, a);
        if expected != found {
            differences.push(format!("{request}\nEnvoy: {expected:#?}\nours: {found:#?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
    (ours, envoy)
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}Connection: close\r\n\r\n")
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |listener, request: String| cases.push((listener, request));
    for request in HEADS {
        add("sidecar", format!("{request}\r\n\r\n"));
    }
    for path in PATHS {
        add("sidecar", get(path, ""));
        add("edge", get(path, ""));
    }
    for fields in FIELDS {
        add("sidecar", get("/", fields));
        add("edge", get("/", fields));
    }
    for kind in [
        "https", "port", "both", "host", "scheme", "path", "own", "prefix", "bare",
    ] {
        for host in [
            "a.test",
            "a.test:80",
            "a.test:81",
            "a.test:443",
            "[::1]:80",
            "[::1]",
        ] {
            let target = format!("/to/{kind}/x?y=z");
            let request =
                format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            add("sidecar", request);
        }
    }
    for (path, fields) in FAILURES {
        add("sidecar", get(path, fields));
        let grpc = format!("{fields}Content-Type: application/grpc\r\nContent-Length: 0\r\n");
        add("sidecar", get(path, &grpc).replacen("GET", "POST", 1));
        add("sidecar", get(path, fields).replacen("GET", "HEAD", 1));
    }
    for (path, act) in RETRIES {
        add(
            "sidecar",
            get(
                path,
                &format!("X-Act: {act}\r\nX-Key: {path} {act} <proxy>\r\n"),
            ),
        );
    }
    let body = "X-Act: once close\r\nX-Key: body <proxy>\r\nContent-Length: 5\r\n";
    add(
        "sidecar",
        get("/retry/reset", body).replacen("GET", "POST", 1) + "hello",
    );
    for path in ["/grpc/new", "/grpc/old", "/slower"] {
        for asked in ["1S", "5S", "1500m", "0S", "x", "123456789m"] {
            let fields = format!("grpc-timeout: {asked}\r\n");
            add("sidecar", get(path, &fields));
            let grpc = format!("{fields}Content-Type: application/grpc\r\nContent-Length: 0\r\n");
            add("sidecar", get(path, &grpc).replacen("GET", "POST", 1));
        }
    }
    add(
        "edge",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab".into(),
    );
    for (path, protocol) in [("/ws", "bar"), ("/no-foo", "foo"), ("/", "bar")] {
        let fields = format!("Upgrade: {protocol}\r\nConnection: upgrade\r\n");
        add("sidecar", get(path, &fields));
    }
    add("edge", "POST / HTTP/1.1\r\nHost: a\r\nContent-".into());
    add("edge", "GET / HTTP/1.0\r\nHost: a\r\n\r\n".into());
    cases
}

/// Request heads without their last line end.
const HEADS: &[&str] = &[
    "GET / HTTP/1.0\r\nHost: a",
    "GET / HTTP/1.1",
    "GET / HTTP/1.2\r\nHost: a",
    "GET / HTTP/2.0\r\nHost: a",
    "GET / FOO\r\nHost: a",
    "GET / a HTTP/1.1\r\nHost: a",
    "GET a HTTP/1.1\r\nHost: a",
    "GET * HTTP/1.1\r\nHost: a",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close",
    "GET ftp://a/ HTTP/1.1\r\nHost: a",
    "GET http://b.test/p?q HTTP/1.1\r\nHost: a\r\nConnection: close",
    "GET http://b.test HTTP/1.1\r\nHost: a\r\nConnection: close",
    "GET https://b.test/ HTTP/1.1\r\nHost: a\r\nConnection: close",
    "GET / HTTP/1.1\r\nHost: a b",
    "GET / HTTP/1.1\r\nHost: a\r\nX A: b",
    "GET / HTTP/1.1\r\nHost: a\r\nX: b\0c",
    "CONNECT a:443 HTTP/1.1\r\nHost: a:443",
    "CONNECT a HTTP/1.1\r\nHost: a",
    "GET /direct HTTP/1.1\r\nHost: a\r\nConnection: close",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -4",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551620",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity",
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-forwarded-proto",
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: a, b, c, d, e, f, g, h, i, j",
];

const PATHS: &[&str] = &[
    "/#f",
    "/a/../b",
    "/..",
    "/../..",
    "/a/../../b",
    "/a/./b",
    "/a/b/.",
    "/a/b/..",
    "/.",
    "/a/..;/x",
    "/a/..;y/x",
    "/a/.;",
    "/a/%2e%2e;/x",
    "/a/...;/b",
    "/a/.%2e/x",
    "//",
    "///",
    "///a",
    "//a//",
    "/a//b",
    "/a\\b",
    "/a/..\\x",
    "/%zz",
    "/%",
    "/%a",
    "/%2f%2F%5c",
    "/%7e%41%2D",
    "/%c3%a9",
    "/%00",
    "/a%00b",
    "/a?%00",
    "/a\"<>`{}|^b",
    "/a|b?c|d",
    "/a[b]",
    "/a;b",
    "/a?b=../c",
    "/a!$&'()*+,;=:@b",
    "/%2e%2e/x",
    "/a%7Fb%1f%25",
    "/..a",
];

const FIELDS: &[&str] = &[
    "X-Forwarded-For: 10.0.0.1\r\n",
    "X-Forwarded-For: 1.2.3.4, 10.0.0.1\r\n",
    "X-Forwarded-Proto: https\r\n",
    "X-Forwarded-Proto: foo\r\n",
    "X-Forwarded-Port: 1\r\n",
    "X-Forwarded-Host: q\r\n",
    "X-Forwarded-Client-Cert: x\r\n",
    "X-Request-Id: abc\r\n",
    "X-Envoy-Retry-On: 5xx\r\nX-Envoy-Internal: true\r\nX-Envoy-External-Address: 9.9.9.9\r\n\
     X-Envoy-Upstream-Rq-Timeout-Ms: 2000\r\nX-Envoy-Expected-Rq-Timeout-Ms: 77\r\n\
     X-Envoy-Original-Path: /z\r\nX-Envoy-Original-Host: q\r\nX-Envoy-Foo: 1\r\n\
     X-Envoy-Decorator-Operation: x\r\nX-Envoy-Ip-Tags: z\r\nX-Envoy-Max-Retries: 3\r\n\
     X-Envoy-Attempt-Count: 9\r\nX-Envoy-Upstream-Alt-Stat-Name: x\r\n\
     X-Envoy-Downstream-Service-Cluster: c\r\nX-Envoy-Force-Trace: 1\r\n",
    "TE: trailers, gzip\r\n",
    "TE: gzip\r\n",
    "Via: z\r\n",
    "X-Own: 1\r\nConnection: x-own\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n",
    "Trailer: x\r\n",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAA\r\n",
    "Cookie: a\r\nCookie: b\r\n",
    "X-Empty:\r\n",
    "Expect: foo\r\n",
    "Upgrade: bar\r\nConnection: upgrade\r\n",
];

const FAILURES: &[(&str, &str)] = &[
    ("/dead", ""),
    ("/direct", ""),
    ("/direct/made?x=y", ""),
    ("/direct/moved/z", ""),
    ("/direct/none", ""),
    ("/slow", "X-Act: hang\r\n"),
    ("/idle", "X-Act: hang\r\n"),
    ("/long", "X-Act: hang\r\n"),
    ("/slow", "X-Act: break off\r\n"),
    ("/slow", "X-Act: stall\r\n"),
    ("/idle", "X-Act: stall\r\n"),
    ("/long", "X-Act: stall\r\n"),
    ("/", "X-Act: nonsense\r\n"),
    ("/auto", ""),
    ("/rewrite/x?y", "X-Forwarded-Host: before\r\n"),
];

/// Route, and what the origin does at first (`once`) or always.
const RETRIES: &[(&str, &str)] = &[
    ("/retry/5xx", "once 503"),
    ("/retry/5xx", "503"),
    ("/retry/5xx", "once close"),
    ("/retry/5xx", "once nonsense"),
    ("/retry/5xx", "429"),
    ("/retry/gateway", "once 502"),
    ("/retry/gateway", "once 500"),
    ("/retry/gateway", "once close"),
    ("/retry/reset", "once close"),
    ("/retry/reset", "nonsense"),
    ("/retry/reset", "once 503"),
    ("/retry/reset", "once break off"),
    ("/retry/connect", ""),
    ("/retry/try", "once hang"),
    ("/retry/try", "hang"),
    ("/retry/4xx", "once 409"),
    ("/retry/4xx", "once 404"),
    ("/retry/codes", "once 429"),
    ("/retry/codes", "once 503"),
    ("/retry/grpc", "once grpc 14"),
    ("/retry/grpc", "grpc 14"),
    ("/retry/grpc", "once grpc 2"),
    ("/retry/grpc", "once 503"),
    ("/retry/grpc", "once limited grpc 14"),
    ("/retry/5xx", "once limited 503"),
    ("/retry/codes", "once limited 429"),
    ("/retry/limited", "once limited 429"),
    ("/retry/limited", "once 429"),
    ("/retry/limited", "limited 429"),
];

/// The two do not share what the origin remembers. The brackets keep it apart from random base64.
fn keyed(request: &str, who: &str) -> String {
    request.replace("<proxy>", who)
}

/// The lines of an answer in one order, without what differs from one answer to the next.
pub(crate) fn normal(answer: &str, proxy: SocketAddr) -> Vec<String> {
    let port = proxy.port().to_string();
    // A random ID may hold the same digits.
    let in_address = format!(":{port}");
    let line = |line: &str| {
        let line = line.replace(&in_address, ":PORT");
        let Some((name, value)) = line.split_once(": ") else {
            return line;
        };
        let value = match name {
            "date" | "x-envoy-upstream-service-time" => "...",
            "x-forwarded-port" if value == port => "PORT",
            "x-request-id" if value.len() == 36 => "...",
            // The body is the request as the origin got it.
            "content-length" if value.len() > 2 => "...",
            // The first try is told the whole, later ones what is left of it.
            "x-envoy-expected-rq-timeout-ms" if is_rest(value) => "less",
            // Of a client on its own host Envoy tells the address of the host.
            "x-forwarded-for" => return format!("{name}: {}", before_last(value)),
            value_of_key if value_of_key.eq_ignore_ascii_case("x-key") => "...",
            _ => value,
        };
        format!("{name}: {value}")
    };
    let mut lines: Vec<String> = answer.split("\r\n").map(line).collect();
    lines.sort();
    lines
}

/// What a busy machine may leave of 15 seconds, which is the default.
fn is_rest(timeout: &str) -> bool {
    timeout
        .parse()
        .is_ok_and(|ms| (13_000..15_000).contains(&ms))
}

fn before_last(list: &str) -> &str {
    list.rsplit_once(',').map_or("", |(before, _)| before)
}

/// A server that does what `X-Act` says; by default it answers with the request as it came.
pub(crate) fn origin() -> SocketAddr {
    let seen: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    server(move |mut stream| while act(&mut stream, &seen).is_some() {})
}

fn act(stream: &mut TcpStream, seen: &Mutex<HashMap<String, usize>>) -> Option<()> {
    use std::io::{Read, Write};
    let head = crate::support::read_head(stream);
    if head.is_empty() {
        return None;
    }
    let field = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(it, _)| *it == name).map(|(_, value)| value)
    };
    let length = field("content-length").map_or(0, |it| it.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let key = field("x-key").unwrap_or_default().to_owned();
    let before = {
        let mut seen = seen.lock();
        let count = seen.entry(key).or_default();
        *count += 1;
        *count - 1
    };
    let act = match field("x-act").unwrap_or_default() {
        act if act.starts_with("once ") && before > 0 => "",
        act => act.trim_start_matches("once "),
    };
    let part = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
    let answer = match act {
        "close" => return None,
        "hang" => return hang(),
        "break off" => {
            let _ = stream.write_all(part.as_bytes());
            return None;
        }
        "stall" => {
            let _ = stream.write_all(part.as_bytes());
            return hang();
        }
        "nonsense" => {
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n".into()
        }
        "" => {
            let (length, body) = (head.len() + body.len(), String::from_utf8_lossy(&body));
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{head}{body}")
        }
        act => {
            let (act, more) = match act.strip_prefix("limited ") {
                Some(act) => (act, "x-envoy-ratelimited: true\r\n"),
                None => (act, ""),
            };
            match act.strip_prefix("grpc ") {
                Some(code) => format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: {code}\r\n{more}content-length: 0\r\n\r\n"
                ),
                None => format!("HTTP/1.1 {act} X\r\n{more}content-length: 3\r\n\r\nbad"),
            }
        }
    };
    stream.write_all(answer.as_bytes()).ok()
}

/// Longer than any limit in the file.
fn hang() -> Option<()> {
    std::thread::sleep(Duration::from_secs(5));
    None
}
