//! Services that are told of requests and sessions, as MeshConfig and Telemetry objects ask for it.

use ithildin_tests::{
    Mesh, Process,
    curl::Answer,
    eventually,
    mesh::{PodSpec, Program, SLEEP},
};
use serde_json::{Value, json};

use crate::support::on_each;

const WEB: PodSpec<'static> = PodSpec::server("web-0", "web", [10, 0, 4, 2], &[("app", "web")]);

const OBSERVER: PodSpec<'static> = PodSpec::client(
    "observer-0",
    "observer",
    [10, 0, 4, 3],
    &[("app", "observer")],
);

const BOOKS: PodSpec<'static> =
    PodSpec::server("books-0", "books", [10, 0, 4, 4], &[("app", "books")]);

const TO_WEB: &str = "outbound|8000||web.default.svc.cluster.local";
const TO_TCP: &str = "outbound|9000||web.default.svc.cluster.local";
const SLEEPS_ID: &str = "spiffe://example.org/ns/default/sa/sleep";
const GREETING: &str = "220 welcome";

on_each!(observed, and_istios_agent);

fn observed(test: &str, program: Program) {
    let pods = [SLEEP, WEB, OBSERVER, BOOKS];
    let Some(mesh) = Mesh::start(test, program, &["observed.yaml"], &pods) else {
        return;
    };
    let observer = serve(&mesh);
    let _echo = mesh
        .pod(WEB.name)
        .peer("tcp", &["echo", "0.0.0.0:9000", GREETING]);
    requests(&mesh);
    sessions(&mesh);
    spans_of_zipkin(&mesh);
    without_service(&mesh, observer);
}

fn serve(mesh: &Mesh) -> Process {
    let pod = mesh.pod(OBSERVER.name);
    pod.peer("observer", &["observer", "0.0.0.0:4317"])
}

fn requests(mesh: &Mesh) {
    // Asked again until the configuration is there: what came before it is not told.
    let (entries, log, spans) = eventually("all that is told of a request", || {
        ask(mesh, "/status/404?a", 404)?;
        let told = told(mesh)?;
        let entries = [SLEEP, WEB].map(|pod| entry_of(&told, pod.name));
        match (entries, log_of_server(&told), related_spans(&told)) {
            ([Some(client), Some(server)], Some(log), Some(spans)) => {
                Ok(([client, server], log, spans))
            }
            _ => Err(format!("{told:?}")),
        }
    });
    for entry in &entries {
        assert_eq!(entry["path"], "/status/404?a", "{entry}");
        assert_eq!(entry["method"], "GET", "{entry}");
        assert_eq!(entry["authority"], "web:8000", "{entry}");
        assert_eq!(entry["details"], "via_upstream", "{entry}");
        assert_eq!(entry["headers"]["x-told"], "yes", "{entry}");
        assert_eq!(entry["log"], "http_envoy_accesslog", "{entry}");
    }
    let [client, server] = entries;
    assert_eq!(client["cluster"], TO_WEB, "{client}");
    assert_eq!(server["cluster"], "inbound|8080||", "{server}");
    assert!(server["peer"].to_string().contains(SLEEPS_ID), "{server}");
    assert_eq!(log["body"], "GET /status/404?a 404", "{log}");
    // istiod wants none of Envoy's own labels.
    assert_eq!(log["resource"], json!({}), "{log}");
    let [client, server] = spans;
    are_told_of(&client, TO_WEB);
    are_told_of(&server, "inbound|8080||");
}

fn entry_of(told: &[Value], pod: &str) -> Option<Value> {
    let is_its = |it: &&Value| it["kind"] == "http" && it["code"] == 404 && of_node(it, pod);
    told.iter().find(is_its).cloned()
}

/// One that names the trace of a span.
fn log_of_server(told: &[Value]) -> Option<Value> {
    let is_traced = |log: &Value| {
        let mut spans = told.iter().filter(|it| it["kind"] == "span");
        spans.any(|span| span["trace"] == log["trace"])
    };
    let is_its = |it: &&Value| it["kind"] == "log" && it["attributes"]["caller"] == SLEEPS_ID;
    told.iter().filter(is_its).find(|it| is_traced(it)).cloned()
}

/// One of the client's, and one of the server's that is its child.
fn related_spans(told: &[Value]) -> Option<[Value; 2]> {
    let of = |service: &'static str| {
        let is_its =
            move |it: &&Value| it["kind"] == "span" && it["resource"]["service.name"] == service;
        told.iter().filter(is_its)
    };
    of("web.default").find_map(|server| {
        let is_parent =
            |it: &&Value| it["id"] == server["parent"] && it["trace"] == server["trace"];
        let client = of("sleep.default").find(is_parent)?;
        Some([client.clone(), server.clone()])
    })
}

fn are_told_of(span: &Value, cluster: &str) {
    assert_eq!(
        span["name"], "web.default.svc.cluster.local:8000/*",
        "{span}"
    );
    for (name, value) in [
        ("component", "proxy"),
        ("http.method", "GET"),
        ("http.url", "http://web:8000/status/404?a"),
        ("http.status_code", "404"),
        ("mesh", "tests"),
        ("told", "yes"),
        ("istio.mesh_id", "example.org"),
        ("istio.namespace", "default"),
        ("upstream_cluster", cluster),
        ("upstream_cluster.name", &format!("{cluster};")),
    ] {
        assert_eq!(span["attributes"][name], value, "{name}: {span}");
    }
}

fn sessions(mesh: &Mesh) {
    let steps = ["<220", ">hello", "<hello"];
    let [client, server]: [Value; 2] = eventually("both sidecars tell of a session", || {
        mesh.pod(SLEEP.name).talk("web:9000", &steps)?;
        let told = told(mesh)?;
        // Requests are told of, too, as sessions.
        let of = |node: &str, cluster: &str| {
            let is_its = |it: &&Value| it["kind"] == "tcp" && it["cluster"] == *cluster;
            let mut entries = told.iter().filter(is_its);
            entries.find(|it| of_node(it, node)).cloned()
        };
        let pair = of(SLEEP.name, TO_TCP).zip(of(WEB.name, "inbound|9000||"));
        pair.map(Into::into).ok_or_else(|| format!("{told:?}"))
    });
    for entry in [&client, &server] {
        assert_eq!(entry["log"], "tcp_envoy_accesslog", "{entry}");
        assert!(entry["received"].as_u64() > Some(0), "{entry}");
        assert!(entry["sent"].as_u64() > Some(0), "{entry}");
    }
    assert!(server["peer"].to_string().contains(SLEEPS_ID), "{server}");
}

fn spans_of_zipkin(mesh: &Mesh) {
    let span = eventually("a span of Zipkin's", || {
        let answer = mesh.curl(SLEEP.name, "http://books:8000/x", &[]);
        answer.expect_status(200).map_err(|it| format!("{it:?}"))?;
        let told = told(mesh)?;
        let span = told.iter().find(|it| it["kind"] == "zipkin");
        span.cloned().ok_or_else(|| format!("{told:?}"))
    });
    let span = &span["span"];
    assert_eq!(span["kind"], "SERVER", "{span}");
    assert_eq!(
        span["localEndpoint"]["serviceName"], "books.default",
        "{span}"
    );
    assert_eq!(span["tags"]["http.status_code"], "200", "{span}");
    assert_eq!(span["tags"]["istio.namespace"], "default", "{span}");
}

/// Requests go on without anybody who is told of them.
fn without_service(mesh: &Mesh, observer: Process) {
    drop(observer);
    for _ in 0..20 {
        ask(mesh, "/unseen", 200).unwrap_or_else(|answer| panic!("{answer}"));
    }
    let _observer = serve(mesh);
    eventually("the service is told again", || {
        ask(mesh, "/again", 200)?;
        let told = told(mesh)?;
        let is_again = |it: &Value| it["kind"] == "http" && it["path"] == "/again";
        told.iter()
            .any(is_again)
            .then_some(())
            .ok_or(format!("{told:?}"))
    });
}

/// From sleep, to web.
fn ask(mesh: &Mesh, path: &str, status: u16) -> Result<Answer, String> {
    let url = format!("http://web:8000{path}");
    let answer = mesh.curl(SLEEP.name, &url, &["-H", "x-told: yes"]);
    answer.expect_status(status).map_err(|it| format!("{it:?}"))
}

/// What the service was told so far.
fn told(mesh: &Mesh) -> Result<Vec<Value>, String> {
    let answer = mesh.curl(OBSERVER.name, "http://127.0.0.1:4317/told", &[]);
    let answer = answer.expect_status(200).map_err(|it| format!("{it:?}"))?;
    serde_json::from_str(&answer.body).map_err(|error| format!("{error}: {answer:?}"))
}

fn of_node(entry: &Value, pod: &str) -> bool {
    let node = entry["node"].as_str().unwrap_or_default();
    node.contains(&format!("~{pod}.default~"))
}
