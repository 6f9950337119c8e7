//! Several certificates of one server: the same clients are shown the same ones as by a real Envoy with the
//! same file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, SignatureAlgorithm,
};
use serde_json::{Value, json};

use crate::{admin::fetch, envoy::Envoy, support::Bench};

const RSA: &SignatureAlgorithm = &PKCS_RSA_SHA256;
const P256: &SignatureAlgorithm = &PKCS_ECDSA_P256_SHA256;
const P384: &SignatureAlgorithm = &PKCS_ECDSA_P384_SHA384;

/// A common name, by which a certificate is known here, its key and its DNS names.
type Certificate = (
    &'static str,
    &'static SignatureAlgorithm,
    &'static [&'static str],
);

const CERTIFICATES: &[Certificate] = &[
    ("first", P256, &["first.test", "both.test"]),
    ("both", RSA, &["both.test"]),
    ("star", RSA, &["*.star.test", "star.test"]),
    ("below-star", P256, &["below.star.test"]),
    ("ec-star", P256, &["*.ec.test"]),
    ("below-ec-star", RSA, &["below.ec.test"]),
    ("larger", P384, &["larger.test"]),
    ("again", P256, &["both.test", "again.test"]),
    // Known by its subject alone.
    ("common.test", P256, &[]),
];

const NAMES: &[&str] = &[
    "",
    "first.test",
    "both.test",
    "again.test",
    "star.test",
    "a.star.test",
    "below.star.test",
    "a.below.star.test",
    "a.ec.test",
    "below.ec.test",
    "ec.test",
    "larger.test",
    "common.test",
    "first",
    "unknown.test",
    "test",
];

/// What openssl is told of the client's abilities.
const CLIENTS: &[&[&str]] = &[
    &[],
    &["-sigalgs", "RSA-PSS+SHA256:RSA+SHA256"],
    &["-sigalgs", "ECDSA+SHA256"],
    &["-sigalgs", "ECDSA+SHA256:RSA-PSS+SHA256"],
    &["-tls1_2"],
    &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"],
    &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
];

#[tokio::test]
async fn several_certificates_are_shown_as_by_envoy() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED several_certificates_are_shown_as_by_envoy: ENVOY_BIN is not set");
        return;
    };
    let yaml = include_str!("certificates.yaml").replace("CERTIFICATES", &certificates());
    let ours = Bench::start(&yaml).await;
    let envoy = Envoy::start(&binary, &yaml, 2).await;
    let mut differences = Vec::new();
    for listener in ["strict", "scanning"] {
        for client in CLIENTS {
            for name in NAMES {
                let expected = shown(envoy.address(listener), name, client).await;
                let found = shown(ours.address(listener), name, client).await;
                if expected != found {
                    differences.push(format!(
                        "{listener} {client:?} {name:?}: {expected:?} of Envoy, ours {found:?}"
                    ));
                }
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    let admin = ours.proxy.admin_address().unwrap();
    assert_eq!(told(admin).await, told(envoy.admin).await);
}

/// In YAML, which is JSON here.
fn certificates() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::OrganizationName, "issuer");
    let issuer = Issuer::new(params, KeyPair::generate().unwrap());
    let certificate = |(common_name, algorithm, names): &Certificate| {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, *common_name);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap();
        json!({
            "certificate_chain": {"inline_string": leaf.pem()},
            "private_key": {"inline_string": key.serialize_pem()},
        })
    };
    Value::from_iter(CERTIFICATES.iter().map(certificate)).to_string()
}

/// The common name of what a client is shown, if the handshake comes to that.
async fn shown(address: SocketAddr, name: &str, client: &'static [&'static str]) -> Option<String> {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-connect", &address.to_string()])
        // Each release of openssl prints names in another way, unless it is told how.
        .args(["-nameopt", "RFC2253"])
        .args(client)
        .stdin(Stdio::null());
    match name {
        "" => command.arg("-noservername"),
        name => command.args(["-servername", name]),
    };
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("CONNECTED"), "{text}");
    let subject = text.lines().find(|line| line.starts_with("subject="))?;
    let (_, name) = subject.split_once("CN=").unwrap();
    Some(name.split(',').next().unwrap_or(name).to_owned())
}

/// The serial numbers at `/certs`, of each context.
async fn told(admin: SocketAddr) -> Vec<Vec<Value>> {
    let (_, page) = fetch(admin, "GET", "/certs").await;
    let page: Value = serde_json::from_str(&page).unwrap();
    let contexts = page["certificates"].as_array().unwrap().iter();
    contexts
        .map(|context| {
            let chain = context["cert_chain"].as_array().unwrap();
            let serials = chain.iter().map(|it| it["serial_number"].clone());
            serials.collect()
        })
        .collect()
}
