//! TLS that the mesh originates: by files and by Secrets, at the sidecar and at an egress gateway.

use std::fs;

use ithildin_tests::{
    Mesh, Net, Process,
    authority::Files,
    curl::Answer,
    eventually,
    pki::{Ca, Svid},
};
use serde_json::{Value, json};

use super::SLEEP;

/// Serves anybody.
const SIMPLE: u16 = 9443;
/// Serves clients of our CA.
const MUTUAL: u16 = 9444;
/// Where the sidecar's container has its files.
const FILES: &str = "/run/tls";

/// A host, its server's port, the `tls` of its DestinationRule, and what comes of a request.
type Row = (&'static str, u16, &'static str, u16);

const BY_FILES: &[Row] = &[
    ("ca", SIMPLE, "mode: SIMPLE, caCertificates: /run/tls/own/bundle.pem, sni: server.test", 200),
    ("other-ca", SIMPLE, "mode: SIMPLE, caCertificates: /run/tls/stranger/bundle.pem", 503),
    ("no-ca", SIMPLE, "mode: SIMPLE, sni: server.test", 503),
    ("no-check", SIMPLE, "mode: SIMPLE, insecureSkipVerify: true", 200),
    (
        "san",
        SIMPLE,
        "mode: SIMPLE, caCertificates: /run/tls/own/bundle.pem, subjectAltNames: [server.test]",
        200,
    ),
    (
        "other-san",
        SIMPLE,
        "mode: SIMPLE, caCertificates: /run/tls/own/bundle.pem, subjectAltNames: [other.test]",
        503,
    ),
    (
        "mutual",
        MUTUAL,
        "mode: MUTUAL, clientCertificate: /run/tls/own/svid.pem, privateKey: /run/tls/own/key.pem,
         caCertificates: /run/tls/own/bundle.pem, sni: server.test",
        200,
    ),
    (
        "stranger",
        MUTUAL,
        "mode: MUTUAL, clientCertificate: /run/tls/stranger/svid.pem, privateKey: /run/tls/stranger/key.pem,
         caCertificates: /run/tls/own/bundle.pem, sni: server.test",
        503,
    ),
    (
        "no-certificate",
        MUTUAL,
        "mode: SIMPLE, caCertificates: /run/tls/own/bundle.pem, sni: server.test",
        503,
    ),
    ("plain", SIMPLE, "mode: DISABLE", 503),
];

const BY_SECRETS: &[Row] = &[
    (
        "secret",
        MUTUAL,
        "mode: MUTUAL, credentialName: client, sni: server.test",
        200,
    ),
    (
        "split-secret",
        MUTUAL,
        "mode: MUTUAL, credentialName: split, sni: server.test",
        200,
    ),
    (
        "strange-secret",
        MUTUAL,
        "mode: MUTUAL, credentialName: stranger, sni: server.test",
        503,
    ),
    (
        "no-secret",
        MUTUAL,
        "mode: MUTUAL, credentialName: missing, sni: server.test",
        503,
    ),
    (
        "ca-secret",
        SIMPLE,
        "mode: SIMPLE, credentialName: roots, sni: server.test",
        200,
    ),
    (
        "ca-secret-only",
        MUTUAL,
        "mode: SIMPLE, credentialName: roots, sni: server.test",
        503,
    ),
    (
        "revoked",
        MUTUAL,
        "mode: MUTUAL, credentialName: revoked, sni: server.test",
        503,
    ),
    (
        "others-revoked",
        MUTUAL,
        "mode: MUTUAL, credentialName: others-revoked, sni: server.test",
        200,
    ),
];

/// Must be there before proxies ask for them.
pub(super) fn secrets(mesh: &Mesh, ca: &Ca) {
    let other = Ca::plain("other");
    let data = |leaf: &Svid, ca: &Ca| {
        let (chain, key) = (leaf.certificate.pem(), leaf.key.serialize_pem());
        json!({"tls.crt": chain, "tls.key": key, "ca.crt": ca.pem})
    };
    let client = data(&ca.server("client.test"), ca);
    let mut alone = client.clone();
    alone.as_object_mut().expect("it is one").remove("ca.crt");
    let with_list = |revoked: &[&Svid]| {
        let mut data = client.clone();
        data["ca.crl"] = ca.revoke(revoked).into();
        data
    };
    let unused = ca.server("unused.test");
    for namespace in ["default", "istio-system"] {
        for (name, data) in [
            ("client", &client),
            ("split", &alone),
            ("split-cacert", &json!({"ca.crt": ca.pem})),
            ("stranger", &data(&other.server("client.test"), &other)),
            ("roots-cacert", &json!({"ca.crt": ca.pem})),
            ("others-revoked", &with_list(&[&unused])),
        ] {
            put(mesh, namespace, name, data);
        }
    }
}

fn put(mesh: &Mesh, namespace: &str, name: &str, data: &Value) {
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "generic",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": data,
    });
    let file = format!("secret-{namespace}-{name}.json");
    mesh.istiod.apply(&file, &object.to_string());
}

pub(super) fn all(mesh: &Mesh, ca: &Ca, outside: &Net) {
    let own = ca.server("server.test");
    let mut client = json!({
        "ca.crt": ca.pem, "ca.crl": ca.revoke(&[&own]),
    });
    let certificate = ca.server("client.test");
    client["tls.crt"] = certificate.certificate.pem().into();
    client["tls.key"] = certificate.key.serialize_pem().into();
    put(mesh, "default", "revoked", &client);
    let files = own.write(outside.subdir("own"), ca);
    let _servers = [
        serve(outside, SIMPLE, &files),
        serve(outside, MUTUAL, &files),
    ];
    let folder = mesh.pod(SLEEP.name).net.subdir("run/tls");
    let other = Ca::plain("other");
    ca.server("client.test").write(folder.join("own"), ca);
    other
        .server("client.test")
        .write(folder.join("stranger"), &other);
    assert!(folder.ends_with(FILES.trim_start_matches('/')));

    let rows = || BY_FILES.iter().chain(BY_SECRETS);
    let objects: Vec<String> = rows().map(objects).collect();
    mesh.istiod
        .apply("origination.yaml", &objects.join("---\n"));
    for (host, _, tls, status) in rows() {
        let answer = eventually(host, || ask(mesh, host).expect_status(*status));
        if *status == 503 && *host != "no-secret" {
            assert!(
                answer.body.contains("upstream connect error"),
                "{tls}: {answer:?}"
            );
        }
    }
    rotated(mesh, ca, &other);
    at_the_gateway(mesh);
    mesh.istiod.delete("origination.yaml");
}

/// `openssl s_server`, whose page tells of the client.
fn serve(net: &Net, port: u16, files: &Files) -> Process {
    let mut command = net.command("openssl");
    command.args(["s_server", "-www", "-quiet", "-accept", &port.to_string()]);
    command
        .arg("-cert")
        .arg(&files.chain)
        .arg("-key")
        .arg(&files.key);
    if port == MUTUAL {
        command.args(["-Verify", "3", "-verify_return_error", "-CAfile"]);
        command.arg(&files.bundle);
    }
    net.spawn(&format!("server-{port}"), command)
}

fn objects((host, port, tls, _): &Row) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {host}, namespace: default}}
spec:
  hosts: [{host}.tls.test]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]
  endpoints: [{{address: 10.0.4.51}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {host}, namespace: default}}
spec:
  host: {host}.tls.test
  workloadSelector: {{matchLabels: {{app: sleep}}}}
  trafficPolicy:
    connectionPool: {{http: {{maxRequestsPerConnection: 1}}}}
    tls: {{{tls}}}
"
    )
}

fn ask(mesh: &Mesh, host: &str) -> Answer {
    mesh.curl(SLEEP.name, &format!("http://{host}.tls.test/"), &[])
}

/// Files that change are read again, and so are those that change back.
fn rotated(mesh: &Mesh, ca: &Ca, other: &Ca) {
    let folder = mesh.pod(SLEEP.name).net.subdir("run/tls").join("own");
    other.server("client.test").write(folder.clone(), other);
    eventually("files of another CA", || {
        ask(mesh, "mutual").expect_status(503)
    });
    ca.server("client.test").write(folder.clone(), ca);
    eventually("files of the right CA", || {
        ask(mesh, "mutual").expect_status(200)
    });
    fs::read(folder.join("svid.pem")).expect("it is there");
}

/// Plain HTTP of the application, mTLS of the mesh to the gateway, and TLS from there.
fn at_the_gateway(mesh: &Mesh) {
    const ROWS: &[Row] = &[
        (
            "through",
            MUTUAL,
            "mode: MUTUAL, credentialName: client, sni: server.test",
            200,
        ),
        (
            "through-simple",
            SIMPLE,
            "mode: SIMPLE, credentialName: roots, sni: server.test",
            200,
        ),
        (
            "through-stranger",
            MUTUAL,
            "mode: MUTUAL, credentialName: stranger, sni: server.test",
            503,
        ),
        (
            "through-nobody",
            MUTUAL,
            "mode: MUTUAL, credentialName: missing, sni: server.test",
            503,
        ),
        (
            "through-list",
            MUTUAL,
            "mode: MUTUAL, credentialName: others-revoked, sni: server.test",
            200,
        ),
    ];
    let objects: Vec<String> = ROWS
        .iter()
        .map(|row| {
            let host = row.0;
            let entry = objects(row)
                .replace("workloadSelector: {matchLabels: {app: sleep}}", "exportTo: [\"*\"]")
                .replace("namespace: default", "namespace: istio-system");
            format!(
                "{entry}---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {host}, namespace: istio-system}}
spec:
  hosts: [{host}.tls.test]
  gateways: [mesh, istio-system/egress]
  http:
  - match: [{{gateways: [mesh], port: 80}}]
    route: [{{destination: {{host: istio-egressgateway.istio-system.svc.cluster.local, port: {{number: 8443}}}}}}]
  - match: [{{gateways: [istio-system/egress], port: 8443}}]
    headers: {{response: {{set: {{x-through: gateway}}}}}}
    route: [{{destination: {{host: {host}.tls.test, port: {{number: 80}}}}}}]
"
            )
        })
        .collect();
    mesh.istiod.apply("through.yaml", &objects.join("---\n"));
    for (host, _, tls, status) in ROWS {
        let answer = eventually(host, || ask(mesh, host).expect_status(*status));
        let through = answer.header("x-through");
        assert!(
            *status != 200 || through == Some("gateway"),
            "{tls}: {answer:?}"
        );
    }
    mesh.istiod.delete("through.yaml");
}
