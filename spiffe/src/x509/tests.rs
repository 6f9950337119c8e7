use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rustls_pki_types::CertificateDer;

use super::*;
use crate::{
    authority::{Authority, AuthorityConfig, KeyType, TrustDomainConfig, forge::Forgery},
    x509::parse::parse_certificate,
};

const ID: &str = "spiffe://domain.test/ns/default/sa/web";

fn id() -> SpiffeId {
    SpiffeId::parse(ID).unwrap()
}

fn authority(intermediate: Option<KeyType>) -> Authority {
    let mut domain = TrustDomainConfig::new(TrustDomain::parse("domain.test").unwrap());
    domain.intermediate = intermediate;
    let config = AuthorityConfig {
        trust_domains: vec![domain],
        federation: Vec::new(),
    };
    Authority::start(config).unwrap()
}

fn svid() -> X509Svid {
    authority(None)
        .mint("domain.test", &id(), None, &[])
        .unwrap()
}

#[tokio::test]
async fn an_svid_in_the_shape_of_spire_is_admitted() {
    let dns = ["web.domain.test".to_owned()];
    for intermediate in [None, Some(KeyType::EcP384), Some(KeyType::Rsa2048)] {
        let authority = authority(intermediate);
        let svid = authority.mint("domain.test", &id(), None, &dns).unwrap();
        assert_eq!(check_leaf(svid.leaf()), Ok(id()));
        let parsed = parse_certificate(svid.leaf()).unwrap();
        assert_eq!(
            parsed.subject().to_string(),
            "C=US, O=SPIRE, CN=web.domain.test"
        );
        assert_eq!(svid.chain.len(), 1 + usize::from(intermediate.is_some()));
        if let Some(ca) = svid.chain.get(1) {
            let ca = parse_certificate(ca).unwrap();
            assert!(ca.subject().to_string().contains("OU=DOWNSTREAM-1"));
        }
        let age = SystemTime::now().duration_since(svid.not_before).unwrap();
        assert!((9..15).contains(&age.as_secs()), "NotBefore is {age:?} ago");
    }
}

#[tokio::test]
async fn each_forged_leaf_is_refused_by_its_rule() {
    let authority = authority(None);
    for forgery in Forgery::ALL {
        let forged = authority.forge("domain.test", &id(), forgery).unwrap();
        let found = check_leaf(&forged.chain[0]).map_err(|error| error.rule());
        let expected = match forgery {
            // These obey the rules for leaves; the path, time or revocation is wrong.
            Forgery::ForeignId
            | Forgery::UnknownCa
            | Forgery::SelfSigned
            | Forgery::Expired
            | Forgery::NotYetValid
            | Forgery::Revoked => Ok(id()),
            Forgery::TwoUriSans => Err("several_uri_sans"),
            Forgery::NoUriSan | Forgery::NoSan => Err("no_uri_san"),
            Forgery::NotSpiffe | Forgery::DotSegment | Forgery::TrailingSlash => {
                Err("invalid_spiffe_id")
            }
            Forgery::NoPath => Err("spiffe_id_without_path"),
            Forgery::SanNotCritical => Err("san_not_critical"),
            Forgery::CaAsLeaf => Err("ca_as_leaf"),
            Forgery::KeyCertSign | Forgery::CrlSign => Err("signing_key_usage"),
            Forgery::NoKeyUsage => Err("no_key_usage"),
            Forgery::KeyUsageNotCritical => Err("key_usage_not_critical"),
            Forgery::NoDigitalSignature => Err("no_digital_signature"),
            Forgery::ServerOnlyEku | Forgery::ClientOnlyEku => Err("extended_key_usage"),
            Forgery::Rsa1024 => Err("rsa_key_size"),
        };
        assert_eq!(found, expected, "{forgery:?}");
    }
}

#[tokio::test]
async fn a_refusal_names_what_is_wrong() {
    let authority = authority(None);
    let refusal = |forgery| {
        let forged = authority.forge("domain.test", &id(), forgery).unwrap();
        let svid = X509Svid::new(forged.chain, forged.key, None);
        svid.unwrap_err().to_string()
    };
    assert_eq!(
        refusal(Forgery::TwoUriSans),
        "the leaf has 2 URI SANs; an X.509-SVID has exactly one"
    );
    assert_eq!(
        refusal(Forgery::DotSegment),
        "the leaf has the URI SAN \"spiffe://domain.test/x/../ns/default/sa/web\", which path has a \
         '.' or '..' segment"
    );
    assert_eq!(
        refusal(Forgery::Rsa1024),
        "the leaf has an RSA key of 1024 bits; 2048 to 8192 are accepted"
    );
    assert_eq!(
        refusal(Forgery::ServerOnlyEku),
        "the leaf has an extended key usage without clientAuth"
    );
}

#[tokio::test]
async fn a_key_must_belong_to_its_leaf() {
    let (ours, other) = (svid(), svid());
    let error = X509Svid::new(ours.chain.clone(), other.key, None).unwrap_err();
    assert_eq!(error, SvidError::Key(KeyError::Mismatch));
    let garbage = PrivateKey::from_pkcs8(vec![1, 2, 3]);
    let error = X509Svid::new(ours.chain, garbage, None).unwrap_err();
    assert_eq!(error, SvidError::Key(KeyError::Malformed));
}

#[tokio::test]
async fn keys_of_all_kinds_are_recognised() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_RSA_SHA256,
        &rcgen::PKCS_ED25519,
    ] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(ID.try_into().unwrap())];
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        let leaf = CertificateDer::from(params.self_signed(&key).unwrap());
        let key = PrivateKey::from_pkcs8(key.serialize_der());
        X509Svid::new(vec![leaf], key, None).unwrap();
    }
}

#[tokio::test]
async fn only_signing_certificates_follow_the_leaf() {
    let svid = svid();
    let chain = vec![svid.leaf().clone(), svid.leaf().clone()];
    let error = X509Svid::new(chain, svid.key.clone(), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "certificate 1 of the chain is not a CA certificate"
    );
    let mut chain = vec![svid.leaf().clone(); MAX_CHAIN + 1];
    let error = X509Svid::new(chain.clone(), svid.key.clone(), None).unwrap_err();
    assert_eq!(error, SvidError::ChainTooLong(MAX_CHAIN + 1));
    chain.clear();
    let error = X509Svid::new(chain, svid.key, None).unwrap_err();
    assert_eq!(error, SvidError::EmptyChain);
}

#[tokio::test]
async fn a_signing_certificate_speaks_for_its_own_trust_domain() {
    let ours = TrustDomain::parse("domain.test").unwrap();
    let root = authority(None).bundle(&ours).unwrap().roots.remove(0);
    assert_eq!(check_signing(&root, &ours), Ok(()));
    let other = TrustDomain::parse("example.org").unwrap();
    let error = check_signing(&root, &other).unwrap_err();
    assert_eq!(error.rule(), "issuer_trust_domain");
}

#[tokio::test]
async fn concatenated_der_is_split() {
    let authority = authority(Some(KeyType::EcP256));
    let svid = authority.mint("domain.test", &id(), None, &[]).unwrap();
    let der: Vec<u8> = svid.chain.iter().flat_map(|c| c.to_vec()).collect();
    assert_eq!(split_certificates(&der).unwrap(), svid.chain);
    assert_eq!(split_certificates(&[]).unwrap(), Vec::new());
    assert!(split_certificates(&der[..der.len() - 1]).is_err());
    let trailing = [der.as_slice(), &[0]].concat();
    let error = split_certificates(&trailing).unwrap_err();
    assert!(error.to_string().starts_with("certificate 2: "), "{error}");
}

#[tokio::test]
async fn pem_goes_out_and_comes_back() {
    let svid = svid();
    let pem = certificates_to_pem(&svid.chain);
    assert_eq!(certificates_from_pem(pem.as_bytes()).unwrap(), svid.chain);
    let key = key_from_pem(svid.key.to_pem().as_bytes()).unwrap();
    assert_eq!(key.pkcs8_der(), svid.key.pkcs8_der());
    let error = certificates_from_pem(b"nothing").unwrap_err();
    assert_eq!(error, PemError::Missing("CERTIFICATE"));
    let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let error = certificates_from_pem(broken).unwrap_err().to_string();
    assert!(error.starts_with("CERTIFICATE block 0: "), "{error}");
    assert_eq!(crls_from_pem(pem.as_bytes()).unwrap(), Vec::new());
}

#[tokio::test]
async fn expired_roots_stay_in_a_bundle_and_are_not_live() {
    let trust_domain = TrustDomain::parse("domain.test").unwrap();
    let bundle = authority(None).bundle(&trust_domain).unwrap();
    let now = SystemTime::now();
    assert_eq!(bundle.live_roots(now).count(), 1);
    let later = now + Duration::from_secs(100 * 365 * 86400);
    assert_eq!(bundle.live_roots(later).count(), 0);
    assert_eq!(bundle.roots.len(), 1);
}

#[tokio::test]
async fn one_odd_root_does_not_take_the_others_along() {
    let root = svid().chain;
    let good = certificates_to_pem(&root);
    for odd in [
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n-u0I\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE----\n",
    ] {
        for pem in [format!("{odd}{good}"), format!("{good}{odd}")] {
            let (roots, refused) = readable_certificates_from_pem(pem.as_bytes()).unwrap();
            assert_eq!((&roots, refused.len()), (&root, 1), "{pem}");
        }
        assert!(readable_certificates_from_pem(odd.as_bytes()).is_err());
    }
    // Its writer may still be at it.
    let cut = format!("{good}-----BEGIN CERTIFICATE-----\nMIIB\n");
    let error = readable_certificates_from_pem(cut.as_bytes()).unwrap_err();
    assert!(matches!(error, PemError::Syntax(_)), "{error}");
}

#[test]
fn a_private_key_is_not_printed() {
    let key = PrivateKey::from_pkcs8(vec![0xab; 8]);
    assert_eq!(format!("{key:?}"), "PrivateKey([redacted])");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = split_certificates(&bytes);
        let _ = check_crl(&bytes);
        let _ = check_leaf(&CertificateDer::from(bytes.clone()));
        let _ = certificates_from_pem(&bytes);
        let _ = key_from_pem(&bytes);
    }
}

/// Each byte of a real leaf, damaged in turn: never a panic, and never another identity.
#[tokio::test]
async fn a_damaged_leaf_is_never_somebody_of_another_trust_domain() {
    let leaf = svid().leaf().to_vec();
    for at in 0..leaf.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = leaf.clone();
            damaged[at] ^= flip;
            let damaged = CertificateDer::from(damaged);
            if let Ok(id) = check_leaf(&damaged) {
                assert!(id.is_workload());
            }
            let _ = check_signing(&damaged, &id().trust_domain());
        }
    }
}

/// What a nested SPIRE 1.1 sent in 2021: an EC leaf with DNS names, an RSA intermediate, an EC root.
#[test]
fn a_recorded_chain_of_a_nested_spire_is_admitted() {
    let chain = certificates_from_pem(include_bytes!("testdata/spire-1.1-nested.pem")).unwrap();
    let id = check_leaf(&chain[0]).unwrap();
    assert_eq!(
        id.as_str(),
        "spiffe://example.org/ns/istio-system/sa/istio-ingressgateway-service-account"
    );
    for authority in &chain[1..] {
        assert_eq!(check_signing(authority, &id.trust_domain()), Ok(()));
        assert_eq!(
            check_leaf(authority).unwrap_err().rule(),
            "spiffe_id_without_path"
        );
    }
    assert_eq!(
        check_signing(&chain[0], &id.trust_domain()),
        Err(SigningError::NotCa)
    );
}
