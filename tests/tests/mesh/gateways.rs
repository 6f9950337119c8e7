//! Two clusters of one trust domain under istiod, as the walk-throughs have them: with the other cluster's
//! identity through an ISTIO_MUTUAL gateway, straight, and by a sidecar that makes mTLS of plain HTTP.

use std::net::Ipv4Addr;

use ithildin_tests::{
    DataPlane, Identities, Mesh, Net,
    authority::Files,
    curl::{self, Answer, ClientCertificate},
    eventually,
    mesh::{self, App, Cluster, INGRESS, PodSpec, Program},
    process::output,
};

use crate::support::{assert_refused, caller, callers};

const SERVER: Cluster = Cluster {
    name: "server",
    ..Cluster::ONLY
};

const CLIENT: Cluster = Cluster {
    name: "client",
    istiod: Ipv4Addr::new(10, 0, 0, 11),
    host_aliases: &["10.0.4.10 app.example.org"],
    ..Cluster::ONLY
};

const GATEWAY: PodSpec<'static> = PodSpec {
    account: "istio-ingressgateway-service-account",
    ..INGRESS
};

const PRODUCTPAGE: PodSpec<'static> = PodSpec {
    app: Some(App {
        port: 9080,
        calls: &[],
    }),
    ..PodSpec::client(
        "productpage-v1-0",
        "bookinfo-productpage",
        [10, 0, 4, 1],
        &[("app", "productpage"), ("version", "v1")],
    )
};

const HTTPBIN: PodSpec<'static> =
    PodSpec::server("httpbin-0", "httpbin", [10, 0, 4, 2], &[("app", "httpbin")]);

const SLEEP: PodSpec<'static> = PodSpec {
    ip: [10, 0, 4, 20],
    ..mesh::SLEEP
};

/// Beside the mesh.
const OUTSIDE: [u8; 4] = [10, 0, 4, 60];
const SLEEP_ID: &str = "spiffe://example.org/ns/default/sa/sleep";
const GATEWAY_ID: &str =
    "spiffe://example.org/ns/istio-system/sa/istio-ingressgateway-service-account";

#[test]
fn shared_ca_on_builtin() {
    shared_ca(
        "gateways::shared_ca_on_builtin",
        Program::Ithildin(DataPlane::Builtin),
    );
}

#[test]
fn shared_ca_on_envoy() {
    shared_ca(
        "gateways::shared_ca_on_envoy",
        Program::Ithildin(DataPlane::Envoy),
    );
}

#[test]
fn nested_ca_on_builtin() {
    nested_ca(
        "gateways::nested_ca_on_builtin",
        Program::Ithildin(DataPlane::Builtin),
    );
}

#[test]
fn nested_ca_on_envoy() {
    nested_ca(
        "gateways::nested_ca_on_envoy",
        Program::Ithildin(DataPlane::Envoy),
    );
}

/// Bookinfo's front page with an SVID of the other cluster.
fn shared_ca(test: &str, program: Program) {
    let identities = Identities::shared_disk_by_spire(test);
    let Some(identities) = identities.or_else(|| Identities::shared_root(test)) else {
        return;
    };
    let files = ["gateways.yaml", "../walkthroughs/bookinfo-gateway.yaml"];
    let Some(mut mesh) = Mesh::start_in(test, program, identities, SERVER, &files) else {
        return;
    };
    mesh.add(&GATEWAY);
    mesh.add(&PRODUCTPAGE);
    mesh.wait_ready();
    let outside = mesh.host(OUTSIDE);
    let svid = mesh.identities.mint("client", SLEEP_ID);
    eventually("the front page", || {
        knock(&outside, Some(&svid), "/productpage").expect_status(200)
    });
    for path in [
        "/static/bootstrap/css/bootstrap.min.css",
        "/login",
        "/logout",
        "/api/v1/products/0/reviews",
    ] {
        let answer = knock(&outside, Some(&svid), path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let request = answer.echoed();
        assert_eq!(request["path"], path);
        assert_eq!(caller(&request), GATEWAY_ID);
    }
    for path in ["/", "/productpage/0", "/loginx", "/api/v2", "/status/200"] {
        let answer = knock(&outside, Some(&svid), path);
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
    }

    let stranger = "spiffe://elsewhere.test/ns/default/sa/sleep";
    let stranger = mesh.identities.mint("elsewhere", stranger);
    strangers(&mesh, &outside, &stranger);
    // Whoever passes by the gateway needs a certificate of the mesh, too.
    let direct = curl::get(&outside, "http://10.0.4.1:9080/productpage", &[]);
    assert_refused("plain HTTP to the Pod", &direct);
    presents(&outside, &svid);
    let answer = knock(&outside, Some(&svid), "/productpage");
    assert_eq!(answer.status, 200, "after all refusals: {answer:?}");
}

/// Nobody gets in without a certificate of the trust domain.
fn strangers(mesh: &Mesh, outside: &Net, stranger: &Files) {
    assert_refused("no certificate", &knock(outside, None, "/productpage"));
    let answer = knock(outside, Some(stranger), "/productpage");
    assert_refused("a certificate from elsewhere", &answer);
    let plain = curl::get(outside, "http://10.0.4.10:8080/productpage", &[]);
    assert_ne!((plain.exit, plain.status), (0, 200), "{plain:?}");
    if mesh.program == Program::Ithildin(DataPlane::Builtin) {
        let log = mesh.pod(GATEWAY.name).log();
        for words in [
            ["the peer sent no certificate", "rule=no_certificate"],
            [
                "spiffe://elsewhere.test/ns/default/sa/sleep",
                "no bundle for its trust domain elsewhere.test",
            ],
        ] {
            let told = |line: &str| words.iter().all(|word| line.contains(word));
            assert!(log.lines().any(told), "{words:?} in {log}");
        }
    }
}

/// The chain of the gateway leads to the roots of the other cluster.
fn presents(outside: &Net, svid: &Files) {
    let mut show = outside.command("openssl");
    show.args(["s_client", "-showcerts", "-connect", "10.0.4.10:8080"])
        .arg("-CAfile")
        .arg(&svid.bundle)
        .arg("-cert")
        .arg(&svid.chain)
        .arg("-cert_chain")
        .arg(&svid.chain)
        .arg("-key")
        .arg(&svid.key);
    let shown = output(show);
    assert!(shown.contains("Verify return code: 0 (ok)"), "{shown}");
    let chain = shown.matches("BEGIN CERTIFICATE").count();
    assert!(chain >= 2, "leaf and intermediate: {shown}");
}

/// Plain HTTP in one cluster, httpbin in the other; mTLS between them.
fn nested_ca(test: &str, program: Program) {
    let identities = Identities::nested_by_spire(test);
    let Some(identities) = identities.or_else(|| Identities::shared_root(test)) else {
        return;
    };
    let files = ["gateways.yaml", "../walkthroughs/httpbin-gateway.yaml"];
    let Some(mut mesh) = Mesh::start_in(test, program, identities, SERVER, &files) else {
        return;
    };
    mesh.start_other(test, CLIENT, &["../walkthroughs/app-egress.yaml"]);
    mesh.add(&GATEWAY);
    mesh.add(&HTTPBIN);
    mesh.add_to_other(&SLEEP);
    mesh.wait_ready();
    // As `kubectl port-forward` of the walk-through.
    let relay = ["relay", "0.0.0.0:8000", "127.0.0.1:8080"];
    let _relay = mesh.pod(GATEWAY.name).peer("port-forward", &relay);
    let get = |path: &str| {
        let url = format!("http://app.example.org:8000{path}");
        mesh.curl(SLEEP.name, &url, &[])
    };
    eventually("httpbin answers", || get("/status/200").expect_status(200));
    for (path, status) in [
        ("/status/200", 200),
        ("/status/418", 418),
        ("/delay/0", 200),
    ] {
        let answer = get(path);
        assert_eq!(answer.status, status, "{answer:?}");
        let server = answer.header("server").unwrap_or_default();
        assert!(["envoy", "istio-envoy"].contains(&server), "{answer:?}");
        let time = answer.header("x-envoy-upstream-service-time");
        assert!(
            time.is_some_and(|time| time.parse::<u64>().is_ok()),
            "{answer:?}"
        );
        let request = answer.echoed();
        assert_eq!(request["headers"]["host"], "app.example.org:8000");
        // The gateway has seen sleep, httpbin's sidecar the gateway.
        assert_eq!(callers(&request), [SLEEP_ID, GATEWAY_ID], "{request}");
    }
    // The gateway has no route for it.
    let answer = get("/headers");
    assert_eq!(answer.status, 404, "{answer:?}");
    let outside = mesh.host(OUTSIDE);
    assert_refused("no certificate", &knock(&outside, None, "/status/200"));
    withdrawn(&mesh);
}

/// Without an identity nothing leaves the workload; Envoy keeps what it once had.
fn withdrawn(mesh: &Mesh) {
    if mesh.program != Program::Ithildin(DataPlane::Builtin) {
        return;
    }
    mesh.identities.withdraw("client", SLEEP_ID);
    eventually("the withdrawn identity is not used", || {
        let url = "http://app.example.org:8000/status/200";
        mesh.curl(SLEEP.name, url, &[]).expect_status(503)
    });
}

/// A request to the gateway from outside.
fn knock(from: &Net, svid: Option<&Files>, path: &str) -> Answer {
    let url = format!("https://10.0.4.10:8080{path}");
    match svid {
        None => curl::get(from, &url, &[]),
        Some(Files { chain, key, .. }) => {
            curl::get_mtls(from, &url, ClientCertificate { chain, key }, &[])
        }
    }
}
