//! Collectors that are not there, or do not answer: no request waits for them, and what they are not told is
//! counted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant, UNIX_EPOCH},
};

use crate::{
    support::{Bench, dead_address, exchange, read_head, server},
    trace_collector::Told,
};

/// Less than a collector that does not answer is waited for.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Longer than this test takes.
const RECENT: Duration = Duration::from_secs(300);

/// Spans of so many long paths are more than a worker gathers for one collector.
const MANY: usize = 120;
const LONG: usize = 30_000;

const YAML: &str = r#"
node: {id: me, cluster: mine}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: front
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          tracing:
            max_path_tag_length: 100000
            provider: PROVIDER
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: /}, direct_response: {status: 200}}]
  clusters:
  - name: collector
    connect_timeout: 1s
    load_assignment: {cluster_name: collector, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: PORT}}}}]}]}
"#;

const OTLP: &str = r#"{name: t, typed_config: {"@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, http_service: {http_uri: {uri: "http://c.test/v1/traces", cluster: collector, timeout: 600s}, request_headers_to_add: [{header: {key: x-token, value: "%ENVIRONMENT(CARGO_PKG_NAME)%"}}]}}}"#;

const ZIPKIN: &str = r#"{name: t, typed_config: {"@type": type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, collector_cluster: collector, collector_endpoint: /api/v2/spans, collector_endpoint_version: HTTP_JSON}}"#;

async fn start(provider: &str, port: u16) -> Bench {
    let yaml = YAML.replace("PROVIDER", provider);
    Bench::start(&yaml.replace("PORT", &port.to_string())).await
}

async fn get(bench: &Bench, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let before = Instant::now();
    let answer = exchange(bench.address("front"), &request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(before.elapsed() < AT_ONCE, "{:?}", before.elapsed());
}

/// Waits until the statistic is `wanted`.
async fn counts(bench: &Bench, name: &str, wanted: impl Fn(u64) -> bool) {
    let admin = bench.proxy.admin_address().unwrap();
    let request = "GET /stats?filter=tracing HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    for _ in 0..3000 {
        let text = exchange(admin, request).await;
        let mut lines = text.lines().filter_map(|line| line.split_once(": "));
        let value = lines.find(|(it, _)| *it == name).unwrap().1;
        if wanted(value.parse().unwrap()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{name}: {}", exchange(admin, request).await);
}

#[tokio::test]
async fn a_collector_that_is_not_there_is_counted() {
    let bench = start(ZIPKIN, dead_address().port()).await;
    for _ in 0..5 {
        get(&bench, "/").await;
    }
    counts(&bench, "tracing.zipkin.reports_failed", |it| it > 0).await;
    counts(&bench, "http.front.tracing.random_sampling", |it| it == 5).await;
}

#[tokio::test]
async fn what_a_slow_collector_cannot_be_told_is_dropped() {
    let silent = |mut stream: TcpStream| {
        read_head(&mut stream);
        std::thread::sleep(Duration::from_secs(60));
    };
    let collector: SocketAddr = server(silent);
    let bench = start(OTLP, collector.port()).await;
    let path = format!("/{}", "p".repeat(LONG));
    for _ in 0..MANY {
        get(&bench, &path).await;
    }
    counts(&bench, "tracing.opentelemetry.spans_dropped", |it| it > 0).await;
}

/// Headers of reports may come from the environment.
#[tokio::test]
async fn a_collector_is_told_its_headers() {
    let told = Told::default();
    let as_istiod = OTLP.replace("http://c.test", "c.test");
    let bench = start(&as_istiod, told.over_http().port()).await;
    for _ in 0..5 {
        get(&bench, "/").await;
    }
    let spans = told.wait(5).await;
    for span in &spans {
        assert_eq!(span.resource["service.name"], "unknown_service:envoy");
        assert_eq!(span.tags["http.status_code"], "200");
        assert!(Duration::from_nanos(span.took) < AT_ONCE);
        let started = UNIX_EPOCH + Duration::from_nanos(span.started);
        assert!(started.elapsed().is_ok_and(|since| since < RECENT));
    }
    let head = told.heads.lock()[0].clone();
    for line in [
        "POST /v1/traces HTTP/1.1",
        "host: c.test",
        "content-type: application/x-protobuf",
        "x-token: ithildin-proxy",
    ] {
        assert!(head.lines().any(|it| it == line), "{head}");
    }
}
