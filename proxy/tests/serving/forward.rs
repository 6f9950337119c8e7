//! Dynamic forward proxies: the same requests to this proxy and to a real Envoy with the same file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair};

use crate::{
    like_envoy::{Case, compare_answers, origin},
    support::{Bench, dead_address, exchange},
};

/// An HTTPS server whose certificate is for `localhost`.
struct Secure {
    server: Child,
    port: u16,
    /// What vouches for it, in PEM.
    authority: String,
    _folder: tempfile::TempDir,
}

impl Secure {
    fn start() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        // A leaf by the issuer's own name would count as self-signed.
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("leaf.pem", leaf.pem()),
            ("key.pem", key.serialize_pem()),
            ("a", "the page\n".to_owned()),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let mut server = Command::new("openssl")
            .args(["s_server", "-WWW", "-accept", "127.0.0.1:0"])
            .args(["-cert", "leaf.pem", "-key", "key.pem"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let told = lines.find_map(|line| Some(line.ok()?.strip_prefix("ACCEPT ")?.to_owned()));
        let address = told.unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            port: address.rsplit_once(':').unwrap().1.parse().unwrap(),
            server,
            authority,
            _folder: folder,
        }
    }

    fn yaml(&self) -> String {
        let authority = serde_json::to_string(&self.authority).unwrap();
        include_str!("forward.yaml").replace("AUTHORITY", &authority)
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn request(host: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn names_of_requests_lead_where_envoy_s_lead() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED names_of_requests_lead_where_envoy_s_lead: ENVOY_BIN is not set");
        return;
    };
    let secure = Secure::start();
    let tls = secure.port;
    let (origin, dead) = (origin().port(), dead_address().port());
    let hosts = [
        ("many", format!("localhost:{origin}")),
        ("many", format!("LocalHost:{origin}")),
        ("many", format!("127.0.0.1:{origin}")),
        // The same name, at another port.
        ("many", format!("localhost:{dead}")),
        ("many", "nobody.invalid:80".into()),
        ("few", format!("localhost:{origin}")),
        ("few", format!("127.0.0.1:{origin}")),
        ("none", format!("localhost:{origin}")),
        ("secure", format!("localhost:{tls}")),
        // Its certificate does not say so.
        ("secure", format!("127.0.0.1:{tls}")),
    ];
    let cases: Vec<Case> = hosts
        .iter()
        .map(|(listener, host)| (*listener, request(host)))
        .collect();
    let (ours, _envoy) = compare_answers(&binary, &secure.yaml(), &cases).await;
    let page = exchange(
        ours.address("secure"),
        &request(&format!("localhost:{tls}")),
    )
    .await;
    assert!(page.contains("the page"), "{page}");
}

#[tokio::test]
async fn a_name_without_addresses_is_told_of() {
    let ours = Bench::start(&Secure::start().yaml()).await;
    let long = "a.".repeat(200);
    for host in ["nobody.invalid", &long, "..", "a b"] {
        let answer = exchange(ours.address("many"), &request(host)).await;
        let status = answer.split(' ').nth(1);
        assert!(matches!(status, Some("503" | "400")), "{host}: {answer}");
    }
}
