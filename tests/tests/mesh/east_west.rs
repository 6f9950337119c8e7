//! Two networks: a Pod of the first reaches a service of the second through the east-west gateway, which
//! passes on TLS that it cannot read.

use ithildin_tests::{
    Mesh, eventually,
    mesh::{self, INGRESS, PodSpec, Program},
};

use crate::support::on_each;

const SLEEP: PodSpec<'static> = PodSpec {
    labels: &[("app", "sleep"), ("topology.istio.io/network", "first")],
    env: &[("ISTIO_META_NETWORK", "first")],
    ..mesh::SLEEP
};

const HTTPBIN: PodSpec<'static> = PodSpec {
    env: &[("ISTIO_META_NETWORK", "second")],
    ..PodSpec::server(
        "httpbin-0",
        "httpbin",
        [10, 0, 4, 2],
        &[("app", "httpbin"), ("topology.istio.io/network", "second")],
    )
};

const GATEWAY: PodSpec<'static> = PodSpec {
    name: "istio-eastwestgateway-0",
    account: "istio-eastwestgateway",
    ip: [10, 0, 4, 12],
    labels: &[
        ("istio", "eastwestgateway"),
        ("topology.istio.io/network", "second"),
    ],
    env: &[
        ("ISTIO_META_NETWORK", "second"),
        ("ISTIO_META_REQUESTED_NETWORK_VIEW", "second"),
    ],
    ..INGRESS
};

on_each!(east_west, and_istios_agent);

fn east_west(test: &str, program: Program) {
    let pods = [SLEEP, HTTPBIN, GATEWAY];
    let mesh = Mesh::start(test, program, &["east-west.yaml"], &pods);
    let Some(mesh) = mesh else {
        return;
    };
    let answer = eventually("httpbin of the other network answers", || {
        let url = "http://httpbin:8000/headers";
        mesh.curl("sleep-0", url, &[]).expect_status(200)
    });
    let request = answer.echoed();
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
