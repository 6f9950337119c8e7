//! Two networks: a Pod of the first reaches a service of the second through the east-west gateway, which
//! passes on TLS that it cannot read.

use ithildin_tests::{
    DataPlane, Identities, Mesh, eventually,
    mesh::{App, PodSpec, Program},
};
use serde_json::Value;

const SLEEP: PodSpec<'static> = PodSpec {
    name: "sleep-0",
    namespace: "default",
    account: "sleep",
    ip: [10, 0, 4, 1],
    role: "sidecar",
    labels: &[("app", "sleep"), ("topology.istio.io/network", "first")],
    app: None,
    env: &[("ISTIO_META_NETWORK", "first")],
};

const HTTPBIN: PodSpec<'static> = PodSpec {
    name: "httpbin-0",
    account: "httpbin",
    ip: [10, 0, 4, 2],
    labels: &[("app", "httpbin"), ("topology.istio.io/network", "second")],
    app: Some(App {
        port: 8080,
        calls: &[],
    }),
    env: &[("ISTIO_META_NETWORK", "second")],
    ..SLEEP
};

const GATEWAY: PodSpec<'static> = PodSpec {
    name: "istio-eastwestgateway-0",
    namespace: "istio-system",
    account: "istio-eastwestgateway",
    ip: [10, 0, 4, 12],
    role: "router",
    labels: &[
        ("istio", "eastwestgateway"),
        ("topology.istio.io/network", "second"),
    ],
    app: None,
    env: &[
        ("ISTIO_META_NETWORK", "second"),
        ("ISTIO_META_REQUESTED_NETWORK_VIEW", "second"),
    ],
};

#[test]
fn on_builtin() {
    east_west(
        "east_west::on_builtin",
        Program::Ithildin(DataPlane::Builtin),
    );
}

#[test]
fn on_envoy() {
    east_west("east_west::on_envoy", Program::Ithildin(DataPlane::Envoy));
}

/// That the scene is right.
#[test]
fn on_istios_agent() {
    east_west("east_west::on_istios_agent", Program::Stock);
}

fn east_west(test: &str, program: Program) {
    let Some(identities) = Identities::of_mesh(test) else {
        return;
    };
    let pods = [SLEEP, HTTPBIN, GATEWAY];
    let mesh = Mesh::start(test, program, identities, &["east-west.yaml"], &pods);
    let Some(mesh) = mesh else {
        return;
    };
    let answer = eventually("httpbin of the other network answers", || {
        let url = "http://httpbin:8000/headers";
        mesh.curl("sleep-0", url, &[]).expect_status(200)
    });
    let request: Value = serde_json::from_str(&answer.body).expect("it echoes");
    let seen = request["headers"]["x-forwarded-client-cert"].as_str();
    let seen = seen.unwrap_or_default();
    // The gateway is in between, and still it is the Pod that httpbin's sidecar has met.
    assert!(seen.contains(&mesh.pod("sleep-0").id), "{request}");
    let clusters = mesh.pod("sleep-0").admin("/clusters").body;
    assert!(
        clusters.contains("outbound|8000||httpbin.default.svc.cluster.local::10.0.4.12:15443::"),
        "{clusters}"
    );

    // Who asks the gateway for a name that it does not have is refused.
    let mut ask = mesh.pod("sleep-0").net.command("openssl");
    ask.args([
        "s_client",
        "-connect",
        "10.0.4.12:15443",
        "-servername",
        "elsewhere.test",
    ]);
    let output = ask.output().expect("openssl starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("BEGIN CERTIFICATE"), "{text}");
}
