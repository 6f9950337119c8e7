//! EnvoyFilters: what they change, and what comes of those that nobody can honour.

use ithildin_tests::{Mesh, curl::Answer, eventually};
use serde_json::Value;

use super::{GATEWAY, SLEEP, WEB, get};

pub(super) fn all(mesh: &Mesh) {
    headers_and_protocols(mesh);
    connection_manager(mesh);
    rate_limit(mesh);
    by_route(mesh);
    refused(mesh);
}

/// EnvoyFilters for sleep and for web, with these patches.
fn patch(mesh: &Mesh, sleep: &str, web: &str) {
    let object = |name: &str, patches: &str| {
        format!(
            "apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: {name}, namespace: default}}
spec:
  workloadSelector: {{labels: {{app: {name}}}}}
  configPatches:
{patches}"
        )
    };
    let objects: Vec<String> = [("sleep", sleep), ("web", web)]
        .into_iter()
        .filter(|(_, patches)| !patches.is_empty())
        .map(|(name, patches)| object(name, patches))
        .collect();
    mesh.istiod.apply("patches.yaml", &objects.join("---\n"));
}

/// Waits for what a patch makes of requests of sleep.
#[track_caller]
fn eventually_so(
    mesh: &Mesh,
    what: &str,
    path: &str,
    arguments: &[&str],
    is_so: impl Fn(&Answer) -> bool,
) {
    eventually(what, || {
        let answer = get(mesh, path, arguments);
        is_so(&answer).then_some(()).ok_or(answer)
    });
}

/// As Istio's own test of EnvoyFilters does: virtual hosts and clusters, at both sides.
fn headers_and_protocols(mesh: &Mesh) {
    let patches = |context: &str, side: &str| {
        format!(
            "  - applyTo: VIRTUAL_HOST
    match: {{context: {context}}}
    patch:
      operation: MERGE
      value:
        request_headers_to_add: [{{header: {{key: x-vhost-{side}, value: hello}}}}]
        response_headers_to_add: [{{header: {{key: x-answer-{side}, value: \"%RESPONSE_CODE%\"}}}}]
  - applyTo: CLUSTER
    match: {{context: {context}, cluster: {{}}}}
    patch: {{operation: MERGE, value: {{http2_protocol_options: {{}}}}}}
"
        )
    };
    patch(
        mesh,
        &patches("SIDECAR_OUTBOUND", "outbound"),
        &patches("SIDECAR_INBOUND", "inbound"),
    );
    eventually_so(mesh, "virtual hosts and clusters", "/get", &[], |answer| {
        if answer.status != 200 {
            return false;
        }
        let request = answer.echoed();
        let has = |side: &str| {
            request["headers"][format!("x-vhost-{side}")] == "hello"
                && answer.header(&format!("x-answer-{side}")) == Some("200")
        };
        has("inbound") && has("outbound") && request["version"] == "HTTP/2.0"
    });
}

fn connection_manager(mesh: &Mesh) {
    let inbound = "  - applyTo: NETWORK_FILTER
    match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}
    patch:
      operation: MERGE
      value:
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          server_name: patched
          server_header_transformation: OVERWRITE
          common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST, idle_timeout: 30s}
          max_request_headers_kb: 8
          stream_idle_timeout: 10s
          merge_slashes: true
  - applyTo: LISTENER
    match: {context: SIDECAR_INBOUND}
    patch: {operation: MERGE, value: {per_connection_buffer_limit_bytes: 32768, connection_balance_config: {exact_balance: {}}}}
  - applyTo: CLUSTER
    match: {context: SIDECAR_INBOUND}
    patch: {operation: MERGE, value: {per_connection_buffer_limit_bytes: 32768, upstream_connection_options: {tcp_keepalive: {keepalive_time: 30}}}}
";
    // The client's proxy would overwrite it.
    let outbound = "  - applyTo: NETWORK_FILTER
    match: {context: SIDECAR_OUTBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}
    patch:
      operation: MERGE
      value:
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          server_header_transformation: PASS_THROUGH
";
    patch(mesh, outbound, inbound);
    eventually_so(mesh, "the server's name", "/get", &[], |answer| {
        answer.status == 200 && answer.header("server") == Some("patched")
    });
    let underscore = get(mesh, "/get", &["-H", "x_under: score"]);
    assert_eq!(underscore.status, 400, "{underscore:?}");
    let long = format!("x-long: {}", "a".repeat(9000));
    let answer = get(mesh, "/get", &["-H", &long]);
    assert_eq!(answer.status, 431, "{answer:?}");
    let body = get(mesh, "/get", &["-d", &"b".repeat(100_000)]);
    assert_eq!(body.status, 200, "{body:?}");
}

const LIMIT: &str = "stat_prefix: limited
              token_bucket: {max_tokens: 1, tokens_per_fill: 1, fill_interval: 600s}
              filter_enabled: {runtime_key: local_rate_limit_enabled, default_value: {numerator: 100, denominator: HUNDRED}}
              filter_enforced: {runtime_key: local_rate_limit_enforced, default_value: {numerator: 100, denominator: HUNDRED}}
              response_headers_to_add: [{append: false, header: {key: x-local-rate-limit, value: 'true'}}]";

/// In the wrapper that Istio's documents use.
fn limit(context: &str, of: &str) -> String {
    format!(
        "  - applyTo: HTTP_FILTER
    match:
      context: {context}
      listener: {{filterChain: {{filter: {{name: envoy.filters.network.http_connection_manager}}}}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.local_ratelimit
        typed_config:
          '@type': type.googleapis.com/udpa.type.v1.TypedStruct
          type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          value:
              {of}
"
    )
}

fn rate_limit(mesh: &Mesh) {
    patch(mesh, "", &limit("SIDECAR_INBOUND", LIMIT));
    eventually_limited(mesh, "/get");
}

#[track_caller]
fn eventually_limited(mesh: &Mesh, path: &str) {
    eventually_so(mesh, "too many", path, &[], |answer| {
        answer.status == 429 && answer.header("x-local-rate-limit") == Some("true")
    });
}

/// The filter is there, and the routes say what is limited.
fn by_route(mesh: &Mesh) {
    let routes = format!(
        "{}  - applyTo: HTTP_ROUTE
    match: {{context: SIDECAR_OUTBOUND, routeConfiguration: {{vhost: {{name: 'web.default.svc.cluster.local:80', route: {{action: ANY}}}}}}}}
    patch:
      operation: MERGE
      value:
        response_headers_to_add: [{{header: {{key: x-route, value: patched}}}}]
        typed_per_filter_config:
          envoy.filters.http.local_ratelimit:
            '@type': type.googleapis.com/udpa.type.v1.TypedStruct
            type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
            value:
              {LIMIT}
",
        limit("SIDECAR_OUTBOUND", "stat_prefix: limited")
    );
    patch(mesh, &routes, "");
    eventually_limited(mesh, "/get");
    let other = mesh.curl(SLEEP.name, "http://plain/get", &[]);
    assert_eq!(other.status, 200, "{other:?}");
    mesh.istiod.delete("patches.yaml");
    eventually_so(mesh, "without limits", "/get", &[], |answer| {
        answer.status == 200 && answer.header("x-route").is_none()
    });
}

/// A filter that no proxy has: what was in place before stays, the rest of the push applies, and the admin
/// pages tell.
fn refused(mesh: &Mesh) {
    let unknown = "  - applyTo: HTTP_FILTER
    match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: unheard.of
        typed_config:
          '@type': type.googleapis.com/udpa.type.v1.TypedStruct
          type_url: type.googleapis.com/test.unheard.of.Filter
          value: {}
  - applyTo: VIRTUAL_HOST
    match: {context: SIDECAR_OUTBOUND}
    patch: {operation: MERGE, value: {response_headers_to_add: [{header: {key: x-of-the-push, value: 'yes'}}]}}
";
    patch(mesh, "", unknown);
    let page = "/config_dump?resource=dynamic_listeners&name_regex=virtualInbound";
    let state = eventually("the inbound listener is refused", || {
        let dump = mesh.pod(WEB.name).admin(page).body;
        let dump: Value = serde_json::from_str(&dump).map_err(|_| dump)?;
        let state = dump["configs"][0]["error_state"].clone();
        let told = state["details"].as_str().unwrap_or_default().to_owned();
        (!told.is_empty()).then_some(told).ok_or(dump.to_string())
    });
    assert!(state.contains("unheard.of"), "{state}");
    let stats = mesh
        .pod(WEB.name)
        .admin("/stats?filter=update_rejected")
        .body;
    let rejected = stats
        .lines()
        .find(|line| line.starts_with("listener_manager.lds.update_rejected"));
    assert!(
        rejected.is_some_and(|line| !line.ends_with(": 0")),
        "{stats}"
    );
    eventually("the rest of the push", || {
        let answer = mesh.curl(WEB.name, "http://plain/get", &[]);
        let told = answer.header("x-of-the-push") == Some("yes");
        told.then_some(()).ok_or(answer)
    });
    assert_eq!(
        get(mesh, "/get", &[]).status,
        200,
        "the old listener serves"
    );
    mesh.istiod.delete("patches.yaml");
    eventually("nothing is refused any more", || {
        let dump = mesh.pod(WEB.name).admin(page).body;
        (!dump.contains("error_state")).then_some(()).ok_or(dump)
    });
    assert!(mesh.pod(GATEWAY.name).admin("/ready").status == 200);
}
