//! A gateway behind a proxy that tells by the PROXY protocol whom it speaks for.

use ithildin_tests::{
    Mesh, Net,
    curl::{self, Answer},
    eventually,
    mesh::talk,
};
use serde_json::Value;

use super::{GREETING, MACHINE_IP};

pub(super) const PROXY_CONFIG: &str = r#"{"binaryPath": "/run/bin/envoy", "concurrency": 1, "gatewayTopology":
    {"numTrustedProxies": 1, "proxyProtocol": {}, "forwardClientCertDetails": "ALWAYS_FORWARD_ONLY"}}"#;
const GATEWAY: &str = "10.0.4.10";
/// What the proxy before the gateway says of its client.
const SAID: &str = "PROXY TCP4 192.0.2.7 10.0.4.10 4711 8080\r\n";
const CLIENT: &str = "192.0.2.7";

pub(super) fn all(mesh: &Mesh, machine: &Net) {
    assert!(mesh.pod("istio-ingressgateway-0").admin("/ready").status == 200);
    let url = format!("http://{GATEWAY}:8080/get");
    let by_protocol = ["--haproxy-protocol"];
    let answer = eventually("by the PROXY protocol", || {
        curl::get(machine, &url, &by_protocol).expect_status(200)
    });
    assert_eq!(forwarded(&answer.echoed()), [MACHINE_IP]);
    without(machine, &url);
    who_is_told(machine);
    certificates(machine, &url);
    over_tcp(machine);
}

/// Who does not speak it is told nothing.
fn without(machine: &Net, url: &str) {
    let answer: Answer = curl::get(machine, url, &["--max-time", "5"]);
    assert_eq!(answer.status, 0, "{answer:?}");
}

/// The address of the protocol is the client's, unless a header of a trusted proxy says another.
fn who_is_told(machine: &Net) {
    for (header, expected) in [
        ("", &[CLIENT][..]),
        (
            "x-forwarded-for: 198.51.100.1\r\n",
            &["198.51.100.1", CLIENT],
        ),
    ] {
        let request = echoed(machine, header);
        assert_eq!(forwarded(&request), expected, "{request}");
        let external = &request["headers"]["x-envoy-external-address"];
        assert_eq!(external, expected[0], "{request}");
    }
}

/// What the web server has seen of a request by the protocol with this header.
fn echoed(machine: &Net, header: &str) -> Value {
    let request =
        format!(">{SAID}GET /get HTTP/1.1\r\nhost: web.test\r\nconnection: close\r\n{header}\r\n");
    let to = format!("{GATEWAY}:8080");
    let told = talk(machine, &to, &[&request, "<\"version\":"]);
    let told = told.unwrap_or_else(|error| panic!("{error}"));
    let (_, body) = told.split_once("\r\n\r\n").expect("a whole answer");
    // It may come in chunks.
    let json = body.find('{').zip(body.rfind('}'));
    let (from, to) = json.unwrap_or_else(|| panic!("{told}"));
    serde_json::from_str(&body[from..=to]).unwrap_or_else(|error| panic!("{error}: {told}"))
}

fn forwarded(request: &Value) -> Vec<&str> {
    let header = request["headers"]["x-forwarded-for"].as_str();
    let hops = header.unwrap_or_default().split(',').map(str::trim);
    // The sidecar of the server adds nobody.
    hops.collect()
}

/// The proxy before the gateway has asked for certificates: what it says goes on.
fn certificates(machine: &Net, url: &str) {
    let header = "x-forwarded-client-cert: By=a;Hash=b;URI=spiffe://elsewhere.test/client";
    let answer = curl::get(machine, url, &["--haproxy-protocol", "-H", header]);
    let request = answer.echoed();
    let told = request["headers"]["x-forwarded-client-cert"].as_str();
    let told = told.unwrap_or_default();
    assert!(
        told.contains("URI=spiffe://elsewhere.test/client"),
        "{request}"
    );
}

/// What the protocol says is no part of the conversation.
fn over_tcp(machine: &Net) {
    let to = format!("{GATEWAY}:8090");
    let said = format!(">{SAID}");
    let greeted = format!("<{GREETING}");
    let told = talk(machine, &to, &[&said, &greeted, ">hello", "<hello"]);
    let told = told.unwrap_or_else(|error| panic!("{error}"));
    assert!(!told.contains("PROXY"), "{told}");
}
