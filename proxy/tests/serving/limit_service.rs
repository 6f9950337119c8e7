//! Services that limit rates: the same requests to this proxy and to a real Envoy; and what is counted.

use std::path::PathBuf;

use ithildin_proxy::stats::Value;

use crate::{
    authz_server,
    like_envoy::{Case, compare, origin},
    limit_server,
    support::{Bench, dead_address, exchange},
};

/// What is said of each request before it is asked about.
const TOLD: &str = r#"{"dynamicMetadata": {"text": "t", "deep": {"x": "y"}, "number": 5, "limit": {"requests_per_unit": 7, "unit": "MINUTE"}}}"#;

/// `requests` say what the service answers.
async fn yaml(requests: &[Case]) -> String {
    let said = requests.iter().flat_map(|(_, request)| request.lines());
    let said = said.filter_map(|line| line.strip_prefix("X-Say: "));
    let answers = said.filter(|it| it.starts_with('{')).collect();
    let replace = [
        ("ORIGIN", origin()),
        ("DEAD", dead_address()),
        ("LIMITS", limit_server::start(answers).await),
        ("AUTHZ", authz_server::grpc(vec![TOLD]).await),
    ];
    let yaml = include_str!("limit_service.yaml").to_owned();
    replace.iter().fold(yaml, |yaml, (name, address)| {
        yaml.replace(
            &format!("port_value: {name}}}"),
            &format!("port_value: {}}}", address.port()),
        )
    })
}

#[tokio::test]
async fn services_limit_rates_like_envoys() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED services_limit_rates_like_envoys: ENVOY_BIN is not set");
        return;
    };
    let cases = cases();
    compare(&binary, &yaml(&cases).await, &cases).await;
}

fn request(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{fields}Connection: close\r\n\r\n")
}

fn say(path: &str, what: &str) -> String {
    request("GET", path, &format!("X-Say: {what}\r\n"))
}

const GRPC: &str = "Content-Type: application/grpc\r\nContent-Length: 0\r\n";

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    told(&mut cases);
    answered(&mut cases);
    unanswered(&mut cases);
    cases
}

/// What the service is told.
fn told(cases: &mut Vec<Case>) {
    for path in [
        "/plain",
        "/host",
        "/both",
        "/include",
        "/ignore",
        "/ignore-but-include",
        "/instead",
        "/direct",
        "/redirect",
        "/nowhere",
        "/dead",
        "/none",
    ] {
        for listener in ["rules", "settings", "none"] {
            cases.push((listener, say(path, "dump")));
        }
    }
    for (path, fields) in [
        ("/all", ""),
        ("/all?q=a%20b&q=c&x", "X-A: 1\r\n"),
        ("/all?q", "X-A: 2\r\nX-B: 1\r\nX-B: 2\r\n"),
        ("/all?q=", "X-A: 1\r\nX-A: 2\r\nX-B: 3\r\n"),
        ("/all?%71=%61", "X-A:\r\nX-B:\r\n"),
        (
            "/all",
            "X-Forwarded-For: 1.2.3.4\r\nUser-Agent: u\r\nUser-Agent: v\r\n",
        ),
        ("/all", "X-Forwarded-For: 1.2.255.4, 5.6.255.8\r\n"),
        ("/all", "X-Forwarded-For: 2001:db8:ffff:ffff::1\r\n"),
    ] {
        let fields = format!("X-Say: dump\r\n{fields}");
        cases.push(("rules", request("GET", path, &fields)));
    }
    for fields in [
        "",
        "X-Forwarded-For: 10.0.0.1\r\n",
        "X-Forwarded-For: 1.2.3.4\r\n",
    ] {
        let fields = format!("X-Say: dump\r\n{fields}");
        cases.push(("odd", request("GET", "/plain", &fields)));
    }
    // Without what a rule needs there is nothing to ask about.
    cases.push(("rules", request("GET", "/plain", "")));
    cases.push(("rules", request("GET", "/host", "")));
}

fn answered(cases: &mut Vec<Case>) {
    let statuses = r#""statuses": [{"code": 1, "currentLimit": {"requestsPerUnit": 9, "unit": 2}, "limitRemaining": 4, "durationUntilReset": "30s"}, {"code": 2, "currentLimit": {"requestsPerUnit": 5, "unit": 1, "name": "n"}, "limitRemaining": 2, "durationUntilReset": "0.5s"}, {"code": 2}, {"code": 2, "currentLimit": {"requestsPerUnit": 6, "unit": 0}, "limitRemaining": 2, "durationUntilReset": "7.9s"}]"#;
    let units = r#""statuses": [{"currentLimit": {"requestsPerUnit": 1, "unit": 3}}, {"currentLimit": {"requestsPerUnit": 1, "unit": 4}}, {"currentLimit": {"requestsPerUnit": 1, "unit": 5}}, {"currentLimit": {"requestsPerUnit": 1, "unit": 6}}, {"currentLimit": {"requestsPerUnit": 1, "unit": 7}}]"#;
    for code in [0, 1, 2] {
        for rest in [
            r#""rawBody": """#,
            r#""rawBody": "bm8=", "dynamicMetadata": {"told": {"a": 1}}"#,
            r#""responseHeadersToAdd": [{"key": "x-a", "value": "1"}, {"key": "X-Table", "value": "svc"}, {"key": "x-limited", "value": "svc"}, {"key": "x-a", "value": "2"}], "requestHeadersToAdd": [{"key": "x-b", "value": "1"}, {"key": "X-Say", "value": "2"}]"#,
            r#""rawBody": "e30=", "responseHeadersToAdd": [{"key": "content-type", "value": "application/json"}, {"key": "retry-after", "value": "77"}]"#,
            r#""responseHeadersToAdd": [{"key": "x-raw", "rawValue": "YWJj"}, {"key": "x-both", "value": "v", "rawValue": "YWJj"}, {"key": "x-empty"}, {"key": "x-envoy-ratelimited", "value": "no"}]"#,
            statuses,
            units,
        ] {
            let answer = format!(r#"{{"overallCode": {code}, {rest}}}"#);
            for (listener, path) in [
                ("rules", "/plain"),
                ("settings", "/plain"),
                ("rules", "/dead"),
            ] {
                cases.push((listener, say(path, &answer)));
            }
            let fields = format!("X-Say: {answer}\r\n{GRPC}");
            cases.push(("rules", request("POST", "/plain", &fields)));
            cases.push(("settings", request("POST", "/plain", &fields)));
            let fields = format!("X-Say: {answer}\r\nX-Forwarded-For: 10.0.0.1\r\n");
            cases.push(("odd", request("GET", "/plain", &fields)));
            if rest.contains("bm8=") {
                let fields = format!("X-Say: {answer}\r\n");
                cases.push(("rules", request("HEAD", "/plain", &fields)));
            }
        }
    }
}

fn unanswered(cases: &mut Vec<Case>) {
    for what in ["fail", "hang"] {
        for (listener, fields) in [
            ("rules", ""),
            ("settings", ""),
            ("odd", "X-Forwarded-For: 10.0.0.1\r\n"),
        ] {
            let fields = format!("X-Say: {what}\r\n{fields}");
            cases.push((listener, request("GET", "/plain", &fields)));
            cases.push((
                listener,
                request("POST", "/plain", &format!("{fields}{GRPC}")),
            ));
        }
    }
    for listener in ["dead", "open"] {
        cases.push((listener, say("/plain", "x")));
        cases.push((
            listener,
            request("POST", "/plain", &format!("X-Say: x\r\n{GRPC}")),
        ));
        cases.push((listener, request("GET", "/plain", "")));
    }
}

#[tokio::test]
async fn answers_beyond_the_bound_are_errors() {
    let cases = ["rules", "settings"].map(|listener| (listener, say("/plain", "large")));
    let bench = Bench::start(&yaml(&cases).await).await;
    // One denies what fails, the other lets it pass.
    for ((listener, request), status) in cases.iter().zip(["500", "200"]) {
        let answer = exchange(bench.address(listener), request).await;
        let start = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&start), "{listener}: {answer:.200}");
    }
}

#[tokio::test]
async fn answers_are_counted() {
    let over = r#"{"overallCode": 2}"#;
    let cases = [
        ("rules", say("/plain", r#"{"overallCode": 1}"#)),
        ("rules", say("/plain", over)),
        ("rules", say("/plain", over)),
        ("rules", say("/plain", "fail")),
        ("settings", say("/plain", "fail")),
        ("rules", request("GET", "/plain", "")),
    ];
    let bench = Bench::start(&yaml(&cases).await).await;
    for (listener, request) in &cases {
        exchange(bench.address(listener), request).await;
    }
    bench.lines(cases.len()).await;
    let metrics = bench.proxy.stats().metrics(false);
    for (name, expected) in [
        ("cluster.origin.ratelimit.ok", 1),
        ("cluster.origin.ratelimit.over_limit", 2),
        ("cluster.origin.ratelimit.error", 2),
        ("cluster.origin.ratelimit.failure_mode_allowed", 1),
        ("cluster.origin.upstream_rq_429", 2),
        ("cluster.limits.upstream_rq_200", 5),
    ] {
        let found = metrics.iter().find(|metric| metric.name == name);
        let expected = Some(&Value::Counter(expected));
        assert_eq!(found.map(|it| &it.value), expected, "{name}");
    }
    for name in ["cluster.limits.ratelimit.ok", "cluster.dead.ratelimit.ok"] {
        assert!(!metrics.iter().any(|metric| metric.name == name), "{name}");
    }
}
