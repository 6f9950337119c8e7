//! What an agent adds to its data plane's start besides istiod: its own endpoints, and metrics over mutual TLS. And
//! a filter that Istio puts before a port by its name alone.

use ithildin_tests::{
    Mesh,
    curl::{self, ClientCertificate},
    eventually,
    mesh::{PodSpec, Program, SLEEP, TRUST_DOMAIN},
};

use crate::support::{assert_refused, on_each};

const WEB: PodSpec<'static> = PodSpec {
    env: &[
        ("ISTIO_META_ENABLE_SELF_DISCOVERY", "true"),
        // A Pod that nobody else owns is its own workload.
        ("ISTIO_META_WORKLOAD_NAME", "web-0"),
        ("ENVOY_SECURE_METRICS_PORT", "15091"),
        ("ENVOY_SECURE_MERGED_METRICS_PORT", "15092"),
    ],
    ..PodSpec::server("web-0", "web", [10, 0, 4, 2], &[("app", "web")])
};

const GREETING: &str = "220 welcome";

on_each!(own_bootstrap, and_istios_agent);

fn own_bootstrap(test: &str, program: Program) {
    let pods = [SLEEP, WEB];
    let Some(mesh) = Mesh::start(test, program, &["own-bootstrap.yaml"], &pods) else {
        return;
    };
    own_endpoints(&mesh);
    metrics_over_tls(&mesh);
    mongo(&mesh);
}

fn own_endpoints(mesh: &Mesh) {
    eventually("it knows those of its own Service", || {
        let clusters = mesh.pod(WEB.name).admin("/clusters").body;
        let mut lines = clusters.lines();
        let knows = lines.any(|line| line.starts_with("local_cluster::10.0.4.2:"));
        knows.then_some(()).ok_or(clusters)
    });
}

fn metrics_over_tls(mesh: &Mesh) {
    // Loopback is not captured; a Pod says of these ports that they are not, either.
    let net = &mesh.pod(WEB.name).net;
    let id = "spiffe://example.org/ns/monitoring/sa/prometheus";
    let svid = mesh.identities.mint(TRUST_DOMAIN, id);
    let certificate = ClientCertificate {
        chain: &svid.chain,
        key: &svid.key,
    };
    for (port, merged) in [(15091, false), (15092, true)] {
        let at = format!("127.0.0.1:{port}/stats/prometheus");
        let answer = curl::get_mtls(net, &format!("https://{at}"), certificate, &[]);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body.contains("# TYPE "), "{port}: {answer:?}");
        let is_merged = answer.body.contains("istio_agent_");
        assert_eq!(is_merged, merged, "{port}: {answer:?}");
        assert_refused(
            "a scrape in plain text",
            &curl::get(net, &format!("http://{at}"), &[]),
        );
        assert_refused(
            "a scrape by nobody",
            &curl::get(net, &format!("https://{at}"), &["-k"]),
        );
    }
}

fn mongo(mesh: &Mesh) {
    let _echo = mesh
        .pod(WEB.name)
        .peer("mongo", &["echo", "0.0.0.0:9000", GREETING]);
    let steps = ["<220 welcome", ">hello", "<hello"];
    eventually("both filters let it pass", || {
        mesh.pod(SLEEP.name).talk("web:9000", &steps)
    });
}
