//! The families of Istio's own tests of security: tokens, authorization, and forms of a path that try to
//! get around it. One mesh, whose policies change.

mod authorization;
mod paths;
mod through_gateway;
mod tokens;

use ithildin_tests::{
    Mesh, Process, eventually,
    mesh::{INGRESS, PodSpec, Program, SLEEP},
    tokens::Signer,
};
use serde_json::json;

use crate::support::{GRPC, Row, answered, eventually_answered, on_each};

/// In another namespace.
const STRANGER: PodSpec<'static> = PodSpec {
    namespace: "elsewhere",
    ..PodSpec::client(
        "stranger-0",
        "stranger",
        [10, 0, 4, 3],
        &[("app", "stranger")],
    )
};

const WEB: PodSpec<'static> = PodSpec::server("web-0", "web", [10, 0, 4, 2], &[("app", "web")]);

/// It has keys of tokens, at `/base64/...`.
const KEYS: PodSpec<'static> = PodSpec::server("keys-0", "keys", [10, 0, 4, 4], &[("app", "keys")]);

const GATEWAY: PodSpec<'static> = PodSpec {
    env: &[(
        "PROXY_CONFIG",
        r#"{"binaryPath": "/run/bin/envoy", "concurrency": 1, "gatewayTopology": {"numTrustedProxies": 1}}"#,
    )],
    ..INGRESS
};

/// Without a sidecar.
const OUTSIDE: [u8; 4] = [10, 0, 4, 60];
const GREETING: &str = "220 welcome";
const CONVERSATION: [&str; 2] = [">hello", "<hello"];

on_each!(security, and_istios_agent);

fn security(test: &str, program: Program) {
    let pods = [SLEEP, STRANGER, WEB, KEYS, GATEWAY];
    let Some(mesh) = Mesh::start(test, program, &["security.yaml"], &pods) else {
        return;
    };
    let _services = services(&mesh);
    let signer = Signer::new();
    let all = [("http://web/", &[][..], 200), ("http://web:81/", &[], 200)];
    eventually_answered(&mesh, SLEEP.name, "web", &all);
    authorization::all(&mesh);
    tokens::all(&mesh, &signer);
    through_gateway::all(&mesh, &signer);
    paths::all(&mesh);
}

fn services(mesh: &Mesh) -> [Process; 3] {
    let web = mesh.pod(WEB.name);
    [
        web.peer("http2", &["serve", "0.0.0.0:8081"]),
        web.peer("grpc", &["serve", "0.0.0.0:8082"]),
        web.peer("tcp", &["echo", "0.0.0.0:9000", GREETING]),
    ]
}

/// The one policy in place: of this kind, name and namespace, with this `spec`.
fn policy(mesh: &Mesh, spec: &str) {
    mesh.istiod.apply("policy.yaml", spec);
}

/// An AuthorizationPolicy for web.
fn authorization(rest: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: web, namespace: default}}
spec:
  selector: {{matchLabels: {{app: web}}}}
{rest}"
    )
}

/// Puts a policy in place, and waits until sleep is answered as the rows say.
#[track_caller]
fn with_policy(mesh: &Mesh, what: &str, objects: &str, rows: &[Row<'_>]) {
    policy(mesh, objects);
    eventually_answered(mesh, SLEEP.name, what, rows);
}

/// What comes of requests by each protocol, which the policy in place lets pass, or not.
#[track_caller]
fn expect_all_protocols(mesh: &Mesh, pod: &str, path: &str, allowed: bool) {
    let status = if allowed { 200 } else { 403 };
    let urls = [80, 81].map(|port| format!("http://web.default:{port}{path}"));
    let rows = [
        (&*urls[0], &[][..], status),
        (&*urls[1], &["--http2-prior-knowledge"], status),
    ];
    eventually_answered(mesh, pod, path, &rows);
    let code = if allowed { "0" } else { "7" };
    eventually("gRPC", || {
        let answer = mesh.curl(pod, "http://web.default:82/echo.Echo/Say", &GRPC);
        // In the trailers, or in a head that is all.
        let told = format!("grpc-status: {code}");
        answer.error.contains(&told).then_some(()).ok_or(answer)
    });
    eventually("TCP", || {
        let told = mesh.pod(pod).talk("web.default:90", &CONVERSATION);
        (told.is_ok() == allowed).then_some(()).ok_or(told)
    });
}

/// `authorization: Bearer` with a token that has these claims.
fn bearer(signer: &Signer, claims: serde_json::Value) -> String {
    format!("authorization: Bearer {}", signer.token(claims))
}

/// The claims of most tokens.
fn claims(issuer: u8) -> serde_json::Value {
    json!({"iss": format!("issuer-{issuer}.test"), "sub": format!("sub-{issuer}"), "iat": 1_562_182_722})
}
