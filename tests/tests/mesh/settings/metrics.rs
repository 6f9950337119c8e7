//! Istio's metrics as Telemetries change them, and spans that they ask for. A plain Envoy has not Istio's
//! filter that counts.

use ithildin_tests::{Mesh, eventually};

use super::{SLEEP, WEB, get, is_builtin};

const REQUESTS: &str = "istio_requests_total";
const DURATION: &str = "istio_request_duration_milliseconds_bucket";
const SIZE: &str = "istio_request_bytes_bucket";

pub(super) fn all(mesh: &Mesh) {
    if is_builtin(mesh) {
        tags(mesh);
        by_mode(mesh);
        none(mesh);
    }
    spans(mesh);
}

fn telemetry(mesh: &Mesh, spec: &str) {
    let object = format!(
        "apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: metrics, namespace: default}}
spec:
{spec}"
    );
    mesh.istiod.apply("telemetry.yaml", &object);
}

/// The series of a metric at a Pod's proxy.
fn series(mesh: &Mesh, pod: &str, metric: &str) -> Vec<String> {
    let page = mesh.pod(pod).admin("/stats/prometheus").body;
    let lines = page.lines().filter(|line| line.starts_with(metric));
    lines.map(str::to_owned).collect()
}

/// Labels that come, change and go.
fn tags(mesh: &Mesh) {
    telemetry(
        mesh,
        "  metrics:
  - providers: [{name: prometheus}]
    overrides:
    - match: {metric: REQUEST_COUNT}
      tagOverrides:
        request_host: {value: request.host}
        custom_dimension: {value: \"'test'\"}
        response_class: {value: \"response.code >= 400 ? 'bad' : 'good'\"}
        x_user: {value: \"has(request.headers['x-user']) ? request.headers['x-user'] : 'nobody'\"}
        source_principal: {operation: REMOVE}
    - match: {metric: REQUEST_DURATION}
      disabled: true
    - match: {metric: ALL_METRICS, mode: SERVER}
      tagOverrides:
        asked_by: {value: \"filter_state.downstream_peer.app\"}
",
    );
    let whole = |line: &String| {
        [
            "request_host=\"web\"",
            "custom_dimension=\"test\"",
            "response_class=\"bad\"",
            "x_user=\"jason\"",
            "response_code=\"418\"",
        ]
        .iter()
        .all(|label| line.contains(label))
            && !line.contains("source_principal")
    };
    for pod in [SLEEP.name, WEB.name] {
        eventually("labels of one's own", || {
            get(mesh, "/status/418", &["-H", "x-user: jason"]);
            let told = series(mesh, pod, REQUESTS);
            told.iter().any(whole).then_some(()).ok_or(told)
        });
    }
    let told = series(mesh, SLEEP.name, SIZE);
    let kept = told.iter().any(|line| line.contains("source_principal"));
    assert!(kept, "other metrics keep the label: {told:?}");
    // What was counted before stays, and no more comes.
    let durations = || -> Vec<String> {
        let told = series(mesh, SLEEP.name, DURATION);
        told.into_iter()
            .filter(|line| line.contains("response_code=\"419\""))
            .collect()
    };
    get(mesh, "/status/419", &[]);
    eventually("the answer is counted", || {
        let told = series(mesh, SLEEP.name, REQUESTS);
        let counted = told
            .iter()
            .any(|line| line.contains("response_code=\"419\""));
        counted.then_some(()).ok_or(told)
    });
    assert_eq!(durations(), [""; 0]);
    let told = series(mesh, WEB.name, REQUESTS);
    let asked = told.iter().any(|line| line.contains("asked_by=\"sleep\""));
    assert!(asked, "{told:?}");
}

fn by_mode(mesh: &Mesh) {
    telemetry(
        mesh,
        "  metrics:
  - providers: [{name: prometheus}]
    overrides:
    - {match: {metric: REQUEST_COUNT, mode: CLIENT}, disabled: true}
",
    );
    counted(mesh, 430, [false, true]);
}

fn none(mesh: &Mesh) {
    telemetry(
        mesh,
        "  metrics:
  - providers: [{name: prometheus}]
    overrides: [{match: {metric: ALL_METRICS}, disabled: true}]
",
    );
    counted(mesh, 440, [false, false]);
    mesh.istiod.delete("telemetry.yaml");
    counted(mesh, 450, [true, true]);
}

/// Whether sleep's proxy and the web server's count, each time for a status that nobody had before.
fn counted(mesh: &Mesh, first: u16, expected: [bool; 2]) {
    let mut status = first;
    eventually("who counts", || {
        status += 1;
        get(mesh, &format!("/status/{status}"), &[]);
        let label = format!("response_code=\"{status}\"");
        let told = [SLEEP.name, WEB.name].map(|pod| {
            let told = series(mesh, pod, REQUESTS);
            told.iter().any(|line| line.contains(&label))
        });
        (told == expected).then_some(()).ok_or(told)
    });
}

/// Whoever collects spans: requests go on, and so does their context.
fn spans(mesh: &Mesh) {
    for spec in [
        "  tracing: [{disableSpanReporting: true}]\n",
        "  tracing: [{randomSamplingPercentage: 100, customTags: {a: {literal: {value: b}}}}]\n",
        "  tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 100}]\n",
        "  tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100}]\n",
    ] {
        telemetry(mesh, spec);
        let turn = spec.len().to_string();
        let route = format!(
            "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: default}}
spec:
  hosts: [web]
  http:
  - headers: {{response: {{set: {{x-turn: \"{turn}\"}}}}}}
    route: [{{destination: {{host: web, port: {{number: 80}}}}}}]
"
        );
        mesh.istiod.apply("turn.yaml", &route);
        let traced = [
            "-H",
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ];
        eventually(spec, || {
            let answer = get(mesh, "/get", &traced).expect_status(200)?;
            let is_new = answer.header("x-turn") == Some(&turn);
            is_new.then_some(()).ok_or(answer)
        });
        let dump = mesh.pod(SLEEP.name).admin("/config_dump").body;
        assert!(!dump.contains("error_state"), "{spec}: {dump}");
        let request = get(mesh, "/get", &traced).echoed();
        let context = request["headers"]["traceparent"]
            .as_str()
            .unwrap_or_default();
        assert!(
            context.contains("0af7651916cd43dd8448eb211c80319c"),
            "{spec}: {request}"
        );
    }
    mesh.istiod.delete("turn.yaml");
    mesh.istiod.delete("telemetry.yaml");
}
