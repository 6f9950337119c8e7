//! Two clusters in one trust domain whose SPIRE servers share a CA from disk: Bookinfo's front page
//! behind an ISTIO_MUTUAL gateway.

use ithildin_tests::{
    DataPlane, Identities, Lan,
    clusters::{GATEWAY, INGRESS, PRODUCTPAGE, SLEEP, Server},
    curl,
};

use crate::support::{
    assert_refused, assert_told, certificate, certificates, received, scenario, showcerts,
};

scenario!(
    on_builtin,
    bookinfo(Builtin, Builtin, Identities::shared_root)
);
scenario!(on_envoy, bookinfo(Envoy, Envoy, Identities::shared_root));
scenario!(
    spire_on_builtin,
    bookinfo(Builtin, Builtin, Identities::shared_disk_by_spire)
);
scenario!(
    spire_on_envoy,
    bookinfo(Envoy, Envoy, Identities::shared_disk_by_spire)
);

fn bookinfo(_: DataPlane, data_plane: DataPlane, identities: &Identities) {
    let lan = Lan::new();
    let server = Server::start(&lan, identities, "server", &PRODUCTPAGE, data_plane);
    let outside = lan.host([10, 0, 2, 20].into(), &[]);
    let svid = identities.mint("client", &format!("spiffe://example.org{SLEEP}"));
    let get = |path: &str| server.knock(&outside, path, certificate(&svid), &[]);

    for path in [
        "/productpage",
        "/static/bootstrap/css/bootstrap.min.css",
        "/login",
        "/logout",
        "/api/v1/products/0/reviews",
    ] {
        let answer = get(path);
        assert_eq!((answer.exit, answer.status), (0, 200), "{path}: {answer:?}");
        let request = answer.echoed();
        assert_eq!(request["path"], path);
        // The gateway's own identity is what productpage's proxy has seen.
        let peers = received(&request, "x-forwarded-client-cert");
        let gateway = format!("URI=spiffe://example.org{INGRESS}");
        assert!(peers.contains(&gateway), "{path}: {peers}");
    }
    for path in ["/", "/productpage/0", "/loginx", "/api/v2", "/status/200"] {
        let answer = get(path);
        assert_eq!((answer.exit, answer.status), (0, 404), "{path}: {answer:?}");
    }

    let url = format!("https://{GATEWAY}/productpage");
    assert_refused("no certificate", &curl::get(&outside, &url, &[]));
    assert_told(
        &server.gateway,
        "fail_verify_no_cert",
        &["the peer sent no certificate", "rule=no_certificate"],
    );
    let elsewhere_id = "spiffe://elsewhere.test/ns/default/sa/sleep";
    let elsewhere = identities.mint("elsewhere", elsewhere_id);
    let answer = server.knock(&outside, "/productpage", certificate(&elsewhere), &[]);
    assert_refused("a certificate from elsewhere", &answer);
    assert_told(
        &server.gateway,
        "fail_verify_error",
        &[
            elsewhere_id,
            "no bundle for its trust domain elsewhere.test",
        ],
    );
    let url = format!("http://{GATEWAY}/productpage");
    let plain = curl::get(&outside, &url, &[]);
    assert_ne!(
        (plain.exit, plain.status),
        (0, 200),
        "plain HTTP: {plain:?}"
    );
    // Whoever passes by the gateway needs a certificate of the mesh, too.
    let direct = curl::get(&outside, "http://10.0.1.10:9080/productpage", &[]);
    assert_ne!((direct.exit, direct.status), (0, 200), "direct: {direct:?}");

    let shown = showcerts(&outside, &svid);
    assert!(shown.contains("Verify return code: 0 (ok)"), "{shown}");
    let chain = certificates(&outside, &shown);
    assert!(chain.len() >= 2, "{shown}");
    assert!(
        chain[0].contains(&format!("URI:spiffe://example.org{INGRESS}")),
        "{}",
        chain[0]
    );
    assert!(chain[1].contains("CA:TRUE"), "{}", chain[1]);
    assert_eq!(get("/productpage").status, 200, "after all refusals");
}
