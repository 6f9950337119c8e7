//! Services that are told of requests because `ProxyConfig` names them: a tracer, and a service of access logs.

use ithildin_tests::{
    Mesh, clusters, eventually,
    mesh::{PodSpec, Program},
};
use serde_json::Value;

use crate::support::on_each;

const COLLECTORS: &str = r#"{"binaryPath": "/run/bin/envoy", "concurrency": 1,
    "tracing": {"zipkin": {"address": "10.0.4.3:4317"}, "sampling": 100},
    "envoyAccessLogService": {"address": "10.0.4.3:4317"}}"#;

const SLEEP: PodSpec<'static> = PodSpec {
    env: &[("PROXY_CONFIG", COLLECTORS)],
    ..ithildin_tests::mesh::SLEEP
};

const WEB: PodSpec<'static> = PodSpec {
    env: &[("PROXY_CONFIG", COLLECTORS)],
    ..PodSpec::server("web-0", "web", [10, 0, 4, 2], &[("app", "web")])
};

const OBSERVER: PodSpec<'static> = PodSpec::client(
    "observer-0",
    "observer",
    [10, 0, 4, 3],
    &[("app", "observer")],
);

on_each!(collectors, and_istios_agent);

fn collectors(test: &str, program: Program) {
    let pods = [SLEEP, WEB, OBSERVER];
    let Some(mesh) = Mesh::start(test, program, &["collectors.yaml"], &pods) else {
        return;
    };
    let config = std::fs::read_to_string(clusters::data("mesh/mesh.yaml")).expect("it is ours");
    let file = "    accessLogFile: /dev/stdout\n";
    let told = format!("{file}    enableEnvoyAccessLogService: true\n");
    mesh.istiod.apply("mesh.yaml", &config.replace(file, &told));
    let _observer = mesh
        .pod(OBSERVER.name)
        .peer("observer", &["observer", "0.0.0.0:4317"]);
    // Asked again until the configuration is there: what came before it is not told.
    let ([client, server], entries) = eventually("all that is told of a request", || {
        let answer = mesh.curl(SLEEP.name, "http://web:8000/status/404", &[]);
        answer.expect_status(404).map_err(|it| format!("{it:?}"))?;
        let answer = mesh.curl(OBSERVER.name, "http://127.0.0.1:4317/told", &[]);
        let answer = answer.expect_status(200).map_err(|it| format!("{it:?}"))?;
        let told: Vec<Value> =
            serde_json::from_str(&answer.body).map_err(|error| format!("{error}: {answer:?}"))?;
        let entries = [SLEEP, WEB].map(|pod| entry_of(&told, pod.name));
        match (related_spans(&told), entries) {
            (Some(spans), [Some(client), Some(server)]) => Ok((spans, [client, server])),
            _ => Err(format!("{told:?}")),
        }
    });
    assert_eq!(client["kind"], "CLIENT", "{client}");
    assert_eq!(server["kind"], "SERVER", "{server}");
    for span in [client, server] {
        let width = span["traceId"].as_str().map(str::len);
        assert_eq!(width, Some(32), "{span}");
        assert_eq!(span["tags"]["http.status_code"], "404", "{span}");
    }
    for entry in entries {
        assert_eq!(entry["log"], "http_envoy_accesslog", "{entry}");
        assert_eq!(entry["path"], "/status/404", "{entry}");
    }
}

fn entry_of(told: &[Value], pod: &str) -> Option<Value> {
    let is_its = |it: &&Value| {
        let node = it["node"].as_str().unwrap_or_default();
        it["kind"] == "http" && it["code"] == 404 && node.contains(&format!("~{pod}.default~"))
    };
    told.iter().find(is_its).cloned()
}

/// One of the client's, and one of the server's that is its child.
fn related_spans(told: &[Value]) -> Option<[Value; 2]> {
    let of = |service: &'static str| {
        let spans = told.iter().filter(|it| it["kind"] == "zipkin");
        let spans = spans.map(|it| &it["span"]);
        spans.filter(move |span| span["localEndpoint"]["serviceName"] == service)
    };
    of("web.default").find_map(|server| {
        let is_parent = |it: &&Value| it["id"] == server["parentId"];
        let client = of("sleep.default").find(is_parent)?;
        Some([client.clone(), server.clone()])
    })
}
