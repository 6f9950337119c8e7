//! Chains that pass, and chains that do not, each with the rule and the words of its refusal.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_RSA_SHA256, RevokedCertParams, RsaKeySize, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateRevocationListDer;

use super::*;
use crate::{
    SanPattern,
    SanType::Uri,
    certificate,
    testing::{
        Ca, DAY, bundles, ca_params, domain, root, roots, spiffe_root, svid_params, uri, validity,
    },
};

const ID: &str = "spiffe://example.org/ns/default/sa/web";

/// Two federated domains, and what the first one's bundle is used for.
struct World {
    own: Ca,
    other: Ca,
    trust: Validation,
}

fn world() -> World {
    let (own, other) = (spiffe_root("example.org"), spiffe_root("domain.test"));
    let trust = bundles(&[("example.org", &own), ("domain.test", &other)]);
    World {
        own,
        other,
        trust: Validation::new(trust),
    }
}

fn check(validation: &Validation, chain: &[CertificateDer<'_>]) -> Result<Verified, Refusal> {
    validation.verify(chain, Role::Client, None, SystemTime::now())
}

/// Asserts that `chain` is refused by `rule` with `words` in its sentence; yields the refusal.
#[track_caller]
fn refused(
    validation: &Validation,
    chain: &[CertificateDer<'_>],
    rule: &str,
    words: &str,
) -> Refusal {
    let refusal = check(validation, chain).expect_err(rule);
    assert_eq!(refusal.rule, rule, "{refusal}");
    assert!(
        refusal.reason.contains(words),
        "{words:?} is not in: {refusal}"
    );
    refusal
}

fn leaf(ca: &Ca, params: &CertificateParams) -> Vec<CertificateDer<'static>> {
    vec![ca.sign(params).0]
}

fn changed(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = svid_params(ID);
    change(&mut params);
    params
}

/// Replaces bytes of a certificate, for what rcgen cannot make.
fn patched(der: &CertificateDer<'_>, from: &[u8], to: &[u8]) -> CertificateDer<'static> {
    assert_eq!(from.len(), to.len());
    let mut bytes = der.to_vec();
    let mut found = 0;
    for index in 0..bytes.len() - from.len() {
        if bytes[index..].starts_with(from) {
            bytes[index..index + to.len()].copy_from_slice(to);
            found += 1;
        }
    }
    assert!(found > 0);
    bytes.into()
}

/// Names are chosen by strangers: they neither end a log line nor flood it.
#[test]
fn a_refusal_is_one_line_of_bounded_length() {
    let world = world();
    let forged = "spiffe://evil.test/\nINFO all is well\r\u{1b}[2J";
    let long = format!("spiffe://evil.test/{}", "a".repeat(20_000));
    for uris in [vec![forged], vec![long.as_str()], vec![forged; 300]] {
        let mut params = svid_params(ID);
        params.subject_alt_names = uris.iter().map(|name| uri(name)).collect();
        let (leaf, _) = world.other.sign(&params);
        let refusal = check(&world.trust, &[leaf]).unwrap_err();
        let peer = refusal.peer.clone().unwrap();
        for text in [&refusal.reason, &peer] {
            assert!(!text.contains(char::is_control), "{text:?}");
            assert!(text.chars().count() < 20_000, "{}", text.len());
        }
        assert!(peer.starts_with("spiffe://evil.test/"), "{peer}");
    }
    let mut params = svid_params(ID);
    params.subject_alt_names = vec![SanType::DnsName("a\nb".try_into().unwrap())];
    params
        .subject_alt_names
        .extend((0..300).map(|n| SanType::DnsName(format!("{n}.test").try_into().unwrap())));
    let mut names = Validation::new(Trust::Ca(roots(&[&root(ca_params("CA"))])));
    names.match_server_name = true;
    let refusal = check(&names, &[world.other.sign(&params).0]).unwrap_err();
    assert!(!refusal.reason.contains('\n'), "{refusal:?}");
}

#[test]
fn an_svid_passes_and_yields_its_id() {
    let world = world();
    for (ca, id) in [(&world.own, ID), (&world.other, "spiffe://domain.test/x")] {
        let verified = check(&world.trust, &leaf(ca, &svid_params(id))).unwrap();
        assert_eq!(verified.id.unwrap().as_str(), id);
        assert_eq!(verified.not_after, verified.valid_until);
    }
}

#[test]
fn a_leaf_must_obey_every_rule() {
    let world = world();
    let sans = |sans: &[&str]| {
        changed(|params| params.subject_alt_names = sans.iter().map(|san| uri(san)).collect())
    };
    let usages = |usages: &[KeyUsagePurpose]| changed(|params| params.key_usages = usages.to_vec());
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign, KeyEncipherment};
    let ekus = |ekus: &[ExtendedKeyUsagePurpose]| {
        changed(|params| params.extended_key_usages = ekus.to_vec())
    };
    let cases = [
        (
            "several_uri_sans",
            "2 URI SANs",
            sans(&[ID, "spiffe://example.org/other"]),
        ),
        (
            "several_uri_sans",
            "2 URI SANs",
            sans(&[ID, "https://example.org/"]),
        ),
        ("several_uri_sans", "2 URI SANs", sans(&[ID, ID])),
        ("no_uri_san", "no URI SAN", sans(&[])),
        (
            "no_uri_san",
            "no URI SAN",
            changed(|params| {
                params.subject_alt_names = vec![SanType::DnsName("web".try_into().unwrap())]
            }),
        ),
        (
            "invalid_spiffe_id",
            "does not start with spiffe://",
            sans(&["https://example.org/x"]),
        ),
        (
            "invalid_spiffe_id",
            "does not start with spiffe://",
            sans(&["SPIFFE://example.org/x"]),
        ),
        (
            "invalid_spiffe_id",
            "'E'",
            sans(&["spiffe://Example.org/x"]),
        ),
        (
            "invalid_spiffe_id",
            "':'",
            sans(&["spiffe://example.org:80/x"]),
        ),
        (
            "invalid_spiffe_id",
            "'@'",
            sans(&["spiffe://u@example.org/x"]),
        ),
        (
            "invalid_spiffe_id",
            "'.' or '..' segment",
            sans(&["spiffe://example.org/a/../b"]),
        ),
        (
            "invalid_spiffe_id",
            "empty segment",
            sans(&["spiffe://example.org/a//b"]),
        ),
        (
            "invalid_spiffe_id",
            "slash",
            sans(&["spiffe://example.org/a/"]),
        ),
        (
            "invalid_spiffe_id",
            "'%'",
            sans(&["spiffe://example.org/%61"]),
        ),
        (
            "spiffe_id_without_path",
            "names a trust domain",
            sans(&["spiffe://example.org"]),
        ),
        (
            "ca_as_leaf",
            "CA certificate",
            changed(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        ("no_key_usage", "no key usage", usages(&[])),
        (
            "no_digital_signature",
            "digitalSignature",
            usages(&[KeyEncipherment]),
        ),
        (
            "signing_key_usage",
            "keyCertSign",
            usages(&[DigitalSignature, KeyCertSign]),
        ),
        (
            "signing_key_usage",
            "cRLSign",
            usages(&[DigitalSignature, CrlSign]),
        ),
        (
            "extended_key_usage",
            "without clientAuth",
            ekus(&[ServerAuth]),
        ),
        (
            "extended_key_usage",
            "without serverAuth",
            ekus(&[ClientAuth]),
        ),
        (
            "expired",
            "expired at 20",
            changed(|params| validity(params, -2, -1)),
        ),
        (
            "not_yet_valid",
            "from 20",
            changed(|params| validity(params, 1, 2)),
        ),
        (
            "critical_extension",
            "critical extension",
            changed(|params| {
                let mut unknown = CustomExtension::from_oid_content(&[1, 3, 9999], vec![5, 0]);
                unknown.set_criticality(true);
                params.custom_extensions = vec![unknown];
            }),
        ),
    ];
    for (rule, words, params) in &cases {
        let refusal = refused(&world.trust, &leaf(&world.own, params), rule, words);
        assert_eq!(refusal.counter, "fail_verify_error");
    }
}

#[test]
fn a_refusal_names_the_peer_and_the_bundle() {
    let world = world();
    let forged = leaf(&world.other, &svid_params(ID));
    let refusal = refused(&world.trust, &forged, "foreign_signer", "");
    assert_eq!(refusal.peer.as_deref(), Some(ID));
    assert_eq!(refusal.bundle, Some(domain("example.org")));
    assert_eq!(
        refusal.to_string(),
        format!(
            "{ID} is refused: its certificate was signed by a CA of the trust domain domain.test, \
             which cannot vouch for example.org"
        )
    );
    let two = changed(|params| params.subject_alt_names.push(uri("spiffe://domain.test/x")));
    let refusal = refused(
        &world.trust,
        &leaf(&world.own, &two),
        "several_uri_sans",
        "",
    );
    assert_eq!(
        refusal.peer.unwrap(),
        format!("{ID}, spiffe://domain.test/x")
    );
}

#[test]
fn only_the_peer_s_own_domain_vouches_for_it() {
    let world = world();
    let third = spiffe_root("third.test");
    let stranger = leaf(&third, &svid_params("spiffe://third.test/x"));
    refused(
        &world.trust,
        &stranger,
        "unknown_trust_domain",
        "no bundle for its trust domain third.test; there is one for domain.test, example.org",
    );
    let forged = leaf(&third, &svid_params(ID));
    refused(
        &world.trust,
        &forged,
        "unknown_issuer",
        "leads to no root in the bundle of example.org",
    );
    // Same name, another key: a forger's, or a re-created CA's.
    let twin = leaf(&spiffe_root("example.org"), &svid_params(ID));
    refused(
        &world.trust,
        &twin,
        "bad_signature",
        "a forgery, or a CA that changed its key",
    );
    // A bundle that holds another domain's root by mistake.
    let mixed = Validation::new(bundles(&[("example.org", &world.other)]));
    let forged = leaf(&world.other, &svid_params(ID));
    refused(
        &mixed,
        &forged,
        "foreign_signer",
        "of the trust domain domain.test",
    );
    let none = Validation::new(Trust::Spiffe(BTreeMap::new()));
    refused(
        &none,
        &leaf(&world.own, &svid_params(ID)),
        "unknown_trust_domain",
        "there is one for no domain",
    );
}

#[test]
fn every_ca_on_the_way_must_be_one_and_of_the_domain() {
    let world = world();
    let ca = |name: &str| ca_params(name);
    let via = |intermediate: &Ca| {
        vec![
            intermediate.sign(&svid_params(ID)).0,
            intermediate.der.clone(),
        ]
    };

    let good = world.own.intermediate(ca("DOWNSTREAM-1"));
    check(&world.trust, &via(&good)).unwrap();
    let bound = world.own.intermediate(ca("spiffe://example.org"));
    check(&world.trust, &via(&bound)).unwrap();

    refused(
        &world.trust,
        &via(&good)[..1],
        "unknown_issuer",
        "leads to no root",
    );
    let foreign = world.own.intermediate(ca("spiffe://domain.test"));
    refused(
        &world.trust,
        &via(&foreign),
        "foreign_signer",
        "a CA of the trust domain domain.test",
    );
    let workload = world.own.intermediate(ca("spiffe://example.org/workload"));
    refused(
        &world.trust,
        &via(&workload),
        "signer_spiffe_id",
        "with a path",
    );
    let svid = world
        .own
        .intermediate(svid_params("spiffe://example.org/attacker"));
    refused(
        &world.trust,
        &via(&svid),
        "issuer_not_ca",
        "by one that is no CA",
    );
    let mut old = ca("DOWNSTREAM-2");
    validity(&mut old, -2, -1);
    refused(
        &world.trust,
        &via(&world.own.intermediate(old)),
        "expired",
        "a CA that signed its certificate expired at",
    );
    let mut early = ca("DOWNSTREAM-3");
    validity(&mut early, 1, 2);
    refused(
        &world.trust,
        &via(&world.own.intermediate(early)),
        "not_yet_valid",
        "a CA that signed",
    );

    let mut shallow = ca("spiffe://example.org");
    shallow.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let shallow = root(shallow);
    let trust = Validation::new(bundles(&[("example.org", &shallow)]));
    check(&trust, &leaf(&shallow, &svid_params(ID))).unwrap();
    let below = shallow.intermediate(ca("DOWNSTREAM-4"));
    refused(&trust, &via(&below), "path_length", "more CAs in its chain");
    let mut zero = ca("DOWNSTREAM-4");
    zero.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let zero = world.own.intermediate(zero);
    let below = zero.intermediate(ca("DOWNSTREAM-5"));
    let mut chain = via(&below);
    chain.push(zero.der.clone());
    refused(&world.trust, &chain, "path_length", "more CAs in its chain");

    let mut chain = Vec::new();
    let mut signer = world.own.intermediate(ca("LEVEL-0"));
    for level in 1..9 {
        chain.insert(0, signer.der.clone());
        signer = signer.intermediate(ca(&format!("LEVEL-{level}")));
    }
    chain.insert(0, signer.der.clone());
    chain.insert(0, signer.sign(&svid_params(ID)).0);
    refused(&world.trust, &chain, "chain_too_complex", "too long");

    let mut narrow = ca("NARROW");
    narrow.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("allowed.test".into())],
        excluded_subtrees: Vec::new(),
    });
    let narrow = world.own.intermediate(narrow);
    let outside = changed(|params| {
        params
            .subject_alt_names
            .push(SanType::DnsName("web.other.test".try_into().unwrap()))
    });
    let chain = [narrow.sign(&outside).0, narrow.der.clone()];
    refused(
        &world.trust,
        &chain,
        "name_constraints",
        "not allowed to sign its names",
    );
}

#[test]
fn an_rsa_intermediate_under_an_ec_root_passes() {
    let world = world();
    let mut params = ca_params("");
    params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, "DOWNSTREAM-1");
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let der = params
        .signed_by(&key, &world.own.issuer)
        .unwrap()
        .der()
        .clone();
    let issuer = rcgen::Issuer::new(params, key);
    let rsa = Ca { der, issuer };
    let chain = [rsa.sign(&svid_params(ID)).0, rsa.der.clone()];
    check(&world.trust, &chain).unwrap();

    // The same chain with a weak signature algorithm named in it.
    const SHA256_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
    for weak in [4, 5] {
        let mut oid = SHA256_RSA.to_vec();
        oid[8] = weak; // md5WithRSAEncryption, sha1WithRSAEncryption
        let chain = [patched(&chain[0], SHA256_RSA, &oid), rsa.der.clone()];
        refused(
            &world.trust,
            &chain,
            "signature_algorithm",
            "too weak or not known",
        );
    }
}

/// A key of 1024 bits; rcgen makes none.
const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDO9XXN+hW1MgvsHg3hxo+pVhjj
/EcY1F19fMGTXexnelxay2nQFd2Lm5L0Hml8Vz/iZc18m4UUfc1dHa/tHshU5sR5
CH4VtAt1NFVTsN5D6V0GeDCJVvUwrgsUXo/HuWONU55W4sImgyDHTlhP56/jgO2v
UD+HgzlnS+RiLhtxHwIDAQAB
-----END PUBLIC KEY-----";

#[test]
fn a_small_rsa_key_is_refused_with_and_without_a_spiffe_id() {
    let world = world();
    let key = SubjectPublicKeyInfo::from_pem(RSA_1024).unwrap();
    let sign = |ca: &Ca, params: &CertificateParams| {
        vec![params.signed_by(&key, &ca.issuer).unwrap().der().clone()]
    };
    refused(
        &world.trust,
        &sign(&world.own, &svid_params(ID)),
        "rsa_key_size",
        "1024 bits",
    );
    let web = root(ca_params("Web PKI"));
    let trust = Validation::new(Trust::Ca(roots(&[&web])));
    refused(
        &trust,
        &sign(&web, &web_params("web.test")),
        "rsa_key_size",
        "1024 bits",
    );
}

#[test]
fn broken_bytes_are_refused_and_do_not_panic() {
    let world = world();
    refused(&world.trust, &[], "no_certificate", "sent no certificate");
    let good = leaf(&world.own, &svid_params(ID)).remove(0);
    refused(
        &world.trust,
        &[CertificateDer::from(&b"rubbish"[..])],
        "malformed_certificate",
        "cannot be read",
    );
    let longer = [good.as_ref(), b"x"].concat();
    refused(
        &world.trust,
        &[longer.into()],
        "malformed_certificate",
        "1 bytes follow",
    );
    for length in 0..good.len() {
        let cut = CertificateDer::from(&good[..length]);
        assert!(check(&world.trust, &[cut]).is_err(), "{length}");
    }
    // Each byte in turn: whatever is changed, the signature or a rule is broken.
    for index in 0..good.len() {
        let mut bytes = good.to_vec();
        bytes[index] ^= 1;
        assert!(check(&world.trust, &[bytes.into()]).is_err(), "{index}");
    }
    let junk = [good, CertificateDer::from(&b"rubbish"[..])];
    assert!(
        check(&world.trust, &junk).is_ok(),
        "an unused certificate is ignored"
    );
}

#[test]
fn expired_roots_are_tolerated_and_trusted_for_nothing() {
    let live = spiffe_root("example.org");
    let expired = || {
        let mut params = ca_params("spiffe://example.org");
        validity(&mut params, -30, -1);
        root(params)
    };
    let old = expired();
    // More than webpki tries: they all have the same name.
    let mut ders: Vec<_> = (0..300).map(|_| expired().der).collect();
    ders.insert(150, live.der.clone());
    ders.push(old.der.clone());
    let roots = Arc::new(Roots::from_der(ders, &[]).unwrap());
    assert_eq!(roots.certificates().len(), 302);
    let trust = Trust::Spiffe([(domain("example.org"), roots)].into());
    let trust = Validation::new(trust);
    check(&trust, &leaf(&live, &svid_params(ID))).unwrap();
    assert!(check(&trust, &leaf(&old, &svid_params(ID))).is_err());

    let only = Validation::new(bundles(&[("example.org", &old)]));
    refused(
        &only,
        &leaf(&old, &svid_params(ID)),
        "expired_root",
        "the root in the bundle of example.org that signed its certificate expired at 20",
    );
    let mut early = ca_params("spiffe://example.org");
    validity(&mut early, 1, 2);
    let early = root(early);
    let trust = Validation::new(bundles(&[("example.org", &early)]));
    refused(
        &trust,
        &leaf(&early, &svid_params(ID)),
        "not_yet_valid",
        "its root is valid from",
    );
}

#[test]
fn what_is_no_ca_anchors_nothing() {
    let world = world();
    let (der, key) = world.own.sign(&svid_params("spiffe://example.org/leaf"));
    let params = svid_params("spiffe://example.org/leaf");
    let leaf_ca = Ca {
        der,
        issuer: rcgen::Issuer::new(params, key),
    };
    for trust in [
        bundles(&[("example.org", &leaf_ca)]),
        Trust::Ca(roots(&[&leaf_ca])),
    ] {
        let trust = Validation::new(trust);
        refused(
            &trust,
            &leaf(&leaf_ca, &svid_params(ID)),
            "unknown_issuer",
            "no root that is trusted",
        );
    }
    let workload = root(ca_params("spiffe://example.org/with/path"));
    let trust = Validation::new(Trust::Ca(roots(&[&workload])));
    refused(
        &trust,
        &leaf(&workload, &svid_params(ID)),
        "unknown_issuer",
        "no root that is trusted",
    );
}

#[test]
fn expiry_is_ignored_only_when_told() {
    let world = world();
    let old = leaf(&world.own, &changed(|params| validity(params, -2, -1)));
    refused(&world.trust, &old, "expired", "");
    let mut trust = Validation::new(bundles(&[("example.org", &world.own)]));
    trust.allow_expired = true;
    // The root was not there yet when this leaf was.
    let mut params = ca_params("spiffe://example.org");
    validity(&mut params, -5, -1);
    let root = root(params);
    trust.trust = bundles(&[("example.org", &root)]);
    let old = leaf(&root, &changed(|params| validity(params, -3, -2)));
    check(&trust, &old).unwrap();
    let forged = leaf(&world.other, &changed(|params| validity(params, -3, -2)));
    assert!(check(&trust, &forged).is_err());
}

fn web_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.is_ca = IsCa::ExplicitNoCa;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    validity(&mut params, 0, 1);
    params.not_before -= time::Duration::seconds(10);
    params
}

#[test]
fn trusted_ca_takes_web_certificates_and_svids() {
    let web = root(ca_params("Web PKI"));
    let spire = spiffe_root("example.org");
    let trust = Validation::new(Trust::Ca(roots(&[&web, &spire])));
    let now = SystemTime::now();
    let server = leaf(&web, &web_params("web.test"));
    let verified = trust.verify(&server, Role::Server, None, now).unwrap();
    assert_eq!(verified.id, None);
    refused(&trust, &server, "extended_key_usage", "without clientAuth");
    assert!(
        check(&trust, &leaf(&spire, &svid_params(ID)))
            .unwrap()
            .id
            .is_some()
    );
    // Istio's own CA has no SPIFFE ID, and vouches for any domain.
    assert!(
        check(&trust, &leaf(&web, &svid_params(ID)))
            .unwrap()
            .id
            .is_some()
    );
    // A SPIFFE ID in the leaf makes all its rules hold.
    let server_only =
        changed(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let refusal = trust
        .verify(&leaf(&web, &server_only), Role::Server, None, now)
        .unwrap_err();
    assert_eq!(refusal.rule, "extended_key_usage");
    let upper = changed(|params| params.subject_alt_names = vec![uri("Spiffe://example.org/x")]);
    refused(&trust, &leaf(&web, &upper), "invalid_spiffe_id", "");
    let two =
        changed(|params| params.subject_alt_names = vec![uri("https://a/"), uri("https://b/")]);
    refused(&trust, &leaf(&web, &two), "several_uri_sans", "");
    let old = {
        let mut params = web_params("web.test");
        validity(&mut params, -2, -1);
        params
    };
    let refusal = trust
        .verify(&leaf(&web, &old), Role::Server, None, now)
        .unwrap_err();
    assert_eq!(refusal.rule, "expired");
    assert!(
        refusal.reason.starts_with("web.test is refused"),
        "{refusal}"
    );
}

#[test]
fn pooled_roots_do_not_mint_each_other_s_ids() {
    let world = world();
    let trust = Validation::new(Trust::Ca(roots(&[&world.own, &world.other])));
    for (ca, id) in [(&world.own, ID), (&world.other, "spiffe://domain.test/x")] {
        check(&trust, &leaf(ca, &svid_params(id))).unwrap();
    }
    let forged = leaf(&world.other, &svid_params(ID));
    refused(
        &trust,
        &forged,
        "foreign_signer",
        "CA of the trust domain domain.test, which cannot vouch for example.org",
    );
    let refusal = trust
        .verify(
            &leaf(&world.other, &web_params("web.test")),
            Role::Server,
            None,
            SystemTime::now(),
        )
        .unwrap_err();
    assert_eq!(refusal.rule, "foreign_signer");
    assert!(
        refusal
            .reason
            .contains("cannot vouch for a peer without a SPIFFE ID"),
        "{refusal}"
    );
    // Nor through an intermediate.
    let intermediate = world.other.intermediate(ca_params("DOWNSTREAM-1"));
    let chain = [
        intermediate.sign(&svid_params(ID)).0,
        intermediate.der.clone(),
    ];
    refused(&trust, &chain, "foreign_signer", "");
}

#[test]
fn names_must_match_where_names_are_given() {
    let world = world();
    let mut trust = Validation::new(bundles(&[("example.org", &world.own)]));
    trust.sans = vec![
        matcher(SanPattern::Exact("spiffe://example.org/other".into())),
        matcher(SanPattern::Prefix("spiffe://example.org/ns/".into())),
    ];
    let chain = leaf(&world.own, &svid_params(ID));
    check(&trust, &chain).unwrap();
    trust.sans.pop();
    let refusal = refused(&trust, &chain, "san_mismatch", ID);
    assert_eq!(refusal.counter, "fail_verify_san");

    let web = root(ca_params("Web PKI"));
    let mut trust = Validation::new(Trust::Ca(roots(&[&web])));
    trust.match_server_name = true;
    let chain = leaf(&web, &web_params("*.web.test"));
    let verify = |name| trust.verify(&chain, Role::Server, name, SystemTime::now());
    verify(Some("a.web.test")).unwrap();
    for name in [Some("web.test"), Some("evil.test"), None] {
        let refusal = verify(name).unwrap_err();
        assert_eq!(refusal.rule, "server_name_mismatch");
        assert_eq!(refusal.counter, "fail_verify_san");
    }
}

/// A federated domain's CA writes what it likes into the names beside the SPIFFE ID, such as the ID of a
/// workload of ours.
#[test]
fn no_name_beside_the_id_makes_a_peer_somebody_else() {
    let world = world();
    let ours = "spiffe://example.org/ns/default/sa/web";
    let mut params = svid_params("spiffe://domain.test/ns/default/sa/guest");
    for san in [
        SanType::DnsName(ours.try_into().unwrap()),
        SanType::Rfc822Name(ours.try_into().unwrap()),
    ] {
        params.subject_alt_names.push(san);
    }
    let chain = leaf(&world.other, &params);
    let pooled = Trust::Ca(roots(&[&world.own, &world.other]));
    for mut trust in [world.trust, Validation::new(pooled)] {
        check(&trust, &chain).unwrap();
        for pattern in [
            SanPattern::Exact(ours.into()),
            SanPattern::Prefix("spiffe://example.org/".into()),
            SanPattern::Suffix("/sa/web".into()),
            SanPattern::regex(".*/ns/default/sa/web").unwrap(),
        ] {
            for san in [None, Some(Uri)] {
                trust.sans = vec![SanMatcher {
                    san,
                    ..matcher(pattern.clone())
                }];
                refused(&trust, &chain, "san_mismatch", "");
            }
        }
    }
}

/// As in Envoy: a bundle vouches for no other kind of name.
#[test]
fn with_bundles_a_dns_name_admits_nobody() {
    let world = world();
    let mut params = svid_params(ID);
    let name = SanType::DnsName("web.test".try_into().unwrap());
    params.subject_alt_names.push(name);
    let chain = leaf(&world.own, &params);
    let pooled = Validation::new(Trust::Ca(roots(&[&world.own])));
    for (mut trust, admits) in [(world.trust, false), (pooled, true)] {
        for san in [None, Some(crate::SanType::Dns)] {
            trust.sans = vec![SanMatcher {
                san,
                ..matcher(SanPattern::Exact("web.test".into()))
            }];
            assert_eq!(check(&trust, &chain).is_ok(), admits, "{san:?}");
        }
    }
}

fn matcher(pattern: SanPattern) -> SanMatcher {
    SanMatcher {
        san: Some(Uri),
        pattern,
        ignore_case: false,
    }
}

#[test]
fn a_pin_must_fit_in_either_list() {
    let world = world();
    let chain = leaf(&world.own, &svid_params(ID));
    let sha256 = |bytes: &[u8]| -> [u8; 32] {
        digest::digest(&digest::SHA256, bytes)
            .as_ref()
            .try_into()
            .unwrap()
    };
    let parsed = certificate::parse(&chain[0]).unwrap();
    let (certificate, key) = (sha256(&chain[0]), sha256(parsed.public_key().raw));
    for (certificates, keys, passes) in [
        (vec![certificate], vec![], true),
        (vec![], vec![key], true),
        (vec![[0; 32]], vec![key], true),
        (vec![[0; 32], certificate], vec![[0; 32]], true),
        (vec![[0; 32]], vec![], false),
        (vec![], vec![certificate], false),
        (vec![key], vec![[0; 32]], false),
    ] {
        // Pins bind even where nothing else is verified.
        for trust in [
            bundles(&[("example.org", &world.own)]),
            Trust::AcceptUntrusted,
        ] {
            let mut trust = Validation::new(trust);
            trust.certificate_hashes = certificates.clone();
            trust.spki_hashes = keys.clone();
            if passes {
                check(&trust, &chain).unwrap();
            } else {
                let refusal = refused(&trust, &chain, "hash_mismatch", "pinned");
                assert_eq!(refusal.counter, "fail_verify_cert_hash");
            }
        }
    }
}

#[test]
fn accept_untrusted_believes_no_id() {
    let stranger = spiffe_root("stranger.test");
    let trust = Validation::new(Trust::AcceptUntrusted);
    let id = "spiffe://example.org/admin";
    let verified = check(&trust, &leaf(&stranger, &svid_params(id))).unwrap();
    assert_eq!(verified.id, None);
    let two = changed(|params| params.subject_alt_names.push(uri("spiffe://domain.test/x")));
    refused(&trust, &leaf(&stranger, &two), "several_uri_sans", "");
}

fn crl(issuer: &Ca, serials: &[u64], next_update: i64) -> CertificateRevocationListDer<'static> {
    let day = |days| time::OffsetDateTime::now_utc() + time::Duration::days(days);
    let revoked = serials.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: day(-1),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: day(-2),
        next_update: day(next_update),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&issuer.issuer).unwrap().der().clone()
}

fn with_crls(ca: &Ca, crls: &[CertificateRevocationListDer<'_>]) -> Validation {
    let roots = Roots::from_der(vec![ca.der.clone()], crls).unwrap();
    Validation::new(Trust::Spiffe(
        [(domain("example.org"), Arc::new(roots))].into(),
    ))
}

#[test]
fn a_crl_speaks_for_what_its_issuer_issued() {
    let ca = spiffe_root("example.org");
    let intermediate = {
        let mut params = ca_params("DOWNSTREAM-1");
        params.serial_number = Some(77_u64.into());
        ca.intermediate(params)
    };
    let serial = |serial: u64| changed(|params| params.serial_number = Some(serial.into()));
    let direct = leaf(&ca, &serial(5));
    let via = [intermediate.sign(&serial(5)).0, intermediate.der.clone()];

    let trust = with_crls(&ca, &[crl(&ca, &[5], 1)]);
    let refusal = refused(&trust, &direct, "revoked", "its certificate was revoked");
    assert_eq!(refusal.counter, "fail_verify_error");
    check(&trust, &leaf(&ca, &serial(6))).unwrap();
    // The same serial under another issuer is another certificate, and no CRL is needed for it.
    check(&trust, &via).unwrap();

    let trust = with_crls(&ca, &[crl(&ca, &[77], 1)]);
    refused(
        &trust,
        &via,
        "revoked",
        "a CA that signed its certificate was revoked",
    );
    let trust = with_crls(&ca, &[crl(&intermediate, &[5], 1)]);
    refused(&trust, &via, "revoked", "its certificate was revoked");
    check(&trust, &direct).unwrap();

    // Of a CA with the same name and another key, as after a rotation, before or behind the right one.
    let twin = spiffe_root("example.org");
    check(&with_crls(&ca, &[crl(&twin, &[5], 1)]), &direct).unwrap();
    let both = with_crls(&ca, &[crl(&twin, &[], 1), crl(&ca, &[5], 1)]);
    refused(&both, &direct, "revoked", "");
}

#[test]
fn a_stale_crl_refuses_unless_a_fresh_one_is_there() {
    let ca = spiffe_root("example.org");
    let chain = leaf(
        &ca,
        &changed(|params| params.serial_number = Some(5_u64.into())),
    );
    let stale = crl(&ca, &[], -1);
    refused(
        &with_crls(&ca, std::slice::from_ref(&stale)),
        &chain,
        "crl_expired",
        "out of date since 20",
    );
    check(&with_crls(&ca, &[stale, crl(&ca, &[], 1)]), &chain).unwrap();
    refused(
        &with_crls(&ca, &[crl(&ca, &[5], -1)]),
        &chain,
        "revoked",
        "",
    );
}

#[test]
fn a_judgement_ends_with_what_it_rests_on() {
    let ca = spiffe_root("example.org");
    let chain = leaf(&ca, &changed(|params| validity(params, -1, 5)));
    let verified = check(&with_crls(&ca, &[crl(&ca, &[], 2)]), &chain).unwrap();
    let in_days = |days| SystemTime::now() + days * DAY;
    assert!((in_days(1)..in_days(3)).contains(&verified.valid_until));
    assert!((in_days(4)..in_days(6)).contains(&verified.not_after));
    let mut short = ca_params("DOWNSTREAM-1");
    validity(&mut short, -1, 1);
    let short = ca.intermediate(short);
    let chain = [
        short.sign(&changed(|params| validity(params, -1, 5))).0,
        short.der.clone(),
    ];
    let verified = check(&with_crls(&ca, &[]), &chain).unwrap();
    assert!(verified.valid_until < in_days(2));
}

#[test]
fn pem_is_read_with_its_crls_or_refused_by_name() {
    let ca = spiffe_root("example.org");
    let pem = |label: &str, der: &[u8]| {
        let base64 = BASE64_STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
    };
    let root = pem("CERTIFICATE", &ca.der);
    let list = pem("X509 CRL", crl(&ca, &[5], 1).as_ref());
    let chain = leaf(
        &ca,
        &changed(|params| params.serial_number = Some(5_u64.into())),
    );
    for (roots, crl) in [
        (format!("{root}{list}"), String::new()),
        (root.clone(), list),
    ] {
        let roots = Roots::from_pem(roots.as_bytes(), crl.as_bytes()).unwrap();
        let trust = Validation::new(Trust::Ca(Arc::new(roots)));
        refused(&trust, &chain, "revoked", "");
    }
    let error = |roots: &str, crl: &str| {
        Roots::from_pem(roots.as_bytes(), crl.as_bytes())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(error("", ""), "trusted_ca has no certificate");
    let rubbish = pem("CERTIFICATE", b"rubbish");
    let broken = error(&format!("{root}{rubbish}"), "");
    assert!(
        broken.starts_with("trusted_ca is malformed: certificate 2: "),
        "{broken}"
    );
    let broken = error(&root, &pem("X509 CRL", b"rubbish"));
    assert!(broken.starts_with("crl is malformed: "), "{broken}");
    let nothing = error(&root, "rubbish");
    assert_eq!(nothing, "crl is malformed: there is no CRL in it");
    let broken = error(
        "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----",
        "",
    );
    assert!(broken.starts_with("trusted_ca is malformed: "), "{broken}");
}

#[test]
fn a_chain_that_passed_is_remembered_until_it_ends() {
    let world = world();
    let chain = leaf(&world.own, &svid_params(ID));
    let now = SystemTime::now();
    let judge = |now| world.trust.judge(&chain[0], &[], Role::Client, None, now);
    let first = judge(now).unwrap();
    assert!(Arc::ptr_eq(
        &first,
        &judge(now + Duration::from_secs(1)).unwrap()
    ));
    assert_eq!(judge(first.not_after + DAY).unwrap_err().rule, "expired");
    assert_eq!(judge(now - DAY).unwrap_err().rule, "not_yet_valid");
    // The role is part of what is remembered, and refusals are not.
    let other = world
        .trust
        .judge(&chain[0], &[], Role::Server, None, now)
        .unwrap();
    assert!(!Arc::ptr_eq(&first, &other));
    let forged = leaf(&world.other, &svid_params(ID));
    assert!(
        world
            .trust
            .judge(&forged[0], &[], Role::Client, None, now)
            .is_err()
    );
    assert_eq!(world.trust.memory.len(), 2);
    // A chain is the whole chain.
    let longer = world
        .trust
        .judge(&chain[0], &forged, Role::Client, None, now)
        .unwrap();
    assert!(!Arc::ptr_eq(&first, &longer));
    let run_out = Peer {
        chain: first.chain.clone(),
        id: first.id.clone(),
        not_after: first.not_after,
        valid_until: now - Duration::from_secs(1),
        server_name: None,
    };
    let renewed = world.trust.reverify(&run_out, Role::Client, now).unwrap();
    assert!(renewed.valid_until > now, "until when it stands now");
    let withdrawn = Validation::new(bundles(&[("domain.test", &world.other)]));
    let refusal = withdrawn.reverify(&first, Role::Client, now).unwrap_err();
    assert_eq!(refusal.rule, "unknown_trust_domain");
}

/// What `file-root:system` holds.
#[test]
fn the_system_s_roots_are_read() {
    const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";
    let Ok(pem) = std::fs::read(SYSTEM) else {
        println!("skipped: this machine has no {SYSTEM}");
        return;
    };
    let roots = Roots::from_pem(&pem, b"").unwrap();
    let usable: usize = roots
        .anchors_for(None)
        .map(|anchors| anchors.unexpired(SystemTime::now()).len())
        .sum();
    assert!(usable > 0 && usable > roots.certificates().len() / 2);
}
