//! The headers that a proxy adds of itself, where they are switched off.

use ithildin_tests::{
    Mesh, Net,
    curl::{self, Answer},
};
use serde_json::Value;

use super::{PLAIN, SLEEP};

pub(super) const PROXY_CONFIG: &str = r#"{"binaryPath": "/run/bin/envoy", "concurrency": 1, "tracing": {},
    "proxyHeaders": {
        "forwardedClientCert": "SANITIZE", "server": {"disabled": true}, "requestId": {"disabled": true},
        "attemptCount": {"disabled": true}, "envoyDebugHeaders": {"disabled": true},
        "setCurrentClientCertDetails": {"subject": true}, "preserveHttp1HeaderCase": true,
        "metadataExchangeHeaders": {"mode": "IN_MESH"}}}"#;

/// What is never switched off, and what istiod keeps of the routes of another proxy, whose settings differ.
const ALWAYS: [&str; 3] = [
    "x-forwarded-proto",
    "x-envoy-decorator-operation",
    "x-envoy-attempt-count",
];

pub(super) fn all(mesh: &Mesh, machine: &Net) {
    let outbound = mesh.curl(PLAIN.name, "http://machine.test/get", &[]);
    assert_eq!(added(&outbound), [""; 0], "{outbound:?}");
    let inbound = curl::get(machine, "http://10.0.4.3:8080/get", &[]);
    assert_eq!(added(&inbound), [""; 0], "{inbound:?}");
    for answer in [&outbound, &inbound] {
        assert_eq!(answer.header("server"), None, "{answer:?}");
        assert_eq!(
            answer.header("x-envoy-upstream-service-time"),
            None,
            "{answer:?}"
        );
    }
    // A neighbour whose proxy has the usual ones.
    let usual = mesh.curl(SLEEP.name, "http://machine.test/get", &[]);
    assert_eq!(usual.header("server"), Some("envoy"), "{usual:?}");
    assert!(
        added(&usual).contains(&"x-request-id".to_owned()),
        "{usual:?}"
    );
    let told = mesh.curl(SLEEP.name, "http://plain/get", &[]);
    let request = told.echoed();
    assert_eq!(
        request["headers"]["x-forwarded-client-cert"],
        Value::Null,
        "{request}"
    );
}

/// Headers of proxies that a server has seen.
fn added(answer: &Answer) -> Vec<String> {
    assert_eq!((answer.exit, answer.status), (0, 200), "{answer:?}");
    let request = answer.echoed();
    let headers = request["headers"].as_object().cloned().unwrap_or_default();
    let names = headers.into_iter().map(|(name, _)| name);
    names
        .filter(|name| name.starts_with("x-") && !ALWAYS.contains(&name.as_str()))
        .collect()
}
