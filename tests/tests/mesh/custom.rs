//! CUSTOM policies: a sidecar asks a service of the mesh, by gRPC or by plain HTTP, who may come.

use ithildin_tests::{
    Mesh, Process,
    curl::Answer,
    eventually,
    mesh::{PodSpec, Program, SLEEP},
};

use crate::support::on_each;

const WEB: PodSpec<'static> = PodSpec::server("web-0", "web", [10, 0, 4, 2], &[("app", "web")]);

const AUTHZ: PodSpec<'static> =
    PodSpec::client("authz-0", "authz", [10, 0, 4, 3], &[("app", "authz")]);

const GREETING: &str = "220 welcome";
/// What is said to the service behind the port of TCP, and heard back.
const ECHO: [&str; 2] = [">hello", "<hello"];
const LEAVE: [&str; 2] = ["-H", "x-ext-authz: allow"];
const RESULT: &str = "x-ext-authz-check-result";
const RECEIVED: &str = "x-ext-authz-check-received";

on_each!(custom, and_istios_agent);

fn custom(test: &str, program: Program) {
    let pods = [SLEEP, WEB, AUTHZ];
    let Some(mesh) = Mesh::start(test, program, &["custom.yaml"], &pods) else {
        return;
    };
    let _echo = mesh
        .pod(WEB.name)
        .peer("tcp", &["echo", "0.0.0.0:9000", GREETING]);
    let service = serve(&mesh);
    eventually("the service lets pass", || {
        for path in ["/grpc", "/http"] {
            get(&mesh, path, &LEAVE).expect_status(200)?;
        }
        Ok::<_, Answer>(())
    });
    by_requests(&mesh);
    by_connection(&mesh);
    without_service(&mesh, service);
}

fn serve(mesh: &Mesh) -> Process {
    let pod = mesh.pod(AUTHZ.name);
    pod.peer("authz", &["authz", "0.0.0.0:9000", "0.0.0.0:8000"])
}

fn by_requests(mesh: &Mesh) {
    for path in ["/grpc/a", "/http/a"] {
        let denied = get(mesh, path, &["-H", "x-ext-authz: deny"]);
        assert_eq!(denied.status, 403, "{path}: {denied:?}");
        assert!(denied.body.starts_with("denied by ext_authz"), "{denied:?}");
        assert_eq!(denied.header(RESULT), Some("denied"), "{path}: {denied:?}");
        let allowed = get(mesh, path, &LEAVE);
        let seen: serde_json::Value = serde_json::from_str(&allowed.body)
            .unwrap_or_else(|error| panic!("{error}: {allowed:?}"));
        assert_eq!(seen["headers"][RESULT], "allowed", "{path}: {seen}");
    }
    // The service of gRPC knows who asks whom; that of HTTP what its provider says.
    let received = |path| {
        let denied = get(mesh, path, &[]);
        denied.header(RECEIVED).unwrap_or_default().to_owned()
    };
    let id = |account| format!("spiffe://example.org/ns/default/sa/{account}");
    let expected = format!("{} {} /grpc/b?c", id("sleep"), id("web"));
    assert_eq!(received("/grpc/b?c"), expected);
    let told = received("/http/b?c");
    assert!(told.contains("/asked/http/b?c new"), "{told}");
    let allowed = get(mesh, "/http", &LEAVE);
    assert_eq!(allowed.header(RESULT), Some("allowed"), "{allowed:?}");
    let body = ["-d", "more than eight", LEAVE[0], LEAVE[1]];
    get(mesh, "/http", &body)
        .expect_status(200)
        .unwrap_or_else(|answer| panic!("{answer:?}"));
    for path in ["/free", "/open"] {
        let answer = get(mesh, path, &["-H", "x-ext-authz: deny"]);
        let expected = if path == "/free" { 200 } else { 403 };
        assert_eq!(answer.status, expected, "{path}: {answer:?}");
    }
}

fn by_connection(mesh: &Mesh) {
    let friend = mesh.pod(SLEEP.name).talk("web:9000", &ECHO);
    assert!(friend.is_ok(), "{friend:?}");
    let stranger = mesh.pod(AUTHZ.name).talk("web:9000", &ECHO);
    assert!(stranger.is_err(), "{stranger:?}");
}

/// Nobody passes without an answer, but where the provider is to fail open.
fn without_service(mesh: &Mesh, service: Process) {
    drop(service);
    for (path, expected) in [
        ("/grpc", 403),
        ("/http", 503),
        ("/open", 200),
        ("/free", 200),
    ] {
        let answer = get(mesh, path, &LEAVE);
        assert_eq!(answer.status, expected, "{path}: {answer:?}");
    }
    let friend = mesh.pod(SLEEP.name).talk("web:9000", &ECHO);
    assert!(friend.is_err(), "{friend:?}");
    let _service = serve(mesh);
    eventually("the service is back", || {
        for path in ["/grpc", "/http"] {
            get(mesh, path, &LEAVE).expect_status(200)?;
        }
        Ok::<_, Answer>(())
    });
}

/// `curl http://web:8000PATH` from sleep.
fn get(mesh: &Mesh, path: &str, arguments: &[&str]) -> Answer {
    mesh.curl(SLEEP.name, &format!("http://web:8000{path}"), arguments)
}
