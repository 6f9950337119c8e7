//! Messages of the Workload API that are wrong, while a gateway serves with the last good one.

use std::{fs, path::Path};

use ithildin_proto::workload::{X509svid, X509svidResponse};
use ithildin_tests::{
    DataPlane, Identities, Lan, Load,
    agent::Identity,
    authority::Files,
    clusters::{Client, HTTPBIN, INGRESS, Server},
    eventually, peers,
    workload_api::{ScriptedWorkloadApi, Word},
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use tonic::{Code, Status};

use crate::{Case, case, finish, wait_for_words};

#[test]
fn on_builtin() {
    messages(DataPlane::Builtin);
}

#[test]
fn on_envoy() {
    if peers::envoy("workload_api::on_envoy").is_some() {
        messages(DataPlane::Envoy);
    }
}

fn messages(data_plane: DataPlane) {
    let identities = Identities::federated("").expect("the authority is our own");
    let gateway = format!("spiffe://example.org{INGRESS}");
    let good = message(
        &identities,
        &identities.mint("example.org", &gateway),
        &gateway,
    );
    let folder = tempfile::tempdir().expect("a scratch folder can be made");
    let socket = folder.path().join("agent.sock");
    let api = ScriptedWorkloadApi::start(&socket, Ok(good.clone()));
    let identity = Identity {
        trust_domain: "example.org".to_owned(),
        socket,
        svid: None,
    };
    let lan = Lan::new();
    let who = (gateway.clone(), identity);
    let mut server =
        Server::start_with(&lan, &identities, "example.org", &HTTPBIN, data_plane, who);
    let client = Client::start(&lan, &identities, "domain.test", DataPlane::Builtin);
    let net = &client.sleep.net;
    let load = Load::start(net, "127.0.0.1:8000", "app.example.org:8000", "/status/200");
    load.wait_beyond(0);
    let cases = cases(&identities, &good, &gateway);
    let mut untold = Vec::new();
    for Case { name, bad, told } in &cases {
        let before = server.gateway.log().len();
        let ends = bad.is_err();
        api.say(bad.clone());
        untold.extend(wait_for_words(name, told, before, || server.gateway.log()));
        if ends {
            api.say(Ok(good.clone()));
            api.wait_heard();
        }
        load.wait_beyond(load.sent());
    }
    // After all of it, the next good one is taken.
    let renewed = identities.mint("example.org", &gateway);
    let presented = || {
        let gateway = &server.gateway;
        gateway.agent.admin(&gateway.net, "/certs").body
    };
    let before = presented();
    api.say(Ok(message(&identities, &renewed, &gateway)));
    eventually("the renewed SVID is presented", || {
        let now = presented();
        if now != before { Ok(()) } else { Err(now) }
    });
    finish(load, cases.len(), &untold, data_plane.as_str());
    assert!(server.gateway.agent.process.is_running());
    let log = server.gateway.log();
    assert!(
        !log.contains("panicked") && !log.contains("PRIVATE KEY"),
        "{log}"
    );
}

/// The answer of `FetchX509SVID` for these files, with domain.test as a federated domain.
fn message(identities: &Identities, files: &Files, id: &str) -> X509svidResponse {
    let Identities::Authority(authority) = identities else {
        panic!("the authority is what we asked for");
    };
    let federated = certificates(authority.bundle("domain.test").as_bytes());
    X509svidResponse {
        svids: vec![X509svid {
            spiffe_id: id.to_owned(),
            x509_svid: certificates(&read(&files.chain)),
            x509_svid_key: key(&files.key),
            bundle: certificates(authority.bundle("example.org").as_bytes()),
            hint: String::new(),
        }],
        crl: Vec::new(),
        federated_bundles: [("spiffe://domain.test".to_owned(), federated)].into(),
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("the authority has written it")
}

/// PEM to concatenated DER.
fn certificates(pem: &[u8]) -> Vec<u8> {
    CertificateDer::pem_slice_iter(pem)
        .flat_map(|certificate| certificate.expect("the authority writes PEM").to_vec())
        .collect()
}

fn key(path: &Path) -> Vec<u8> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(&read(path));
    key.expect("the authority writes PKCS#8")
        .secret_pkcs8_der()
        .to_vec()
}

const REFUSED: &str = "refused a message of the Workload API";
const BROKE: &str = "nothing comes from the Workload API";

fn cases(identities: &Identities, good: &X509svidResponse, id: &str) -> Vec<Case<Word>> {
    let mut cases = fields(good);
    cases.extend(forged(identities, id));
    cases.extend(ends());
    cases
}

/// One field is wrong.
fn fields(good: &X509svidResponse) -> Vec<Case<Word>> {
    let with = |change: &dyn Fn(&mut X509svidResponse)| {
        let mut bad = good.clone();
        change(&mut bad);
        Ok(bad)
    };
    let svid = |change: &dyn Fn(&mut X509svid)| with(&|bad| change(&mut bad.svids[0]));
    vec![
        case(
            "no SVID",
            with(&|bad| bad.svids.clear()),
            &[REFUSED, "svids", "is empty"],
        ),
        case(
            "no ID",
            svid(&|s| s.spiffe_id.clear()),
            &[REFUSED, "svids[0].spiffe_id"],
        ),
        case(
            "a URL",
            svid(&|s| s.spiffe_id = "https://example.org/a".into()),
            &[REFUSED, "svids[0].spiffe_id", "https://example.org/a"],
        ),
        case(
            "another ID",
            svid(&|s| s.spiffe_id = "spiffe://example.org/other".into()),
            &[REFUSED, "svids[0].spiffe_id", "but the leaf carries"],
        ),
        case(
            "an ID in upper case",
            svid(&|s| s.spiffe_id = "spiffe://EXAMPLE.org/a".into()),
            &[REFUSED, "svids[0].spiffe_id"],
        ),
        case(
            "an ID with dots",
            svid(&|s| s.spiffe_id = "spiffe://example.org/../a".into()),
            &[REFUSED, "svids[0].spiffe_id", "'..'"],
        ),
        case(
            "no chain",
            svid(&|s| s.x509_svid.clear()),
            &[REFUSED, "svids[0].x509_svid"],
        ),
        case(
            "a chain of rubbish",
            svid(&|s| s.x509_svid = b"rubbish".to_vec()),
            &[REFUSED, "svids[0].x509_svid"],
        ),
        case(
            "a chain that is cut off",
            svid(&|s| {
                s.x509_svid.pop();
            }),
            &[REFUSED, "svids[0].x509_svid"],
        ),
        case(
            "rubbish behind the chain",
            svid(&|s| s.x509_svid.extend(b"rubbish")),
            &[REFUSED, "svids[0].x509_svid"],
        ),
        case(
            "PEM for a chain",
            svid(&|s| s.x509_svid = b"-----BEGIN CERTIFICATE-----\n".to_vec()),
            &[REFUSED, "svids[0].x509_svid"],
        ),
        case(
            "the bundle as the chain",
            svid(&|s| s.x509_svid.clone_from(&s.bundle)),
            &[REFUSED, "svids[0].x509_svid"],
        ),
        case(
            "no key",
            svid(&|s| s.x509_svid_key.clear()),
            &[REFUSED, "svids[0].x509_svid_key", "is empty"],
        ),
        case(
            "a key of rubbish",
            svid(&|s| s.x509_svid_key = b"rubbish".to_vec()),
            &[REFUSED, "svids[0].x509_svid"],
        ),
        case(
            "a key that is cut off",
            svid(&|s| {
                s.x509_svid_key.pop();
            }),
            &[REFUSED, "svids[0].x509_svid"],
        ),
        case(
            "no bundle",
            svid(&|s| s.bundle.clear()),
            &[REFUSED, "svids[0].bundle", "is empty"],
        ),
        case(
            "a bundle of rubbish",
            svid(&|s| s.bundle = b"rubbish".to_vec()),
            &[REFUSED, "svids[0].bundle"],
        ),
        case(
            "a bundle that is cut off",
            svid(&|s| {
                s.bundle.pop();
            }),
            &[REFUSED, "svids[0].bundle"],
        ),
        case(
            "a long hint",
            svid(&|s| s.hint = "x".repeat(1025)),
            &[REFUSED, "svids[0].hint", "longer than 1024"],
        ),
        case(
            "300 SVIDs",
            with(&|bad| bad.svids = vec![bad.svids[0].clone(); 300]),
            &[REFUSED, "svids", "300 entries"],
        ),
        case(
            "a federated domain that is none",
            with(&|bad| {
                bad.federated_bundles
                    .insert("spiffe://a b".into(), Vec::new());
            }),
            &[REFUSED, "federated_bundles", "a b"],
        ),
        case(
            "a federated bundle of rubbish",
            with(&|bad| {
                bad.federated_bundles
                    .insert("spiffe://other.test".into(), b"rubbish".to_vec());
            }),
            &[REFUSED, "federated_bundles", "other.test"],
        ),
        case(
            "a CRL of rubbish",
            with(&|bad| bad.crl = vec![b"rubbish".to_vec()]),
            &[REFUSED, "crl[0]"],
        ),
        case(
            "two bundles for one domain",
            with(&|bad| {
                let mut second = bad.svids[0].clone();
                second
                    .bundle
                    .clone_from(&bad.federated_bundles["spiffe://domain.test"]);
                bad.svids.push(second);
            }),
            &[
                REFUSED,
                "svids[1].bundle",
                "differs from that of another SVID",
            ],
        ),
    ]
}

/// The certificate is wrong; chain and key fit.
fn forged(identities: &Identities, id: &str) -> Vec<Case<Word>> {
    [
        ("two-uri-sans", "2 URI SANs"),
        ("no-uri-san", "no URI SAN"),
        ("ca-as-leaf", "CA certificate"),
        ("key-cert-sign", "keyCertSign"),
        ("crl-sign", "cRLSign"),
        ("no-key-usage", "no key usage"),
        ("no-digital-signature", "digitalSignature"),
        ("dot-segment", "'..'"),
        ("no-path", "without a path"),
    ]
    .into_iter()
    .map(|(name, reason)| {
        let files = identities.forge("example.org", id, name);
        let files = files.expect("the authority forges all");
        let bad = message(identities, &files, id);
        case(name, Ok(bad), &[REFUSED, "svids[0]", reason])
    })
    .collect()
}

/// The stream ends instead.
fn ends() -> Vec<Case<Word>> {
    [
        ("unavailable", Code::Unavailable, "Unavailable"),
        ("internal", Code::Internal, "Internal"),
        ("aborted", Code::Aborted, "Aborted"),
        ("unknown", Code::Unknown, "Unknown"),
        (
            "resource exhausted",
            Code::ResourceExhausted,
            "ResourceExhausted",
        ),
    ]
    .into_iter()
    .map(|(name, code, told)| {
        let end = Status::new(code, format!("the test says {name}"));
        case(name, Err(end), &[BROKE, told, "the test says"])
    })
    .collect()
}
