//! External authorization: the same requests to this proxy and to a real Envoy; what is counted; and
//! services that are away, slow, or make no sense.

use std::path::PathBuf;

use ithildin_proxy::stats::Value;

use crate::{
    authz_server,
    like_envoy::{Case, compare, compare_answers, origin},
    support::{Bench, dead_address, exchange},
};

const DENY: &str = r#"{"status": {"code": 7}}"#;

/// `requests` say what the service of gRPC answers.
async fn yaml(requests: &[Case]) -> String {
    let mut answers = vec!["{}", DENY];
    for (_, request) in requests {
        let mut lines = request.lines();
        let said = lines.find_map(|line| line.strip_prefix("X-Say: "));
        answers.extend(said.filter(|it| it.starts_with('{')));
    }
    let replace = [
        ("ORIGIN", origin()),
        ("PLAIN", authz_server::plain()),
        ("GRPC", authz_server::grpc(answers).await),
        ("REFUSING", authz_server::grpc(vec![DENY]).await),
        ("DEAD", dead_address()),
    ];
    let yaml = include_str!("ext_authz.yaml").to_owned();
    replace.iter().fold(yaml, |yaml, (name, address)| {
        yaml.replace(
            &format!("port_value: {name}}}"),
            &format!("port_value: {}}}", address.port()),
        )
    })
}

#[tokio::test]
async fn services_are_asked_like_envoys() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED services_are_asked_like_envoys: ENVOY_BIN is not set");
        return;
    };
    let cases = cases();
    let yaml = yaml(&cases).await.replace("TCP_LOG", "[]");
    compare(&binary, &yaml, &cases).await;
    // Envoy logs that we wait for it to listen, too.
    let listeners = ["tcp", "tcp-refused", "tcp-shut", "tcp-open", "tcp-some"];
    let cases = listeners.map(|listener| (listener, over_tcp()));
    compare_answers(&binary, &yaml, &cases).await;
}

fn request(method: &str, path: &str, fields: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{fields}Connection: close\r\n\r\n{body}")
}

fn get(path: &str, fields: &str) -> String {
    request("GET", path, fields, "")
}

fn say(path: &str, what: &str) -> String {
    get(path, &format!("X-Say: {what}\r\n"))
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    told(&mut cases);
    allowed(&mut cases);
    denied(&mut cases);
    bodies(&mut cases);
    errors(&mut cases);
    plain(&mut cases);
    odd(&mut cases);
    for path in ["/asked", "/other", "/neither"] {
        cases.push(("some", get(path, "")));
    }
    cases.push(("disabled", get("/", "")));
    cases
}

/// The origin ends the connection.
fn over_tcp() -> String {
    get("/", "x-act: break off\r\n")
}

/// What the service is told.
fn told(cases: &mut Vec<Case>) {
    let fields = "X-Say: dump\r\nX-A: 1\r\nX-A: 2\r\nX-Secret: s\r\nCookie: a=b\r\nAuthorization: z\r\n\
                  X-Envoy-Auth-Partial-Body: true\r\nX-Envoy-Downstream-Service-Cluster: c\r\n";
    for path in ["/", "/route?a=b", "/off", "/gone", "/no-body", "/with-body"] {
        for listener in ["grpc", "body", "plain", "bare"] {
            cases.push((listener, get(path, fields)));
        }
    }
    let nowhere = get("/", fields).replace("a.test", "b.test");
    for listener in ["grpc", "body", "plain", "bare"] {
        cases.push((listener, nowhere.clone()));
    }
}

/// What changes in requests and responses that may pass.
fn allowed(cases: &mut Vec<Case>) {
    for ok in [
        r#"{"headers": [{"header": {"key": "x-a", "value": "new"}}]}"#,
        r#"{"headers": [{"header": {"key": "X-New", "value": "new"}}]}"#,
        r#"{"headers": [{"header": {"key": "x-a", "value": "new"}, "append": true}]}"#,
        r#"{"headers": [{"header": {"key": "x-new", "value": "new"}, "append": true}]}"#,
        r#"{"headers": [{"header": {"key": "x-a", "value": "new"}, "append": false}]}"#,
        r#"{"headers": [{"header": {"key": "x-a", "value": ""}}]}"#,
        r#"{"headers": [{"header": {"key": "x-a", "rawValue": "bmV3"}}]}"#,
        r#"{"headers": [{"header": {"key": "x-new", "value": "1"}}, {"header": {"key": "x-new", "value": "2"}}]}"#,
        r#"{"headers": [{"header": {"key": "x-way", "value": "other"}}]}"#,
        r#"{"headers": [{"header": {"key": ":path", "value": "/route/new?q"}}]}"#,
        r#"{"headers": [{"header": {"key": ":authority", "value": "c.test"}}]}"#,
        r#"{"headers": [{"header": {"key": "x bad", "value": "1"}}]}"#,
        r#"{"headers": [{"header": {"key": "x-bad", "value": "1\r\n2"}}]}"#,
        r#"{"headersToRemove": ["x-a", "X-B", "host", ":path", "x bad"]}"#,
        r#"{"responseHeadersToAdd": [{"header": {"key": "x-table", "value": "new"}}]}"#,
        r#"{"responseHeadersToAdd": [{"header": {"key": "x-table", "value": "new"}, "append": true}]}"#,
        r#"{"responseHeadersToAdd": [{"header": {"key": "x-table", "value": "new"}, "append": false}]}"#,
        r#"{"responseHeadersToAdd": [{"header": {"key": "x-bad", "value": "1\r\n2"}}]}"#,
        r#"{"queryParametersToSet": [{"key": "q", "value": "1"}, {"key": "z", "value": "2"}], "queryParametersToRemove": ["a"]}"#,
        r#"{"queryParametersToRemove": ["q", "a"]}"#,
        r#"{"dynamicMetadata": {"told": "inner"}}"#,
    ] {
        let answer = format!(r#"{{"okResponse": {ok}, "dynamicMetadata": {{"told": ["x", 1]}}}}"#);
        let fields = format!("X-A: old\r\nX-B: old\r\nX-Say: {answer}\r\n");
        cases.push(("grpc", get("/p?q=0&a=1&a=2&c", &fields)));
    }
    for action in 0..4 {
        let answer = |place: &str, key: &str| {
            format!(
                r#"{{"okResponse": {{"{place}": [{{"header": {{"key": "{key}", "value": "new"}}, "appendAction": {action}}}]}}}}"#
            )
        };
        for (place, key) in [
            ("headers", "x-a"),
            ("headers", "x-new"),
            ("responseHeadersToAdd", "x-table"),
            ("responseHeadersToAdd", "x-new"),
        ] {
            let fields = format!("X-A: old\r\nX-Say: {}\r\n", answer(place, key));
            cases.push(("grpc", get("/", &fields)));
        }
    }
    cases.push(("grpc", say("/", r#"{"status": {"code": 0}}"#)));
    // What answers on our side gets the headers, too.
    let add =
        r#"{"okResponse": {"responseHeadersToAdd": [{"header": {"key": "x-new", "value": "1"}}]}}"#;
    cases.push((
        "grpc",
        get("/", &format!("X-Way: other\r\nX-Say: {add}\r\n")),
    ));
}

fn denied(cases: &mut Vec<Case>) {
    let grpc = "Content-Type: application/grpc\r\n";
    for denied in [
        r#"{"status": {"code": 401}, "body": "no"}"#,
        r#"{"status": {"code": 200}, "body": "yes"}"#,
        r#"{"status": {"code": 302}, "headers": [{"header": {"key": "Location", "value": "/x"}}]}"#,
        r#"{"body": "{}", "headers": [{"header": {"key": "content-type", "value": "application/json"}}]}"#,
        r#"{"headers": [{"header": {"key": "set-cookie", "value": "1"}}, {"header": {"key": "set-cookie", "value": "2"}}]}"#,
        r#"{"headers": [{"header": {"key": "x-table", "value": "new"}}]}"#,
        r#"{"headers": [{"header": {"key": "x-table", "value": "new"}, "append": true}]}"#,
        r#"{"headers": [{"header": {"key": "x-new", "value": "new"}, "append": true}]}"#,
        r#"{"headers": [{"header": {"key": "x-bad", "value": "1\r\n2"}}]}"#,
        r#"{"headers": [{"header": {"key": "content-length", "value": "99"}}], "body": "abc"}"#,
    ] {
        let answer = format!(
            r#"{{"status": {{"code": 7}}, "deniedResponse": {denied}, "dynamicMetadata": {{"told": true}}}}"#
        );
        let fields = format!("X-Say: {answer}\r\n");
        cases.push(("grpc", get("/", &fields)));
        cases.push(("grpc", get("/", &format!("{fields}{grpc}"))));
    }
    cases.push(("grpc", say("/", r#"{"status": {"code": 16}}"#)));
    // An answer that says both things is a denial.
    let both = r#"{"status": {"code": 7}, "okResponse": {"headers": [{"header": {"key": "x-new", "value": "1"}}]}}"#;
    cases.push(("grpc", say("/", both)));
    let both = r#"{"status": {"code": 0}, "deniedResponse": {"body": "no"}}"#;
    cases.push(("grpc", say("/", both)));
}

fn bodies(cases: &mut Vec<Case>) {
    let sized = |body: &str| format!("X-Say: dump\r\nContent-Length: {}\r\n", body.len());
    let chunked = "X-Say: dump\r\nTransfer-Encoding: chunked\r\n";
    for body in [
        "a",
        "0123456789",
        "0123456789a",
        "0123456789abcdef0123456789",
    ] {
        for (listener, path) in [
            ("grpc", "/"),
            ("grpc", "/with-body"),
            ("body", "/"),
            ("body", "/no-body"),
            ("partial", "/"),
            ("plain", "/"),
        ] {
            let fields = sized(body);
            cases.push((listener, request("POST", path, &fields, body)));
            let passing = fields.replace("X-Say: dump\r\n", "");
            cases.push((listener, request("POST", path, &passing, body)));
        }
        let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        for listener in ["body", "partial"] {
            cases.push((listener, request("POST", "/", chunked, &chunks)));
        }
    }
}

fn errors(cases: &mut Vec<Case>) {
    let grpc = "Content-Type: application/grpc\r\n";
    for what in ["fail", "hang"] {
        cases.push(("grpc", say("/", what)));
        cases.push(("grpc", get("/", &format!("X-Say: {what}\r\n{grpc}"))));
    }
    for error in [
        "{}",
        r#"{"status": {"code": 502}, "body": "late", "headers": [{"header": {"key": "x-e", "value": "1"}}]}"#,
    ] {
        let answer = format!(r#"{{"status": {{"code": 13}}, "errorResponse": {error}}}"#);
        cases.push(("grpc", say("/", &answer)));
    }
    for listener in ["shut", "confused"] {
        cases.push((listener, get("/", "")));
        cases.push((listener, get("/", grpc)));
    }
    for what in ["hang", "close", "garbage", "500", "503~~no"] {
        cases.push(("plain", say("/", what)));
        cases.push(("bare", say("/", what)));
    }
}

fn plain(cases: &mut Vec<Case>) {
    for answer in [
        "200",
        "200~x-up: 1~x-more-a: 2~x-other: 3~x-append: 4~x-down: 5~set-cookie: a~set-cookie: b~told: t",
        "200~x-up: 1~x-up: 2~x-down: 1~x-down: 2",
        "200~x-envoy-auth-headers-to-remove: x-a, x-b~~ignored",
        "200~x-append: 4~x-append: 5~x-up: new",
        "201",
        "301~location: /x",
        "401~www-authenticate: Basic~x-deny: 1~x-other: 2~content-type: text/html~~<p>",
        "403~~no",
        "404~server: authz~date: yesterday~told: t",
        "407~proxy-authenticate: Basic",
    ] {
        let old = match answer.contains("new") {
            true => "",
            false => "X-Append: old\r\n",
        };
        let fields = format!("X-A: old\r\nX-B: old\r\n{old}X-Say: {answer}\r\n");
        for listener in ["plain", "bare"] {
            cases.push((listener, get("/p?q", &fields)));
        }
    }
}

/// What no service should say.
fn odd(cases: &mut Vec<Case>) {
    for header in [
        r#"{"key": "x-name", "value": "José"}"#,
        r#"{"key": "x-name", "value": " a\tb "}"#,
        r#"{"key": "x-name", "value": "a\u0000b"}"#,
        r#"{"key": "x-name", "value": "a\u007fb"}"#,
        r#"{"key": "x-name", "value": "a\u0001b"}"#,
        r#"{"key": "x-name\r\nx-other", "value": "1"}"#,
        r#"{"key": "host", "value": "c.test"}"#,
        r#"{"key": "Host", "value": "c.test"}"#,
        r#"{"key": "te", "value": "trailers"}"#,
    ] {
        for (place, status) in [
            ("okResponse\": {\"headers", 0),
            ("okResponse\": {\"responseHeadersToAdd", 0),
            ("deniedResponse\": {\"headers", 7),
        ] {
            let answer = format!(
                r#"{{"status": {{"code": {status}}}, "{place}": [{{"header": {header}}}]}}}}"#
            );
            cases.push((
                "grpc",
                get("/", &format!("X-A: old\r\nX-Say: {answer}\r\n")),
            ));
        }
    }
    for status in [205, 400, 511] {
        let answer = format!(
            r#"{{"status": {{"code": 7}}, "deniedResponse": {{"status": {{"code": {status}}}, "body": "no"}}}}"#
        );
        cases.push(("grpc", say("/", &answer)));
    }
    for status in [101, 204, 205, 304, 400, 511, 599, 600, 999] {
        for listener in ["plain", "bare"] {
            cases.push((listener, say("/", &format!("{status}~~no"))));
        }
    }
    for code in [-1, 1, 17, 99999] {
        cases.push((
            "grpc",
            say("/", &format!(r#"{{"status": {{"code": {code}}}}}"#)),
        ));
    }
    for remove in [
        ":authority",
        "Host",
        "content-length",
        ":method",
        "",
        "x-say",
    ] {
        let answer = format!(r#"{{"okResponse": {{"headersToRemove": ["{remove}"]}}}}"#);
        cases.push(("grpc", say("/", &answer)));
    }
    for (key, value) in [
        ("q", "a b"),
        ("q", "a&b=c"),
        ("q", "a#b"),
        ("", "1"),
        ("q", "a\\r\\nb"),
    ] {
        let answer = format!(
            r#"{{"okResponse": {{"queryParametersToSet": [{{"key": "{key}", "value": "{value}"}}]}}}}"#
        );
        cases.push(("grpc", say("/?z", &answer)));
    }
    for (name, value) in [
        ("connection", "close"),
        ("keep-alive", "5"),
        ("upgrade", "websocket"),
        ("te", "trailers"),
        ("x-up", "José"),
    ] {
        for status in ["200", "403"] {
            for listener in ["plain", "bare"] {
                cases.push((listener, say("/", &format!("{status}~{name}: {value}"))));
            }
        }
    }
}

/// Where Envoy lets a service break a message, or takes a part of what it says.
#[tokio::test]
async fn no_service_breaks_a_message() {
    let header = |place: &str, status: u8, (name, value): (&str, &str)| {
        let header = format!(r#"{{"header": {{"key": "{name}", "value": "{value}"}}}}"#);
        format!(r#"{{"status": {{"code": {status}}}, "{place}": [{header}]}}}}"#)
    };
    let places = [
        (r#"okResponse": {"headers"#, 0, "200"),
        (r#"okResponse": {"responseHeadersToAdd"#, 0, "200"),
        (r#"deniedResponse": {"headers"#, 7, "403"),
    ];
    let mut cases = Vec::new();
    for (place, status, _) in places {
        for name in ["", ":status", ":scheme", ":odd"] {
            cases.push((header(place, status, (name, "204")), "500", String::new()));
        }
    }
    for (place, status, expected) in places {
        for (name, value) in [
            ("content-length", "99"),
            ("content-length", "x"),
            ("transfer-encoding", "chunked"),
            ("connection", "x-a"),
            ("upgrade", "websocket"),
            ("keep-alive", "5"),
        ] {
            let never = format!("\n{name}: {value}\r\n");
            cases.push((header(place, status, (name, value)), expected, never));
        }
    }
    for (code, expected) in [(100, "500"), (204, "204"), (304, "304")] {
        let denied = format!(r#"{{"status": {{"code": {code}}}, "body": "never"}}"#);
        let answer = format!(r#"{{"status": {{"code": 7}}, "deniedResponse": {denied}}}"#);
        cases.push((answer, expected, "\r\n\r\nnever".into()));
    }
    let requests: Vec<_> = cases
        .iter()
        .map(|(it, ..)| ("grpc", say("/", it)))
        .collect();
    let bench = Bench::start(&yaml(&requests).await.replace("TCP_LOG", "[]")).await;
    for ((listener, request), (_, expected, never)) in requests.iter().zip(&cases) {
        // The origin's answer is the request that it got.
        let answer = exchange(bench.address(listener), request).await;
        let status = answer.get(9..12);
        assert_eq!(status, Some(*expected), "{request}{answer}");
        assert!(
            never.is_empty() || !answer.contains(never),
            "{request}{answer}"
        );
    }
}

#[tokio::test]
async fn questions_are_counted() {
    let bad = r#"{"okResponse": {"headers": [{"header": {"key": "x bad", "value": "1"}}]}}"#;
    let asked = [
        ("grpc", say("/", "{}")),
        ("grpc", say("/", DENY)),
        ("grpc", say("/", "fail")),
        ("grpc", say("/", "large")),
        ("grpc", say("/", bad)),
        ("bare", say("/", "500")),
        ("bare", say("/", "large")),
        ("disabled", get("/", "")),
        ("tcp", over_tcp()),
        ("tcp-refused", over_tcp()),
        ("tcp-open", over_tcp()),
        ("tcp-some", over_tcp()),
    ];
    let yaml = yaml(&asked).await.replace("TCP_LOG", "*log");
    let bench = Bench::start(&yaml).await;
    for (listener, request) in &asked {
        exchange(bench.address(listener), request).await;
    }
    let lines = bench.lines(asked.len()).await;
    let refused = lines
        .iter()
        .filter(|it| *it == "- 0 UAEX ext_authz_denied -");
    assert_eq!(refused.count(), 2, "of TCP: {lines:#?}");
    let metrics = bench.proxy.stats().metrics(false);
    for (name, expected) in [
        ("http.grpc.ext_authz.ok", 1),
        ("http.grpc.ext_authz.denied", 1),
        ("http.grpc.ext_authz.error", 2),
        ("http.grpc.ext_authz.invalid", 1),
        ("http.grpc.ext_authz.failure_mode_allowed", 0),
        ("http.bare.ext_authz.own.error", 2),
        ("http.bare.ext_authz.own.failure_mode_allowed", 2),
        ("http.disabled.ext_authz.disabled", 1),
        ("ext_authz.tcp..ok", 1),
        ("ext_authz.tcp..total", 1),
        ("ext_authz.tcp..cx_closed", 0),
        ("ext_authz.refused..denied", 1),
        ("ext_authz.refused..cx_closed", 1),
        ("ext_authz.open..error", 1),
        ("ext_authz.open..failure_mode_allowed", 1),
        ("ext_authz.other..disabled", 1),
        ("ext_authz.some..denied", 1),
    ] {
        let found = metrics.iter().find(|metric| metric.name == name);
        let expected = Some(&Value::Counter(expected));
        assert_eq!(found.map(|it| &it.value), expected, "{name}");
    }
}
