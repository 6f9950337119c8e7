//! Listeners of a Sidecar's `egress` that nobody is captured for: whoever means one connects to it.

use ithildin_tests::{Mesh, eventually};

use super::{SLEEP, TWO};

pub(super) fn all(mesh: &Mesh) {
    let get = |url: &str, arguments: &[&str]| mesh.curl(SLEEP.name, url, arguments);
    let host = ["-H", "Host: bound.test:8500"];
    eventually("HTTP where the Sidecar listens", || {
        let answer = get("http://127.0.0.1:8500/get", &host).expect_status(200)?;
        (answer.address() == TWO).then_some(()).ok_or(answer)
    });
    // It is for this host alone.
    let other = get("http://127.0.0.1:8500/get", &["-H", "Host: ports.test"]);
    assert_eq!(other.status, 502, "{other:?}");
    let bytes = get("http://127.0.0.1:8501/get", &["-H", "Host: ports.test"]);
    assert_eq!(bytes.status, 200, "{bytes:?}");
    assert_eq!(bytes.address(), TWO);
}
