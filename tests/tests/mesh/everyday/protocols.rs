//! What is not a plain request over HTTP/1.1.

use ithildin_tests::Mesh;

use crate::support::GRPC;

use super::{GREETING, SLEEP, expect, get};

pub(super) fn all(mesh: &Mesh) {
    websocket(mesh);
    grpc(mesh);
    http2(mesh);
    http10(mesh);
    tcp(mesh);
}

fn websocket(mesh: &Mesh) {
    let upgrade = "GET /chat HTTP/1.1\r\nhost: web:8000\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let told = mesh.pod(SLEEP.name).talk(
        "web:8000",
        &[
            &format!(">{upgrade}"),
            "<\r\n\r\n",
            ">one",
            "<one",
            ">two",
            "<two",
        ],
    );
    let told = told.expect("a conversation");
    assert!(
        told.starts_with("HTTP/1.1 101 Switching Protocols"),
        "{told}"
    );
    // The VirtualService has this answered by the sidecar itself.
    let answer = expect(
        mesh,
        "/direct",
        &["-H", "connection: upgrade", "-H", "upgrade: websocket"],
        503,
    );
    assert_eq!(answer.body, "closed for today");
}

fn grpc(mesh: &Mesh) {
    let call = |path: &str| {
        let url = format!("http://web:8001{path}");
        mesh.curl(SLEEP.name, &url, &GRPC)
    };
    let answer = call("/echo.Echo/Say");
    assert_eq!((answer.status, &*answer.version), (200, "2"), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/grpc"));
    assert!(answer.error.ends_with("grpc-status: 0"), "{answer:?}");
    // Who refuses a call of gRPC says so in its language.
    let answer = call("/secret.Echo/Say");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("grpc-status"), Some("7"), "{answer:?}");
}

fn http2(mesh: &Mesh) {
    let answer = expect(mesh, "/get", &["--http2-prior-knowledge"], 200);
    assert_eq!(answer.version, "2");
}

/// No HTTP to a sidecar, if istiod does not allow it: the connection goes where it was meant to, and at the
/// address of a Service there is nobody.
fn http10(mesh: &Mesh) {
    let answer = get(mesh, "/get", &["--http1.0"]);
    assert_ne!(answer.exit, 0, "{answer:?}");
}

fn tcp(mesh: &Mesh) {
    let steps = [&format!("<{GREETING}"), ">hello", "<hello"];
    let told = mesh.pod(SLEEP.name).talk("web:9000", &steps);
    assert!(told.is_ok(), "{told:?}");
}
