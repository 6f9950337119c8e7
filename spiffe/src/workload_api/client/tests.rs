use std::sync::Arc;

use ithildin_proto::workload::{
    JwtBundlesResponse, Jwtsvid, JwtsvidResponse, X509BundlesResponse, X509svid, X509svidResponse,
};
use proptest::prelude::*;

use super::decode;
use crate::{
    Caller, Provider, TrustDomain,
    authority::{
        Authority, AuthorityConfig, KeyType, TrustDomainConfig, WorkloadConfig, forge::Forgery,
    },
    workload_api::{EndpointError, WorkloadEndpoint, server::x509_svid_response},
};

/// An authority of two federated domains whose `domain.test` has two workloads with hints.
fn authority() -> Authority {
    let td = |name| TrustDomain::parse(name).unwrap();
    let mut ours = TrustDomainConfig::new(td("domain.test"));
    ours.intermediate = Some(KeyType::EcP256);
    for name in ["a", "b"] {
        let id = format!("spiffe://domain.test/{name}").parse().unwrap();
        let mut workload = WorkloadConfig::new(id);
        workload.hint = Some(name.to_owned());
        ours.workloads.push(workload);
    }
    Authority::start(AuthorityConfig {
        trust_domains: vec![ours, TrustDomainConfig::new(td("example.org"))],
        federation: vec![(td("domain.test"), td("example.org"))],
    })
    .unwrap()
}

fn message(authority: &Authority) -> X509svidResponse {
    let agent = authority.agent("domain.test").unwrap();
    let states = agent.identities(&Caller::default());
    let state = states.borrow();
    x509_svid_response(state.snapshot().unwrap())
}

#[tokio::test]
async fn a_good_message_is_taken_whole_and_unchanged_parts_are_shared() {
    let authority = authority();
    let first = decode::identities(message(&authority), None).unwrap();
    let ids: Vec<_> = first.svids.iter().map(|svid| svid.id.as_str()).collect();
    assert_eq!(ids, ["spiffe://domain.test/a", "spiffe://domain.test/b"]);
    assert_eq!(first.trust_domain.as_str(), "domain.test");
    assert_eq!(first.bundles.len(), 2);
    let id = first.svids[1].id.clone();
    authority.rotate_leaf("domain.test", Some(&id)).unwrap();
    let second = decode::identities(message(&authority), Some(&first)).unwrap();
    assert!(Arc::ptr_eq(&first.svids[0], &second.svids[0]));
    assert_ne!(first.svids[1].chain, second.svids[1].chain);
    let bundle = |snapshot: &crate::IdentitySnapshot| snapshot.bundles["example.org"].clone();
    assert!(Arc::ptr_eq(&bundle(&first), &bundle(&second)));
}

#[tokio::test]
async fn a_duplicate_hint_drops_the_later_svid() {
    let mut message = message(&authority());
    message.svids[1].hint = "a".into();
    let snapshot = decode::identities(message, None).unwrap();
    assert_eq!(snapshot.svids.len(), 1);
    assert_eq!(snapshot.svids[0].id.path(), "/a");
}

#[tokio::test]
async fn a_federated_bundle_cannot_replace_our_own() {
    let mut message = message(&authority());
    let foreign = message.federated_bundles["spiffe://example.org"].clone();
    message
        .federated_bundles
        .insert("spiffe://domain.test".into(), foreign);
    let own = message.svids[0].bundle.clone();
    let snapshot = decode::identities(message, None).unwrap();
    assert_eq!(snapshot.bundles["domain.test"].roots[0].as_ref(), own);
}

#[tokio::test]
async fn an_empty_federated_bundle_trusts_nobody_and_a_bare_name_is_taken() {
    let mut message = message(&authority());
    message
        .federated_bundles
        .insert("third.test".into(), Vec::new());
    let snapshot = decode::identities(message, None).unwrap();
    assert!(snapshot.bundles["third.test"].roots.is_empty());
}

#[tokio::test]
async fn ten_thousand_federated_bundles_are_taken() {
    let mut message = message(&authority());
    let bundle = message.federated_bundles["spiffe://example.org"].clone();
    for n in 0..10_000 {
        let key = format!("spiffe://{n}.test");
        message.federated_bundles.insert(key, bundle.clone());
    }
    assert!(10_000 * bundle.len() < crate::workload_api::MAX_MESSAGE_BYTES);
    let snapshot = decode::identities(message.clone(), None).unwrap();
    assert_eq!(snapshot.bundles.len(), 10_002);
    let again = decode::identities(message, Some(&snapshot)).unwrap();
    let (old, new) = (&snapshot.bundles["7.test"], &again.bundles["7.test"]);
    assert!(Arc::ptr_eq(old, new), "what did not change is shared");
}

#[tokio::test]
async fn hundreds_of_expired_roots_are_taken() {
    let mut message = message(&authority());
    let bundle = message.svids[0].bundle.clone();
    for svid in &mut message.svids {
        svid.bundle = bundle.repeat(700);
    }
    let snapshot = decode::identities(message, None).unwrap();
    assert_eq!(snapshot.bundles["domain.test"].roots.len(), 700);
}

type Damage = fn(&mut X509svidResponse, &Authority);

/// What is done to a good message, and the error that it gives.
const BROKEN: &[(&str, Damage)] = &[
    ("svids: is empty", |m, _| m.svids.clear()),
    (
        "svids: has 257 entries; at most 256 are accepted",
        |m, _| {
            m.svids = vec![m.svids[0].clone(); 257];
        },
    ),
    (
        "svids[0].spiffe_id: \"\" does not start with spiffe://",
        |m, _| {
            m.svids[0].spiffe_id.clear();
        },
    ),
    (
        "svids[1].spiffe_id: \"spiffe://domain.test/\" path ends with a slash",
        |m, _| {
            m.svids[1].spiffe_id = "spiffe://domain.test/".into();
        },
    ),
    (
        "svids[0].spiffe_id: is spiffe://domain.test/other, but the leaf carries spiffe://domain.test/a",
        |m, _| m.svids[0].spiffe_id = "spiffe://domain.test/other".into(),
    ),
    ("svids[0].x509_svid: the chain is empty", |m, _| {
        m.svids[0].x509_svid.clear()
    }),
    ("svids[0].x509_svid: certificate 0: ", |m, _| {
        m.svids[0].x509_svid = b"garbage".to_vec()
    }),
    ("svids[0].x509_svid: certificate 1: ", |m, _| {
        let length = m.svids[0].x509_svid.len();
        m.svids[0].x509_svid.truncate(length - 1);
    }),
    (
        "svids[0].x509_svid: the leaf has the SPIFFE ID \"spiffe://domain.test\" without a path",
        |m, _| {
            m.svids[0].x509_svid = m.svids[0].bundle.clone();
        },
    ),
    (
        "svids[1].x509_svid: the private key does not belong to the leaf",
        |m, _| {
            m.svids[1].x509_svid_key = m.svids[0].x509_svid_key.clone();
        },
    ),
    ("svids[0].x509_svid_key: is empty", |m, _| {
        m.svids[0].x509_svid_key.clear()
    }),
    (
        "svids[0].x509_svid: the private key is not an unencrypted PKCS#8 key",
        |m, _| {
            m.svids[0].x509_svid_key = b"-----BEGIN PRIVATE KEY-----".to_vec();
        },
    ),
    ("svids[0].bundle: is empty", |m, _| {
        m.svids[0].bundle.clear()
    }),
    ("svids[0].bundle: certificate 0: ", |m, _| {
        m.svids[0].bundle = vec![0; 64]
    }),
    (
        "svids[1].bundle: differs from that of another SVID",
        |m, _| {
            m.svids[1].bundle = m.federated_bundles["spiffe://example.org"].clone();
        },
    ),
    ("svids[0].hint: is longer than 1024 bytes", |m, _| {
        m.svids[0].hint = "x".repeat(1025)
    }),
    (
        "federated_bundles[\"spiffe://Example.org\"]: the key trust domain has",
        |m, _| {
            m.federated_bundles
                .insert("spiffe://Example.org".into(), Vec::new());
        },
    ),
    (
        "federated_bundles[\"spiffe://x.org/path\"]: the key trust domain has",
        |m, _| {
            m.federated_bundles
                .insert("spiffe://x.org/path".into(), Vec::new());
        },
    ),
    (
        "federated_bundles[\"spiffe://x.org\"]: certificate 0: ",
        |m, _| {
            m.federated_bundles
                .insert("spiffe://x.org".into(), b"pem?".to_vec());
        },
    ),
    (
        "federated_bundles[\"example.org\"]: is there twice",
        |m, _| {
            let bundle = m.federated_bundles["spiffe://example.org"].clone();
            m.federated_bundles.insert("example.org".into(), bundle);
        },
    ),
    ("crl[0]: ", |m, _| m.crl.push(b"not a crl".to_vec())),
    ("svids[0].x509_svid: the leaf has 2 URI SANs", |m, a| {
        forge(m, a, Forgery::TwoUriSans)
    }),
    ("svids[0].x509_svid: the leaf has no URI SAN", |m, a| {
        forge(m, a, Forgery::NoSan)
    }),
    (
        "svids[0].x509_svid: the leaf has an RSA key of 1024",
        |m, a| forge(m, a, Forgery::Rsa1024),
    ),
    (
        "svids[0].x509_svid: the leaf lacks the key usage digitalSignature",
        |m, a| {
            forge(m, a, Forgery::NoDigitalSignature);
        },
    ),
    (
        "svids[0].x509_svid: the leaf has an extended key usage without clientAuth",
        |m, a| {
            forge(m, a, Forgery::ServerOnlyEku);
        },
    ),
];

fn forge(message: &mut X509svidResponse, authority: &Authority, forgery: Forgery) {
    let id = message.svids[0].spiffe_id.parse().unwrap();
    let forged = authority.forge("domain.test", &id, forgery).unwrap();
    message.svids[0].x509_svid = forged.chain.iter().flat_map(|der| der.to_vec()).collect();
    message.svids[0].x509_svid_key = forged.key.pkcs8_der().to_vec();
}

#[tokio::test]
async fn what_is_told_of_a_refused_message_is_bounded() {
    let authority = authority();
    let long = "x".repeat(1 << 20);
    let damages: [fn(&mut X509svidResponse, &str); 3] = [
        |m, long| _ = m.federated_bundles.insert(long.to_owned(), Vec::new()),
        |m, long| long.clone_into(&mut m.svids[0].spiffe_id),
        |m, long| m.svids[0].spiffe_id = format!("spiffe://domain.test/{long}"),
    ];
    for damage in damages {
        let mut message = message(&authority);
        damage(&mut message, &long);
        let error = decode::identities(message, None).unwrap_err().to_string();
        assert!(error.len() < 4096, "{} bytes", error.len());
    }
}

#[tokio::test]
async fn broken_messages_are_refused_by_field() {
    let authority = authority();
    for (expected, damage) in BROKEN {
        let mut message = message(&authority);
        damage(&mut message, &authority);
        let error = decode::identities(message, None).unwrap_err().to_string();
        assert!(
            error.starts_with(expected),
            "expected {expected:?}, found {error:?}"
        );
    }
}

#[tokio::test]
async fn broken_bundle_and_jwt_messages_are_refused_by_field() {
    let error = decode::x509_bundles(&X509BundlesResponse::default()).unwrap_err();
    assert_eq!(error.to_string(), "bundles: is empty");
    let bundles = |key: &str, value: &[u8]| [(key.to_owned(), value.to_vec())].into();
    let message = X509BundlesResponse {
        crl: Vec::new(),
        bundles: bundles("spiffe://td", b"x"),
    };
    let error = decode::x509_bundles(&message).unwrap_err().to_string();
    assert!(
        error.starts_with("bundles[\"spiffe://td\"]: certificate 0: "),
        "{error}"
    );
    let message = JwtBundlesResponse {
        bundles: bundles("spiffe://td", b"{}"),
    };
    let error = decode::jwt_bundles(&message).unwrap_err().to_string();
    assert!(
        error.starts_with("bundles[\"spiffe://td\"]: is not a JWKS document: "),
        "{error}"
    );
    let unknown =
        br#"{"keys":[{"kty":"oct","kid":"x","k":"AA"},{"kty":"new"},{"use":"x509-svid"}]}"#;
    let message = JwtBundlesResponse {
        bundles: bundles("spiffe://td", unknown),
    };
    let found = decode::jwt_bundles(&message).unwrap();
    assert!(found["td"].key_ids().all(|id| id == "x"));
    let error = decode::jwt_svids(JwtsvidResponse::default()).unwrap_err();
    assert_eq!(error.to_string(), "malformed answer: svids: is empty");
    let svid = Jwtsvid {
        spiffe_id: "spiffe://td/a".into(),
        svid: "x.y.z".into(),
        hint: String::new(),
    };
    let error = decode::jwt_svids(JwtsvidResponse { svids: vec![svid] })
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("svids[0].svid: is not a JWT"), "{error}");
}

#[test]
fn endpoints_are_read_in_four_forms() {
    for (text, written) in [
        ("unix:///run/agent.sock", "unix:///run/agent.sock"),
        ("unix:/run/agent.sock", "unix:///run/agent.sock"),
        ("tcp://127.0.0.1:8000", "tcp://127.0.0.1:8000"),
        ("tcp:[::1]:8000", "tcp://[::1]:8000"),
    ] {
        assert_eq!(WorkloadEndpoint::parse(text).unwrap().to_string(), written);
    }
}

#[test]
fn other_endpoints_are_refused() {
    let kind = |text: &str| match WorkloadEndpoint::parse(text).unwrap_err() {
        EndpointError::NotSet => "not set",
        EndpointError::Scheme(_) => "scheme",
        EndpointError::Path(_) => "path",
        EndpointError::Authority(_) => "authority",
        EndpointError::QueryOrFragment(_) => "query",
        EndpointError::Address(_) => "address",
    };
    for (text, expected) in [
        ("", "scheme"),
        ("/run/agent.sock", "scheme"),
        ("http://127.0.0.1:80", "scheme"),
        ("unix:", "path"),
        ("unix://", "path"),
        ("unix:///", "path"),
        ("unix:relative.sock", "path"),
        ("unix://host/path", "authority"),
        ("unix:///run/a.sock?x=1", "query"),
        ("unix:///run/a.sock#x", "query"),
        ("tcp://localhost:80", "address"),
        ("tcp://127.0.0.1", "address"),
        ("tcp://127.0.0.1:80/path", "address"),
        ("tcp://", "address"),
    ] {
        assert_eq!(kind(text), expected, "{text:?}");
    }
}

fn arbitrary_svid() -> impl Strategy<Value = X509svid> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    (any::<String>(), bytes(), bytes(), bytes(), any::<String>()).prop_map(
        |(spiffe_id, x509_svid, x509_svid_key, bundle, hint)| X509svid {
            spiffe_id,
            x509_svid,
            x509_svid_key,
            bundle,
            hint,
        },
    )
}

proptest! {
    #[test]
    fn no_message_panics(svids in proptest::collection::vec(arbitrary_svid(), 0..3)) {
        let message = X509svidResponse { svids, ..Default::default() };
        prop_assert!(decode::identities(message, None).is_err());
    }

    #[test]
    fn no_endpoint_panics(text in any::<String>()) {
        let _ = WorkloadEndpoint::parse(&text);
        let _ = WorkloadEndpoint::parse(&format!("unix:{text}"));
        let _ = WorkloadEndpoint::parse(&format!("tcp:{text}"));
    }
}

#[test]
fn a_message_that_breaks_a_parser_is_refused() {
    let refused = decode::without_panics::<()>(|| panic!("a length that nobody thought of"));
    let reason = refused.unwrap_err().to_string();
    assert_eq!(reason, "message: a length that nobody thought of");
    assert_eq!(decode::without_panics(|| Ok(1)), Ok(1));
}
