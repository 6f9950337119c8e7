//! Where a Sidecar says that a proxy listens, for whom by TLS, and where its application is.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::Stdio,
};

use ithildin_tests::{
    Mesh, Net,
    curl::{self, Answer, ClientCertificate},
    eventually,
    mesh::talk,
    pki::Ca,
};

use super::{SLEEP, WEB};
use crate::support::{assert_refused, callers};

const OBJECTS: &str = "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: web, namespace: default}
spec:
  workloadSelector: {labels: {app: web}}
  egress: [{hosts: ['./*']}]
  ingress:
  - {port: {number: 8080, name: http, protocol: HTTP}, defaultEndpoint: '127.0.0.1:8080'}
  - {port: {number: 8082, name: http-socket, protocol: HTTP}, defaultEndpoint: 'unix:///run/app.sock'}
  - {port: {number: 9000, name: tcp, protocol: TCP}, defaultEndpoint: '127.0.0.1:9000'}
  - port: {number: 8443, name: https-simple, protocol: HTTPS}
    defaultEndpoint: '127.0.0.1:8080'
    tls: {mode: SIMPLE, serverCertificate: /run/tls/svid.pem, privateKey: /run/tls/key.pem}
  - port: {number: 8444, name: https-mutual, protocol: HTTPS}
    defaultEndpoint: 'unix:///run/app.sock'
    tls:
      mode: MUTUAL
      serverCertificate: /run/tls/svid.pem
      privateKey: /run/tls/key.pem
      caCertificates: /run/tls/bundle.pem
  - port: {number: 8445, name: tls, protocol: TLS}
    defaultEndpoint: '127.0.0.1:9001'
    tls: {mode: SIMPLE, serverCertificate: /run/tls/svid.pem, privateKey: /run/tls/key.pem}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default, labels: {app: web}}
spec:
  clusterIP: 10.96.8.1
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: http-socket, port: 82, targetPort: 8082}
  - {name: tcp, port: 90, targetPort: 9000}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: web, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  mtls: {mode: STRICT}
  portLevelMtls:
    8443: {mode: DISABLE}
    8444: {mode: DISABLE}
    8445: {mode: DISABLE}
";

pub(super) fn all(mesh: &Mesh, ca: &Ca, outside: &Net) {
    let folder = mesh.pod(WEB.name).net.subdir("run/tls");
    ca.server("server.test").write(folder.clone(), ca);
    let _socket = mesh
        .pod(WEB.name)
        .peer("socket", &["serve", "/run/app.sock"]);
    mesh.istiod.apply("ingress.yaml", OBJECTS);
    by_the_mesh(mesh);
    by_tls(ca, outside);
    let other = Ca::plain("other");
    other.server("server.test").write(folder, &other);
    let client = other
        .server("client.test")
        .write(outside.subdir("new"), &other);
    eventually("the new CA", || {
        ask(outside, 8444, Some((&client.chain, &client.key))).expect_status(200)
    });
    mesh.istiod.delete("ingress.yaml");
}

fn by_the_mesh(mesh: &Mesh) {
    let id = mesh.pod(SLEEP.name).id.clone();
    for (url, address) in [
        ("http://web/get", Some("127.0.0.1")),
        ("http://web:82/get", None),
    ] {
        eventually(url, || {
            let answer = mesh.curl(SLEEP.name, url, &[]).expect_status(200)?;
            let request = answer.echoed();
            let found = request["address"].as_str() == address;
            (found && callers(&request) == [id.clone()])
                .then_some(())
                .ok_or(answer)
        });
    }
    let greeting = format!("<220 {}", WEB.name);
    let steps = [&*greeting, ">hello", "<hello"];
    eventually("TCP", || mesh.pod(SLEEP.name).talk("web:90", &steps));
}

/// Whoever is not of the mesh.
fn by_tls(ca: &Ca, outside: &Net) {
    let answer = eventually("SIMPLE", || ask(outside, 8443, None).expect_status(200));
    assert_eq!(answer.address(), "127.0.0.1");
    let client = ca.server("client.test").write(outside.subdir("client"), ca);
    let client = Some((&*client.chain, &*client.key));
    let answer = eventually("MUTUAL", || ask(outside, 8444, client).expect_status(200));
    let request = answer.echoed();
    assert!(request["address"].is_null(), "{request}");
    let told = request["headers"]["x-forwarded-client-cert"].as_str();
    assert!(
        told.is_some_and(|it| it.contains("DNS=client.test")),
        "{request}"
    );
    let stranger = Ca::plain("stranger");
    let stranger = stranger
        .server("client.test")
        .write(outside.subdir("stranger"), &stranger);
    assert_refused("nobody", &ask(outside, 8444, None));
    let stranger = Some((&*stranger.chain, &*stranger.key));
    assert_refused("a stranger", &ask(outside, 8444, stranger));
    // Plain text is nothing that they take.
    for port in [8443, 8444] {
        let url = format!("http://10.0.4.2:{port}/get");
        assert_refused("plain text", &curl::get(outside, &url, &[]));
    }
    assert!(talk(outside, "10.0.4.2:8445", &[">hello\r\n", "<hello"]).is_err());
    assert_eq!(said_over_tls(outside, "10.0.4.2:8445", "hello"), "hello");
}

/// What a server without HTTP says back.
fn said_over_tls(outside: &Net, to: &str, text: &str) -> String {
    // It would wait for an answer for ever.
    let mut command = outside.command("timeout");
    command
        .args(["10", "openssl", "s_client", "-quiet", "-connect", to])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut client = command.spawn().expect("openssl starts");
    let mut stdin = client.stdin.take().expect("it is piped");
    let _ = stdin.write_all(format!("{text}\r\n").as_bytes());
    let mut line = String::new();
    let stdout = client.stdout.take().expect("it is piped");
    let _ = BufReader::new(stdout).read_line(&mut line);
    drop(stdin);
    let _ = client.kill();
    let _ = client.wait();
    line.trim().to_owned()
}

fn ask(outside: &Net, port: u16, client: Option<(&Path, &Path)>) -> Answer {
    let url = format!("https://10.0.4.2:{port}/get");
    match client {
        None => curl::get(outside, &url, &[]),
        Some((chain, key)) => curl::get_mtls(outside, &url, ClientCertificate { chain, key }, &[]),
    }
}
