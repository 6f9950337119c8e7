//! Hosts that are resolved as they are asked for.

use ithildin_tests::{Mesh, Net, eventually, pki::Ca};

use super::{ONE, SLEEP, TWO, WEB, wildcards};
use crate::support::read;

const RULE: &str = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: dynamic, namespace: default}
spec:
  host: '*.dyn.test'
  workloadSelector: {matchLabels: {app: sleep}}
  trafficPolicy:
    portLevelSettings:
    - port: {number: 9443}
      tls: {mode: SIMPLE, caCertificates: /run/tls/bundle.pem}
";
/// Of the ServiceEntry.
const ADDRESS: &str = "10.96.9.50";

pub(super) fn all(mesh: &Mesh, ca: &Ca, outside: &[Net; 2]) {
    let _servers = wildcards::servers(ca, outside);
    for (name, address, server) in [("a.dyn.test", ONE, "one"), ("b.dyn.test", TWO, "two")] {
        let to = format!("{name}:8080:{ADDRESS}:8080");
        let url = format!("http://{name}:8080/get");
        let ask = || mesh.curl(SLEEP.name, &url, &["--connect-to", &to]);
        let answer = eventually(&url, || ask().expect_status(200));
        assert_eq!(answer.address(), address, "{url}");
        // By the SNI of the application's own TLS.
        let to = format!("{name}:443:{ADDRESS}:443");
        let url = format!("https://{name}/");
        let ask = || mesh.curl(SLEEP.name, &url, &["--connect-to", &to]);
        let answer = eventually(&url, || ask().expect_status(200));
        let file = format!("/{server}/svid.pem");
        assert!(answer.body.contains(&file), "{url}: {answer:?}");
    }
    let to = format!("nobody.dyn.test:8080:{ADDRESS}:8080");
    let url = "http://nobody.dyn.test:8080/get";
    let answer = mesh.curl(SLEEP.name, url, &["--connect-to", &to]);
    assert_eq!(answer.status, 503, "{answer:?}");
    originated(mesh, ca, outside);
    whoever(mesh);
}

/// TLS that the sidecar originates is for the host that was asked for.
fn originated(mesh: &Mesh, ca: &Ca, outside: &[Net; 2]) {
    let folder = mesh.pod(SLEEP.name).net.subdir("run/tls");
    ca.server("client.test").write(folder, ca);
    let _servers = [&outside[0], &outside[1]].map(|net| {
        let files = ca.server("a.dyn.test").write(net.subdir("originated"), ca);
        wildcards::serve(net, 9443, &files)
    });
    mesh.istiod.apply("originated.yaml", RULE);
    for (name, status) in [("a.dyn.test", 200), ("b.dyn.test", 503)] {
        let to = format!("{name}:9443:{ADDRESS}:9443");
        let url = format!("http://{name}:9443/");
        let ask = || mesh.curl(SLEEP.name, &url, &["--connect-to", &to]);
        let answer = eventually(&url, || ask().expect_status(status));
        let told = answer.body.contains("/originated/svid.pem");
        assert_eq!(told, status == 200, "{url}: {answer:?}");
    }
    mesh.istiod.delete("originated.yaml");
}

/// A mesh whose proxies resolve every host that is asked for, whatever its address was.
fn whoever(mesh: &Mesh) {
    let usual = read("mesh.yaml");
    let policy = "    outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}\n    accessLogFile:";
    let open = usual.replacen("    accessLogFile:", policy, 1);
    assert_ne!(open, usual);
    mesh.istiod.apply("mesh.yaml", &open);
    let url = "http://one.free.test:8080/get";
    let to = "one.free.test:8080:10.96.9.77:8080";
    let answer = eventually(url, || {
        mesh.curl(WEB.name, url, &["--connect-to", to])
            .expect_status(200)
    });
    assert_eq!(answer.address(), ONE);
    let url = "http://db-1.db.data:8080/get";
    let answer = eventually(url, || mesh.curl(WEB.name, url, &[]).expect_status(200));
    assert_eq!(
        answer.address(),
        "10.0.4.4",
        "what is registered is where it was"
    );
    mesh.istiod.apply("mesh.yaml", &usual);
}
