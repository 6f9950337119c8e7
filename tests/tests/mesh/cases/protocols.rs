//! Protocols that nobody declared, and versions of HTTP.

use ithildin_tests::Mesh;
use serde_json::Value;

use super::{SLEEP, expect, tells_protocols};
use crate::support::{GRPC, callers};

pub(super) fn all(mesh: &Mesh) {
    found_out(mesh);
    by_the_client(mesh);
}

fn found_out(mesh: &Mesh) {
    let sleep = mesh.pod(SLEEP.name);
    for (arguments, expected) in [
        (&[][..], "HTTP/1.1"),
        (&["--http2-prior-knowledge"], "HTTP/2.0"),
    ] {
        let request = expect(mesh, "http://web:81/get", arguments, 200).echoed();
        if tells_protocols(mesh) {
            assert_eq!(
                callers(&request),
                std::slice::from_ref(&sleep.id),
                "{arguments:?}"
            );
        }
        assert_eq!(version(&request), expected, "as the client speaks");
    }
    let request = expect(mesh, "http://web:81/get", &[], 200).echoed();
    assert_eq!(request["headers"]["host"], "web:81");
    for port in [7070, 7071] {
        let answer = expect(
            mesh,
            &format!("http://web:{port}/echo.Echo/Say"),
            &GRPC,
            200,
        );
        assert!(
            answer.error.ends_with("grpc-status: 0"),
            "{port}: {answer:?}"
        );
    }
    for (to, steps) in [
        ("web:90", &["<220", ">hello", "<hello"][..]),
        ("web:91", &[">hello\r\n", "<hello"]),
    ] {
        let told = sleep.talk(to, steps);
        assert!(told.is_ok(), "{to}: {told:?}");
    }
    // HTTP of long ago is not HTTP to who finds it out: it goes on as it is.
    let told = sleep.talk("web:91", &[">GET / HTTP/1.0\r\n\r\n", "<GET / HTTP/1.0"]);
    assert!(told.is_ok(), "{told:?}");
}

/// `useClientProtocol`.
fn by_the_client(mesh: &Mesh) {
    for (arguments, expected) in [
        (&[][..], "HTTP/1.1"),
        (&["--http2-prior-knowledge"], "HTTP/2.0"),
    ] {
        let request = expect(mesh, "http://client-protocol/get", arguments, 200).echoed();
        assert_eq!(version(&request), expected);
    }
    // Without it what the Service declares counts.
    let request = expect(mesh, "http://upgraded/get", &[], 200).echoed();
    assert_eq!(version(&request), "HTTP/2.0");
}

fn version(request: &Value) -> &str {
    request["version"].as_str().unwrap_or_default()
}
