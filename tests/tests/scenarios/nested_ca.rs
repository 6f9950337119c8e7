//! Two clusters in one trust domain below a nested SPIRE: plain HTTP from a workload becomes mTLS at
//! its sidecar and reaches httpbin through the other cluster's ISTIO_MUTUAL gateway.

use ithildin_tests::{
    DataPlane, Identities, Lan, Load, Net, Spire,
    authority::Files,
    clusters::{Client, HTTPBIN, INGRESS, SLEEP, Server},
    curl, eventually,
};

use crate::support::{
    assert_refused, assert_told, certificate, certificates, received, scenario, showcerts,
};

scenario!(
    on_builtin,
    origination(Builtin, Builtin, Identities::shared_root)
);
scenario!(on_envoy, origination(Envoy, Envoy, Identities::shared_root));
scenario!(
    from_builtin_to_envoy,
    origination(Builtin, Envoy, Identities::shared_root)
);
scenario!(
    from_envoy_to_builtin,
    origination(Envoy, Builtin, Identities::shared_root)
);
scenario!(
    spire_on_builtin,
    origination(Builtin, Builtin, Identities::nested_by_spire)
);
scenario!(
    spire_on_envoy,
    origination(Envoy, Envoy, Identities::nested_by_spire)
);

fn origination(egress: DataPlane, ingress: DataPlane, identities: &Identities) {
    let lan = Lan::new();
    let server = Server::start(&lan, identities, "server", &HTTPBIN, ingress);
    let client = Client::start(&lan, identities, "client", egress);

    for (path, status) in [
        ("/status/200", 200),
        ("/status/418", 418),
        ("/delay/0", 200),
    ] {
        let answer = client.curl(path, &[]);
        assert_eq!((answer.exit, answer.status), (0, status), "{answer:?}");
        let server = answer.header("server").unwrap_or_default();
        assert!(["envoy", "istio-envoy"].contains(&server), "{answer:?}");
        let time = answer.header("x-envoy-upstream-service-time");
        assert!(
            time.is_some_and(|time| time.parse::<u64>().is_ok()),
            "{answer:?}"
        );
        let request = answer.echoed();
        assert_eq!(request["path"], path);
        assert_eq!(received(&request, "host"), "app.example.org:8000");
        assert_hops(received(&request, "x-forwarded-client-cert"));
    }
    // The gateway has no route for it, and no request leaves for a host that nobody has declared.
    assert_eq!(client.curl("/headers", &[]).status, 404);
    let other = curl::get(
        &client.sleep.net,
        "http://127.0.0.1:8000/status/200",
        &["-H", "host: other.example.org"],
    );
    assert_ne!((other.exit, other.status), (0, 200), "{other:?}");

    let outside = lan.host([10, 0, 2, 20].into(), &[]);
    let svid = identities.mint("client", &format!("spiffe://example.org{SLEEP}"));
    presented_chain(&outside, &svid);
    leaf_without_its_intermediate(&outside, &server, &svid);
    if let Identities::Spire { spire, .. } = identities {
        rotations(&client, spire, &outside, &svid);
    }
    // Envoy keeps a secret that its server has taken away.
    if egress == DataPlane::Builtin {
        without_identity(&client, identities);
    }
}

/// One element of the header for each mTLS hop: the gateway has seen sleep, httpbin's sidecar the gateway.
#[track_caller]
fn assert_hops(header: &str) {
    let ids = [SLEEP, INGRESS].map(|path| format!("URI=spiffe://example.org{path}"));
    let places = ids.map(|id| header.find(&id));
    assert!(
        matches!(places, [Some(sleep), Some(gateway)] if sleep < gateway),
        "{header}"
    );
}

/// Leaf, then `OU=DOWNSTREAM-1` with an RSA key, verified to the EC root.
fn presented_chain(outside: &Net, svid: &Files) {
    let shown = showcerts(outside, svid);
    assert!(shown.contains("Verify return code: 0 (ok)"), "{shown}");
    let chain = certificates(outside, &shown);
    assert!(chain.len() >= 2, "{shown}");
    let (leaf, intermediate) = (&chain[0], &chain[1]);
    assert!(
        leaf.contains(&format!("URI:spiffe://example.org{INGRESS}")),
        "{leaf}"
    );
    assert!(leaf.contains("CA:FALSE"), "{leaf}");
    assert!(leaf.contains("sha256WithRSAEncryption"), "{leaf}");
    assert!(intermediate.contains("OU = DOWNSTREAM-1"), "{intermediate}");
    assert!(intermediate.contains("CA:TRUE"), "{intermediate}");
    assert!(
        intermediate.contains("Public Key Algorithm: rsaEncryption")
            && intermediate.contains("Signature Algorithm: ecdsa-with-SHA"),
        "{intermediate}"
    );
}

/// The root does not know who signed it.
fn leaf_without_its_intermediate(outside: &Net, server: &Server, svid: &Files) {
    let chain = std::fs::read_to_string(&svid.chain).expect("it has just been written");
    let end = "-----END CERTIFICATE-----\n";
    let leaf = chain.find(end).map(|at| &chain[..at + end.len()]);
    let alone = outside.dir().join("leaf.pem");
    std::fs::write(&alone, leaf.expect("a chain has a leaf")).expect("the folder is writable");
    let mut certificate = certificate(svid);
    certificate.chain = &alone;
    let answer = server.knock(outside, "/status/200", certificate, &[]);
    assert_refused("a leaf without its intermediate", &answer);
    assert_told(
        &server.gateway,
        "fail_verify_error",
        &[SLEEP, "leads to no root in the bundle of example.org"],
    );
}

/// The downstream CA is new, then the root, and the downstream CA below it: no request fails.
fn rotations(client: &Client, spire: &Spire, outside: &Net, svid: &Files) {
    let net = &client.sleep.net;
    let load = Load::start(net, "127.0.0.1:8000", "app.example.org:8000", "/status/200");
    load.wait_beyond(0);
    let intermediate = || certificates(outside, &showcerts(outside, svid)).swap_remove(1);
    let rotate = || {
        let before = intermediate();
        spire.rotate_ca("server");
        eventually("the gateway presents the new downstream CA", || {
            let now = intermediate();
            if now == before { Err(now) } else { Ok(()) }
        });
    };
    rotate();
    spire.prepare_root("root");
    for cluster in ["server", "client"] {
        spire.wait_for_roots(cluster, 2);
    }
    spire.activate_root("root");
    rotate();
    let shown = showcerts(outside, svid);
    let tally = load.finish();
    println!(
        "{} requests, {} failed, slowest {:?}",
        tally.requests, tally.failed, tally.slowest
    );
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert!(shown.contains("OU = DOWNSTREAM-1"), "{shown}");
}

/// Once the identity is withdrawn nothing goes out any more; granted anew, it does.
fn without_identity(client: &Client, identities: &Identities) {
    identities.withdraw("client", &client.sleep.id);
    eventually("the withdrawn identity is not used", || {
        client.curl("/status/200", &[]).expect_status(503)
    });
    identities.workload("client", SLEEP);
    eventually("the identity that is granted anew is used", || {
        client.curl("/status/200", &[]).expect_status(200)
    });
}
