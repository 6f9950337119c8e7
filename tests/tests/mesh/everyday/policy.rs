//! AuthorizationPolicies.

use ithildin_tests::{
    DataPlane, Mesh, curl,
    mesh::{Program, talk},
};

use super::{FIRST, MACHINE_IP, SECOND, SLEEP, expect};

pub(super) fn all(mesh: &Mesh) {
    for path in ["/get", "/audited", "/public/secret"] {
        expect(mesh, path, &[], 200);
    }
    for path in ["/secret", "/secret/key", "/secrets"] {
        let answer = expect(mesh, path, &[], 403);
        assert_eq!(answer.body, "RBAC: access denied", "{path}");
    }
    over_tcp(mesh);
}

/// By the principal of the connection: who is not among them is cut off without a word.
fn over_tcp(mesh: &Mesh) {
    let steps = ["<220", ">hello", "<hello"];
    let sleep = mesh.pod(SLEEP.name);
    assert!(sleep.talk("web:9000", &steps).is_ok());
    for pod in [FIRST, SECOND] {
        let told = mesh.pod(pod.name).talk("web:9000", &steps);
        let why = told.expect_err("another principal");
        // Envoy decides when the client speaks, and lets a server speak before.
        let greeted = why.contains("220");
        let builtin = mesh.program == Program::Ithildin(DataPlane::Builtin);
        assert!(!(builtin && greeted), "{why}");
    }
    let net = mesh.host([10, 0, 4, 61]);
    let told = talk(&net, "10.0.4.2:9000", &[">hello", "<220"]);
    assert!(told.is_err(), "without mTLS: {told:?}");
    let url = format!("http://{MACHINE_IP}:8080/get");
    let answer = curl::get(&net, &url, &[]);
    assert_eq!(answer.status, 200, "that the host is connected: {answer:?}");
}
