//! Services of every kind, what lies outside of the mesh, and what a Sidecar resource leaves of both.

use ithildin_tests::{Mesh, curl::Answer, eventually, mesh::Program};

use super::{FIRST, FIRST_IP, MACHINE_IP, SECOND_IP, SLEEP};
use crate::support::callers;

pub(super) fn all(mesh: &Mesh) {
    headless(mesh);
    external(mesh);
    external_name(mesh);
    sidecar_resource(mesh);
}

/// Each Pod of a StatefulSet has a name.
fn headless(mesh: &Mesh) {
    for (host, ip) in [
        ("web-0.nodes", FIRST_IP),
        ("web-1.nodes", SECOND_IP),
        ("web-1.nodes.default.svc.cluster.local", SECOND_IP),
    ] {
        // Istio's agent waits for the cluster's name server here, and there is none.
        if mesh.program == Program::Stock && host.ends_with(".local") {
            continue;
        }
        let answer = reached(mesh, &format!("http://{host}:8080/get"));
        assert_eq!(answer.address(), ip, "{host}");
        assert_eq!(callers(&answer.echoed()), [mesh.pod(SLEEP.name).id.clone()]);
    }
    let answer = reached(mesh, "http://nodes:8080/get");
    assert!([FIRST_IP, SECOND_IP].contains(&&*answer.address()));
    let sleep = mesh.pod(SLEEP.name);
    for host in ["nodes", "web-1.nodes"] {
        let to = format!("{host}:9000");
        eventually(&to, || sleep.talk(&to, &["<220", ">hello", "<hello"]));
    }
}

/// Nobody there knows the mesh: plain text, without a word of who asks.
fn external(mesh: &Mesh) {
    for url in [
        "http://static.test/get",
        "http://dns.test/get",
        "http://direct.test:8090/get",
        // The mesh's default is that what is not registered is let through.
        "http://10.0.4.60:8080/get",
    ] {
        let answer = reached(mesh, url);
        assert_eq!(answer.address(), MACHINE_IP, "{url}");
        assert!(callers(&answer.echoed()).is_empty(), "{url}: {answer:?}");
    }
    let answer = mesh.curl(
        SLEEP.name,
        "http://static.test:81/get",
        &["--max-time", "3"],
    );
    assert_ne!((answer.exit, answer.status), (0, 200), "{answer:?}");
}

/// Another name of a Service of the mesh, with all that holds for it.
fn external_name(mesh: &Mesh) {
    let alias = "alias:8000:10.96.3.1:8000";
    let get = |path: &str| {
        let url = format!("http://alias:8000{path}");
        mesh.curl(SLEEP.name, &url, &["--connect-to", alias])
    };
    let answer = eventually("the alias", || get("/matched").expect_status(200));
    assert_eq!(answer.address(), FIRST_IP);
    assert_eq!(callers(&answer.echoed()), [mesh.pod(SLEEP.name).id.clone()]);
}

/// The Pods of web know two hosts and nobody else.
fn sidecar_resource(mesh: &Mesh) {
    let get = |url: &str| mesh.curl(FIRST.name, url, &["--max-time", "5"]);
    for url in ["http://static.test/get", "http://web:8000/get"] {
        eventually(url, || get(url).expect_status(200));
    }
    for url in ["http://direct.test:8090/get", "http://10.0.4.60:8080/get"] {
        let answer = get(url);
        assert!(
            answer.exit != 0 || answer.status == 502,
            "{url}: {answer:?}"
        );
    }
    let clusters = mesh.pod(FIRST.name).admin("/clusters").body;
    assert!(clusters.contains("static.test"), "{clusters}");
    assert!(!clusters.contains("direct.test"), "{clusters}");
    let unknown = get("http://hashed:8000/get");
    assert_ne!((unknown.exit, unknown.status), (0, 200), "{unknown:?}");
}

#[track_caller]
fn reached(mesh: &Mesh, url: &str) -> Answer {
    eventually(url, || {
        mesh.curl(SLEEP.name, url, &["--max-time", "5"])
            .expect_status(200)
    })
}
