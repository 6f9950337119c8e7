//! Who reaches whom, by which of a PeerAuthentication and a DestinationRule are in place.

use ithildin_tests::{
    Mesh, Net, curl, eventually,
    mesh::{serve, talk},
};

use super::{SLEEP, WEB};
use crate::support::callers;

const GREETING: &str = "220 welcome";
const CONVERSATION: [&str; 3] = ["<220 welcome", ">hello", "<hello"];

/// How a request arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    Mtls,
    Plain,
    Not,
}

use Arrival::{Mtls, Not, Plain};

pub(super) fn all(mesh: &Mesh, bare: &Net) {
    let web = mesh.pod(WEB.name);
    let _services = [
        web.peer("tcp", &["echo", "0.0.0.0:9000", GREETING]),
        serve(bare, "http", &["serve", "0.0.0.0:8080"]),
        serve(bare, "tcp", &["echo", "0.0.0.0:9000", GREETING]),
    ];
    let outside = mesh.host([10, 0, 4, 60]);
    // From the sidecar to web, to the Pod without one, and from outside to web.
    for (peers, rule, [web, bare, from_outside]) in [
        ("STRICT", "", [Mtls, Plain, Not]),
        ("PERMISSIVE", "", [Mtls, Plain, Plain]),
        ("DISABLE", "", [Plain, Plain, Plain]),
        ("STRICT", "tls: {mode: ISTIO_MUTUAL}", [Mtls, Not, Not]),
        (
            "PERMISSIVE",
            "tls: {mode: ISTIO_MUTUAL}",
            [Mtls, Not, Plain],
        ),
        ("STRICT", "tls: {mode: DISABLE}", [Not, Plain, Not]),
        ("PERMISSIVE", "tls: {mode: DISABLE}", [Plain, Plain, Plain]),
        ("DISABLE", "tls: {mode: ISTIO_MUTUAL}", [Not, Not, Plain]),
    ] {
        apply(mesh, peers, rule);
        let what = format!("{peers} {rule}");
        for (service, expected) in [("web", web), ("bare", bare)] {
            let url = format!("http://{service}/get");
            eventually(&format!("{what}: {service}"), || {
                let answer = mesh.curl(SLEEP.name, &url, &[]);
                let arrived = match answer.status {
                    200 if callers(&answer.echoed()).is_empty() => Plain,
                    200 => Mtls,
                    _ => Not,
                };
                (arrived == expected).then_some(()).ok_or((arrived, answer))
            });
            // Where TLS may come, a server that speaks first waits to hear whether it does.
            let steps = match (peers, expected) {
                ("PERMISSIVE", Plain) => &CONVERSATION[1..],
                _ => &CONVERSATION[..],
            };
            eventually(&format!("{what}: TCP to {service}"), || {
                let told = mesh.pod(SLEEP.name).talk(&format!("{service}:90"), steps);
                (told.is_ok() == (expected != Not))
                    .then_some(())
                    .ok_or(told)
            });
        }
        from_outside_of(&what, &outside, from_outside);
    }
    mesh.istiod.delete("reachability.yaml");
}

/// Plain text by somebody without a proxy; who speaks first is heard.
fn from_outside_of(what: &str, outside: &Net, expected: Arrival) {
    eventually(&format!("{what}: from outside"), || {
        let answer = curl::get(outside, "http://10.0.4.2:8080/get", &[]);
        let arrived = if answer.status == 200 { Plain } else { Not };
        (arrived == expected).then_some(()).ok_or((arrived, answer))
    });
    eventually(&format!("{what}: TCP from outside"), || {
        let told = talk(outside, "10.0.4.2:9000", &[">hello", "<hello"]);
        (told.is_ok() == (expected != Not))
            .then_some(())
            .ok_or(told)
    });
}

fn apply(mesh: &Mesh, peers: &str, rule: &str) {
    let mut objects = format!(
        "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: reachability, namespace: default}}
spec: {{mtls: {{mode: {peers}}}}}
"
    );
    if !rule.is_empty() {
        objects += &format!(
            "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: reachability, namespace: default}}
spec: {{host: \"*.default.svc.cluster.local\", trafficPolicy: {{{rule}}}}}
"
        );
    }
    mesh.istiod.apply("reachability.yaml", &objects);
}
