//! An ingress gateway on plain ports.

use ithildin_tests::{Mesh, Net, curl, eventually};

const GATEWAY: &str = "http://10.0.4.10";

pub(super) fn all(mesh: &Mesh, machine: &Net) {
    let ask = |port: u16, path: &str, host: &str, arguments: &[&str]| {
        let header = format!("host: {host}");
        let arguments = [&["-H", &header], arguments].concat();
        curl::get(machine, &format!("{GATEWAY}:{port}{path}"), &arguments)
    };
    assert!(mesh.pod("istio-ingressgateway-0").admin("/ready").status == 200);
    eventually("the gateway's routes", || {
        ask(8080, "/get", "foo.example.com", &[]).expect_status(200)
    });
    for (host, status) in [
        ("foo.example.com", 200),
        ("foo.example.com:8080", 200),
        ("foo.example.com:12345", 200),
        ("FOO.example.COM", 200),
        ("example.com", 404),
        ("foo.bar", 404),
        ("exact.test", 404),
    ] {
        for arguments in [&[][..], &["--http2-prior-knowledge"]] {
            let answer = ask(8080, "/get", host, arguments);
            assert_eq!(
                (answer.exit, answer.status),
                (0, status),
                "{host}: {answer:?}"
            );
        }
    }
    protocols(&ask);
    redirects(&ask);
    addresses(&ask);
}

type Ask<'a> = dyn Fn(u16, &str, &str, &[&str]) -> curl::Answer + 'a;

/// The gateway speaks as it likes, unless it is told to speak as its client does.
fn protocols(ask: &Ask<'_>) {
    for (path, arguments, version) in [
        ("/any", &[][..], "HTTP/1.1"),
        ("/any", &["--http2-prior-knowledge"], "HTTP/1.1"),
        ("/client-protocol", &[], "HTTP/1.1"),
        ("/client-protocol", &["--http2-prior-knowledge"], "HTTP/2.0"),
    ] {
        let answer = ask(8080, path, "foo.example.com", arguments);
        let request = answer.echoed();
        assert_eq!(
            request["version"], version,
            "{path} {arguments:?}: {answer:?}"
        );
        // A sidecar that took it for TCP would leave it there.
        assert!(
            request["headers"]["x-envoy-peer-metadata"].is_null(),
            "{request}"
        );
    }
    let request = ask(8080, "/scheme", "foo.example.com", &[]).echoed();
    assert_eq!(request["headers"]["x-scheme"], "http");
}

fn redirects(ask: &Ask<'_>) {
    let answer = ask(8081, "/get?a=b", "foo.example.com", &[]);
    assert_eq!(answer.status, 301, "{answer:?}");
    let location = answer.header("location");
    assert_eq!(
        location,
        Some("https://foo.example.com/get?a=b"),
        "{answer:?}"
    );
    // A load balancer before it has ended TLS already.
    let answer = ask(
        8081,
        "/get",
        "foo.example.com",
        &["-H", "x-forwarded-proto: https"],
    );
    assert_ne!(answer.status, 301, "{answer:?}");
}

/// Behind two proxies that are trusted, the second last address is the client's.
fn addresses(ask: &Ask<'_>) {
    let forwarded = "x-forwarded-for: 56.5.6.7, 72.9.5.6, 98.1.2.3";
    let request = ask(8080, "/get", "foo.example.com", &["-H", forwarded]).echoed();
    let header = |name: &str| {
        request["headers"][name]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(header("x-envoy-external-address"), "72.9.5.6", "{request}");
    let hops = header("x-forwarded-for");
    assert_eq!(hops.split(',').count(), 4, "{hops}");
}
