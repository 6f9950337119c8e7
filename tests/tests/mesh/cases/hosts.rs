//! Forms of the Host header at the address of a Pod.

use ithildin_tests::Mesh;

use super::{FIRST_IP, SLEEP, expect, tells_protocols};
use crate::support::callers;

pub(super) fn all(mesh: &Mesh) {
    let names = [
        "headless.default.svc.cluster.local",
        "headless.default.svc",
        "headless",
    ];
    let names = names.map(|name| [name.to_owned(), format!("some-instances.{name}")]);
    for port in ["8080", "8081"] {
        for name in names.iter().flatten() {
            for suffix in ["", &format!(":{port}"), ":12345"] {
                reach(mesh, port, &format!("{name}{suffix}"));
            }
        }
    }
    // No name at all is enough where the proxy finds the protocol out.
    for host in [FIRST_IP.to_owned(), format!("{FIRST_IP}:8081")] {
        reach(mesh, "8081", &host);
    }
    trailing_dots(mesh);
}

/// Over mTLS, and not past the mesh: web takes nothing else.
fn reach(mesh: &Mesh, port: &str, host: &str) {
    let url = format!("http://{FIRST_IP}:{port}/get");
    let answer = expect(mesh, &url, &["-H", &format!("host: {host}")], 200);
    let request = answer.echoed();
    assert_eq!(request["headers"]["host"], *host);
    if port == "8080" || tells_protocols(mesh) {
        assert_eq!(
            callers(&request),
            [mesh.pod(SLEEP.name).id.clone()],
            "{host}"
        );
    }
}

/// An absolute name is the same name.
fn trailing_dots(mesh: &Mesh) {
    for host in [
        "web.default.svc.cluster.local.",
        "web.default.svc.cluster.local.:80",
    ] {
        let header = format!("host: {host}");
        let answer = mesh.curl(SLEEP.name, "http://web/", &["-H", &header]);
        assert_eq!((answer.exit, answer.status), (0, 200), "{host}: {answer:?}");
    }
}
