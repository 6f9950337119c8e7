//! Rate limits by a service of the mesh: at the client's sidecar and at the server's, as EnvoyFilters of
//! Istio's documents ask for it.

use ithildin_tests::{
    Mesh, Process,
    curl::Answer,
    eventually,
    mesh::{PodSpec, Program, SLEEP},
};

use crate::support::{GRPC, on_each};

const WEB: PodSpec<'static> = PodSpec::server("web-0", "web", [10, 0, 4, 2], &[("app", "web")]);

const LIMITS: PodSpec<'static> =
    PodSpec::client("limits-0", "limits", [10, 0, 4, 3], &[("app", "limits")]);

const BY_CLIENT: &str = "x-limits-outbound";
const BY_SERVER: &str = "x-limits-inbound";
const TO_WEB: &str = "destination_cluster=outbound|8000||web.default.svc.cluster.local";
const LIMITED: [&str; 2] = ["-H", "x-kind: limited"];
const FREE: [&str; 2] = ["-H", "x-kind: free"];

on_each!(limits, and_istios_agent);

fn limits(test: &str, program: Program) {
    let pods = [SLEEP, WEB, LIMITS];
    let Some(mesh) = Mesh::start(test, program, &["limits.yaml"], &pods) else {
        return;
    };
    let service = serve(&mesh);
    eventually_asked(&mesh);
    at_the_client(&mesh);
    at_the_server(&mesh);
    without_service(&mesh, service);
}

fn serve(mesh: &Mesh) -> Process {
    mesh.pod(LIMITS.name)
        .peer("limits", &["limits", "0.0.0.0:8081"])
}

/// Both sidecars ask.
fn eventually_asked(mesh: &Mesh) {
    eventually("the service is asked", || {
        let answer = get(mesh, "/get", &FREE).expect_status(200)?;
        let seen = answer.echoed();
        let is_told = |header: &str| seen["headers"][header].is_string();
        let by_both = is_told(BY_CLIENT) && is_told(BY_SERVER);
        by_both.then_some(()).ok_or(answer)
    });
}

fn at_the_client(mesh: &Mesh) {
    let passed = get(mesh, "/get?a", &[]);
    assert_eq!(passed.status, 200, "{passed:?}");
    assert_eq!(passed.header("x-envoy-ratelimited"), None, "{passed:?}");
    let told = format!("PATH=/get?a {TO_WEB}");
    assert_eq!(passed.header(BY_CLIENT), Some(&*told), "{passed:?}");
    let by_path = get(mesh, "/limited", &[]);
    let by_user = get(mesh, "/get", &["-H", "x-user: limited"]);
    let both = format!("PATH=/get {TO_WEB}; user=limited");
    let of_path = format!("PATH=/limited {TO_WEB}");
    for (answer, told) in [(by_path, of_path), (by_user, both)] {
        assert_eq!(answer.status, 429, "{answer:?}");
        assert_eq!(answer.body, "one too many");
        assert_eq!(answer.header("x-envoy-ratelimited"), Some("true"));
        assert_eq!(answer.header(BY_CLIENT), Some(&*told), "{answer:?}");
    }
}

fn at_the_server(mesh: &Mesh) {
    let refused = get(mesh, "/get", &LIMITED);
    assert_eq!(refused.status, 429, "{refused:?}");
    assert_eq!(refused.body, "one too many");
    let told = "source_cluster=web.default kind=limited";
    assert_eq!(refused.header(BY_SERVER), Some(told), "{refused:?}");
    let call = [&GRPC[..], &LIMITED].concat();
    let refused = get(mesh, "/some.Service/Method", &call);
    assert_eq!(refused.header("grpc-status"), Some("8"), "{refused:?}");
    let other = get(mesh, "/get", &FREE);
    assert_eq!(other.status, 200, "{other:?}");
}

/// The client's sidecar is to deny then, the server's is not.
fn without_service(mesh: &Mesh, service: Process) {
    drop(service);
    let denied = get(mesh, "/get", &LIMITED);
    assert_eq!(denied.status, 500, "{denied:?}");
    let passed = mesh.curl(LIMITS.name, "http://web:8000/get", &LIMITED);
    assert_eq!(passed.status, 200, "{passed:?}");
    assert_eq!(passed.header(BY_SERVER), None, "{passed:?}");
}

/// `curl http://web:8000PATH` from sleep.
fn get(mesh: &Mesh, path: &str, arguments: &[&str]) -> Answer {
    mesh.curl(SLEEP.name, &format!("http://web:8000{path}"), arguments)
}
