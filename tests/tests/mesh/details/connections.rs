//! How a sidecar speaks to a Service, and to hosts outside.

use ithildin_tests::Mesh;

use super::SLEEP;

pub(super) fn all(mesh: &Mesh) {
    by_app_protocol(mesh);
    upgrades(mesh);
    proxy_protocol(mesh);
    let answer = mesh.curl(SLEEP.name, "http://warm/get", &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// `appProtocol`: the version that the service sees, and whether it is HTTP to the proxy.
fn by_app_protocol(mesh: &Mesh) {
    for (port, version, is_http) in [
        (81, "HTTP/1.1", true),
        (82, "HTTP/2.0", true),
        (83, "HTTP/2.0", true),
        (84, "HTTP/1.1", true),
        (85, "HTTP/2.0", true),
        (86, "HTTP/1.1", false),
        (87, "HTTP/1.1", false),
    ] {
        let answer = mesh.curl(SLEEP.name, &format!("http://kinds:{port}/get"), &[]);
        let request = answer.echoed();
        assert_eq!(request["version"], version, "{port}: {answer:?}");
        assert_eq!(answer.header("server").is_some(), is_http, "{answer:?}");
    }
}

/// `h2UpgradePolicy`.
fn upgrades(mesh: &Mesh) {
    for (host, arguments, version) in [
        ("upgraded", &[][..], "HTTP/2.0"),
        ("upgraded", &["--http2-prior-knowledge"], "HTTP/2.0"),
        ("as-it-is", &[], "HTTP/1.1"),
        ("as-it-is", &["--http2-prior-knowledge"], "HTTP/1.1"),
    ] {
        let url = format!("http://{host}.test/get");
        let answer = mesh.curl(SLEEP.name, &url, arguments);
        assert_eq!(answer.status, 200, "{answer:?}");
        let request = answer.echoed();
        assert_eq!(request["version"], version, "{host} {arguments:?}");
    }
}

/// The service outside says back what it hears: first of all who is asking, in words or after the mark of
/// the second version.
fn proxy_protocol(mesh: &Mesh) {
    let sleep = mesh.pod(SLEEP.name);
    for (host, header) in [
        ("proxied-1.test:9000", "<PROXY TCP4 10.0.4.1 10.96.9.3 "),
        ("proxied-2.test:9000", "<\r\nQUIT\n"),
    ] {
        let told = sleep.talk(host, &[">hello", header]);
        let told = told.unwrap_or_else(|error| panic!("{host}: {error}"));
        assert!(told.len() > header.len(), "{host}: {told:?}");
        let told = sleep.talk(host, &[">hello", "<hello", ">again", "<again"]);
        assert!(told.is_ok(), "{host}: {told:?}");
    }
}
