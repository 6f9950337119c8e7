//! Several certificates of one server.

use rcgen::{DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize, SanType};

use super::*;
use crate::testing::{Ca, identity};

const ID: &str = "spiffe://example.org/server";
/// What a handshake here asks for.
const NAME: &str = "web.example.org";
const OTHER: &str = "other.example.org";

fn certificate(ca: &Ca, name: &str, is_rsa: bool) -> Arc<Identity> {
    let mut params = svid_params(ID);
    params
        .subject_alt_names
        .push(SanType::DnsName(name.try_into().unwrap()));
    if !is_rsa {
        return ca.identity(&params);
    }
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let leaf = params.signed_by(&key, &ca.issuer).unwrap();
    identity(vec![leaf.der().clone()], &key)
}

/// As of long ago: without alternative names.
fn with_common_name(ca: &Ca) -> Arc<Identity> {
    let mut params = svid_params(ID);
    params.subject_alt_names.clear();
    params.distinguished_name.push(DnType::CommonName, NAME);
    ca.identity(&params)
}

fn server(ca: &Ca, certificates: &[&Arc<Identity>], full_scan: bool) -> ServerContext {
    let trust = validation(bundles(&[("example.org", ca)]));
    let mut slots = certificates
        .iter()
        .map(|certificate| Slot::new(Some(Arc::clone(certificate))));
    let mut params = server_params(Arc::clone(certificates[0]), trust);
    params.identity = slots.next().unwrap();
    params.alternatives = slots.collect();
    params.full_scan = full_scan;
    ServerContext::new(params).unwrap()
}

/// With one suite of TLS 1.2, or all that there are.
fn client(ca: &Ca, suite: Option<&str>) -> ClientContext {
    let trust = validation(Trust::AcceptUntrusted);
    let mut params = client_params(ca.svid("spiffe://example.org/client"), trust);
    if let Some(suite) = suite {
        params.versions = (TlsVersion::Tls12, TlsVersion::Tls12);
        params.cipher_suites = vec![suite.to_owned()];
    }
    ClientContext::new(params).unwrap()
}

#[tokio::test]
async fn the_client_chooses_by_its_name_and_its_abilities() {
    let ca = spiffe_root("example.org");
    let (rsa, ecdsa) = (certificate(&ca, NAME, true), certificate(&ca, NAME, false));
    let (other, wild) = (
        certificate(&ca, OTHER, false),
        certificate(&ca, "*.example.org", true),
    );
    let wild_ecdsa = certificate(&ca, "*.example.org", false);
    let common = with_common_name(&ca);
    let by_rsa = Some("ECDHE-RSA-AES128-GCM-SHA256");
    let by_ecdsa = Some("ECDHE-ECDSA-AES128-GCM-SHA256");
    for (certificates, suite, expected) in [
        (&[&rsa, &ecdsa][..], None, Some(&ecdsa)),
        (&[&rsa, &ecdsa], by_rsa, Some(&rsa)),
        (&[&rsa, &ecdsa], by_ecdsa, Some(&ecdsa)),
        (&[&ecdsa, &rsa], by_rsa, Some(&rsa)),
        (&[&other, &wild], None, Some(&wild)),
        (&[&other, &wild, &ecdsa], None, Some(&ecdsa)),
        // The very name goes before the star.
        (&[&wild_ecdsa, &rsa], None, Some(&rsa)),
        (&[&wild, &ecdsa], by_rsa, Some(&wild)),
        (&[&other, &common], None, Some(&common)),
        (&[&rsa, &other], by_ecdsa, None),
        // Nobody has the name.
        (&[&other, &other], None, Some(&other)),
    ] {
        let server = server(&ca, certificates, false);
        let (served, connected) = handshake(&server, &client(&ca, suite)).await;
        let Some(expected) = expected else {
            assert!(served.is_err() && connected.is_err(), "{suite:?}");
            continue;
        };
        let served = served.unwrap();
        assert!(connected.is_ok());
        let shown = served.identity().unwrap();
        assert!(Arc::ptr_eq(shown, expected), "{suite:?}");
    }
}

#[tokio::test]
async fn a_name_of_nobody_has_the_first_one_or_any() {
    let ca = spiffe_root("example.org");
    let other = certificate(&ca, OTHER, false);
    let rsa = certificate(&ca, OTHER, true);
    let client = client(&ca, Some("ECDHE-RSA-AES128-GCM-SHA256"));
    for full_scan in [false, true] {
        let server = server(&ca, &[&other, &rsa], full_scan);
        let (served, connected) = handshake(&server, &client).await;
        assert_eq!(served.is_ok(), full_scan);
        assert_eq!(connected.is_ok(), full_scan);
    }
}

#[tokio::test]
async fn each_of_them_rotates() {
    let ca = spiffe_root("example.org");
    let (rsa, ecdsa) = (certificate(&ca, NAME, true), certificate(&ca, NAME, false));
    let server = server(&ca, &[&rsa, &ecdsa], false);
    let client = client(&ca, None);
    let (first, _) = established(&server, &client).await;
    assert!(Arc::ptr_eq(first.identity().unwrap(), &ecdsa));
    let next = certificate(&ca, NAME, false);
    server.params().alternatives[0].store(Some(Arc::clone(&next)));
    let (second, _) = established(&server, &client).await;
    assert!(Arc::ptr_eq(second.identity().unwrap(), &next));
    assert_eq!((first.epochs().0, second.epochs().0), (0, 1));
    server.params().alternatives[0].store(None);
    assert!(!server.is_ready());
    assert!(handshake(&server, &client).await.0.is_err());
}

/// What is shown may have gone from its place before anybody asks where it was.
#[tokio::test]
async fn the_place_of_what_was_shown_is_known_although_it_rotates_at_once() {
    let ca = spiffe_root("example.org");
    let (rsa, ecdsa) = (certificate(&ca, NAME, true), certificate(&ca, NAME, false));
    let server = server(&ca, &[&rsa, &ecdsa], false);
    let client = client(&ca, None);
    let (served, connected) = established(&server, &client).await;
    let [first, second] = server.identities().collect::<Vec<_>>()[..] else {
        panic!("two certificates");
    };
    second.store(Some(certificate(&ca, NAME, false)));
    let place = served.identity_slot().unwrap();
    assert!(Arc::ptr_eq(place, second) && !Arc::ptr_eq(place, first));
    let own = client.params().identity.as_ref().unwrap();
    assert!(Arc::ptr_eq(connected.identity_slot().unwrap(), own));
}
