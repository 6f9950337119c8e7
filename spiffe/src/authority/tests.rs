use std::collections::BTreeSet;

use tokio::sync::watch;

use super::*;
use crate::{Caller, IdentitySnapshot, IdentityState, JwtProvider, JwtSvid, Provider};

fn td(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn web() -> SpiffeId {
    id("spiffe://domain.test/web")
}

fn config(names: &[&str]) -> AuthorityConfig {
    let domain = |name: &&str| {
        let mut domain = TrustDomainConfig::new(td(name));
        let web = WorkloadConfig::new(id(&format!("spiffe://{name}/web")));
        domain.workloads.push(web);
        domain
    };
    AuthorityConfig {
        trust_domains: names.iter().map(domain).collect(),
        federation: Vec::new(),
    }
}

fn start(names: &[&str]) -> Authority {
    Authority::start(config(names)).unwrap()
}

type States = watch::Receiver<IdentityState>;

fn states(authority: &Authority, name: &str) -> States {
    authority
        .agent(name)
        .unwrap()
        .identities(&Caller::default())
}

fn snapshot(states: &States) -> Arc<IdentitySnapshot> {
    states.borrow().snapshot().cloned().unwrap()
}

fn verify(svid: &X509Svid, snapshot: &IdentitySnapshot) -> Result<(), String> {
    let no_bundle = || format!("no bundle for {}", svid.id);
    let bundle = snapshot
        .bundles
        .get(svid.id.trust_domain_name())
        .ok_or_else(no_bundle)?;
    let anchors: Vec<_> = bundle
        .roots
        .iter()
        .map(|root| webpki::anchor_from_trusted_cert(root).unwrap())
        .collect();
    let crls: Vec<_> = snapshot
        .crls
        .iter()
        .map(|crl| {
            webpki::OwnedCertRevocationList::from_der(crl)
                .unwrap()
                .into()
        })
        .collect();
    let crls: Vec<&webpki::CertRevocationList<'_>> = crls.iter().collect();
    let revocation = webpki::RevocationOptionsBuilder::new(&crls).ok();
    webpki::EndEntityCert::try_from(svid.leaf())
        .unwrap()
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &svid.chain[1..],
            rustls_pki_types::UnixTime::now(),
            webpki::KeyUsage::client_auth(),
            revocation.map(|revocation| revocation.build()),
            None,
        )
        .map(drop)
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn federation_is_joined_and_left_at_run_time() {
    let authority = start(&["domain.test", "example.org", "third.test"]);
    let mut ours = states(&authority, "domain.test");
    let peer = authority
        .mint("example.org", &id("spiffe://example.org/x"), None, &[])
        .unwrap();
    assert!(verify(&peer, &snapshot(&ours)).is_err());

    authority
        .federate(&td("domain.test"), &td("example.org"))
        .unwrap();
    assert!(ours.has_changed().unwrap());
    ours.mark_unchanged();
    verify(&peer, &snapshot(&ours)).unwrap();
    let back = snapshot(&states(&authority, "example.org"));
    assert!(back.bundles.contains_key("domain.test"));
    assert!(!back.bundles.contains_key("third.test"));

    authority
        .unfederate(&td("domain.test"), &td("example.org"))
        .unwrap();
    assert!(ours.has_changed().unwrap());
    assert!(verify(&peer, &snapshot(&ours)).is_err());
}

/// Each process that asks is another caller: what is kept for them does not grow with their number.
#[tokio::test]
async fn callers_that_are_gone_are_forgotten() {
    let authority = start(&["domain.test"]);
    let agent = authority.agent("domain.test").unwrap();
    let caller = |pid| Caller {
        pid: Some(pid),
        ..Caller::default()
    };
    let stays = agent.identities(&caller(0));
    for pid in 1..10_000 {
        drop(agent.identities(&caller(pid)));
    }
    let kept = authority.shared.state.lock().outlets.len();
    assert!(kept <= 128, "{kept} are kept");
    authority.rotate_leaf("domain.test", None).unwrap();
    assert!(stays.has_changed().unwrap(), "who listens is not forgotten");
}

#[tokio::test]
async fn a_root_rotates_so_that_each_step_verifies() {
    let authority = start(&["domain.test"]);
    let states = states(&authority, "domain.test");
    let before = snapshot(&states);
    authority.prepare_root("domain.test").unwrap();
    let prepared = snapshot(&states);
    assert_eq!(prepared.bundles["domain.test"].roots.len(), 2);
    verify(&before.svids[0], &prepared).unwrap();
    authority.activate_root("domain.test").unwrap();
    let activated = snapshot(&states);
    // Whoever learnt of the prepared root, and nothing since, trusts the new leaf; and the other way round.
    verify(&activated.svids[0], &prepared).unwrap();
    verify(&before.svids[0], &activated).unwrap();
    assert!(verify(&activated.svids[0], &before).is_err());
    authority.drop_old_roots("domain.test").unwrap();
    let dropped = snapshot(&states);
    assert_eq!(dropped.bundles["domain.test"].roots.len(), 1);
    verify(&activated.svids[0], &dropped).unwrap();
    assert!(verify(&before.svids[0], &dropped).is_err());
    let error = authority.activate_root("domain.test").unwrap_err();
    assert!(
        matches!(error, AuthorityError::NoPreparedRoot(_)),
        "{error}"
    );
}

#[tokio::test]
async fn two_authorities_share_a_root_below_their_own_rsa_intermediates() {
    let mut config = config(&["domain.test", "domain.test"]);
    for (domain, name) in config.trust_domains.iter_mut().zip(["east", "west"]) {
        domain.authority = Some(name.into());
        domain.root = Some("nested".into());
        domain.intermediate = Some(KeyType::Rsa2048);
    }
    let authority = Authority::start(config).unwrap();
    let east = snapshot(&states(&authority, "east"));
    let west = snapshot(&states(&authority, "west"));
    assert_eq!(east.bundles, west.bundles);
    assert_eq!(east.bundles["domain.test"].roots.len(), 1);
    assert_ne!(east.svids[0].chain[1], west.svids[0].chain[1]);
    verify(&east.svids[0], &west).unwrap();
    authority.rotate_intermediate("east").unwrap();
    let renewed = snapshot(&states(&authority, "east"));
    assert_ne!(renewed.svids[0].chain[1], east.svids[0].chain[1]);
    verify(&renewed.svids[0], &west).unwrap();
}

#[tokio::test]
async fn a_revoked_svid_is_refused_and_the_others_are_not() {
    let mut config = config(&["domain.test", "example.org"]);
    config.trust_domains[0].intermediate = Some(KeyType::EcP256);
    config.federation = vec![(td("domain.test"), td("example.org"))];
    let authority = Authority::start(config).unwrap();
    let peers = states(&authority, "example.org");
    let revoked = authority.mint("domain.test", &web(), None, &[]).unwrap();
    let other = authority.mint("domain.test", &web(), None, &[]).unwrap();
    assert!(snapshot(&peers).crls.is_empty());
    verify(&revoked, &snapshot(&peers)).unwrap();
    let parsed = x509_parser::parse_x509_certificate(revoked.leaf())
        .unwrap()
        .1;
    let serial = Serial::from_bytes(parsed.raw_serial());
    assert_eq!(serial.to_string().parse(), Ok(serial.clone()));
    authority.revoke("domain.test", &serial).unwrap();
    // The root has a CRL too: Envoy wants one of each CA in a chain.
    assert_eq!(snapshot(&peers).crls.len(), 2);
    let error = verify(&revoked, &snapshot(&peers)).unwrap_err();
    assert!(error.contains("Revoked"), "{error}");
    verify(&other, &snapshot(&peers)).unwrap();
    let forged = authority
        .forge("domain.test", &web(), Forgery::Revoked)
        .unwrap();
    let forged = X509Svid::new(forged.chain, forged.key, None).unwrap();
    assert!(verify(&forged, &snapshot(&peers)).is_err());
    authority.prepare_root("domain.test").unwrap();
    authority.activate_root("domain.test").unwrap();
    verify(
        &snapshot(&states(&authority, "domain.test")).svids[0],
        &snapshot(&peers),
    )
    .unwrap();
}

#[tokio::test]
async fn identities_are_withdrawn_and_granted() {
    let authority = start(&["domain.test"]);
    let states = states(&authority, "domain.test");
    authority.withdraw("domain.test", &web()).unwrap();
    assert!(matches!(*states.borrow(), IdentityState::Withdrawn(_)));
    let error = authority.withdraw("domain.test", &web()).unwrap_err();
    assert!(
        matches!(error, AuthorityError::UnknownWorkload { .. }),
        "{error}"
    );
    authority
        .grant("domain.test", WorkloadConfig::new(web()))
        .unwrap();
    assert_eq!(snapshot(&states).svids[0].id, web());
    let foreign = WorkloadConfig::new(id("spiffe://example.org/web"));
    let error = authority.grant("domain.test", foreign).unwrap_err();
    assert_eq!(
        error.to_string(),
        "configuration: id: spiffe://example.org/web is not of trust domain domain.test"
    );
}

#[tokio::test]
async fn callers_are_told_apart() {
    let mut config = config(&["domain.test", "example.org"]);
    config.federation = vec![(td("domain.test"), td("example.org"))];
    let workload = |name: &str, selector: Selector| WorkloadConfig {
        selector,
        ..WorkloadConfig::new(id(&format!("spiffe://domain.test/{name}")))
    };
    let uid = |uid| Selector {
        uid: Some(uid),
        ..Selector::default()
    };
    let pid = Selector {
        pid: Some(7),
        ..uid(1)
    };
    let mut lonely = workload("lonely", Selector::default());
    lonely.socket = Some("/nowhere".into());
    lonely.federates_with = Some(BTreeSet::new());
    config.trust_domains[0].workloads = vec![
        workload("a", uid(1)),
        workload("b", uid(2)),
        workload("c", pid),
        lonely,
    ];
    let authority = Authority::start(config).unwrap();
    let agent = authority.agent("domain.test").unwrap();
    let names = |uid, pid| {
        let caller = Caller {
            uid: Some(uid),
            gid: Some(0),
            pid: Some(pid),
        };
        let states = agent.identities(&caller);
        let state = states.borrow();
        let svids = state.snapshot().map(|snapshot| snapshot.svids.clone());
        let paths = svids.unwrap_or_default();
        paths
            .iter()
            .map(|svid| svid.id.path().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(1, 6), ["/a"]);
    assert_eq!(names(1, 7), ["/a", "/c"]);
    assert_eq!(names(2, 7), ["/b"]);
    assert_eq!(names(3, 7), [""; 0]);
    // Over TCP nobody is known.
    assert!(
        agent
            .identities(&Caller::default())
            .borrow()
            .snapshot()
            .is_none()
    );
    let lonely = authority
        .workload("domain.test", &id("spiffe://domain.test/lonely"))
        .unwrap();
    let own = snapshot(&lonely.identities(&Caller::default()));
    assert_eq!(own.svids[0].id.path(), "/lonely");
    assert!(!own.bundles.contains_key("example.org"));
}

#[tokio::test]
async fn svids_of_seconds_rotate_at_half_their_life() {
    let mut config = config(&["domain.test"]);
    config.trust_domains[0].svid_ttl = Duration::from_secs(2);
    let authority = Authority::start(config).unwrap();
    let mut states = states(&authority, "domain.test");
    let first = snapshot(&states).svids[0].clone();
    states.mark_unchanged();
    let started = std::time::Instant::now();
    for _ in 0..2 {
        timeout(Duration::from_secs(10), states.changed())
            .await
            .unwrap()
            .unwrap();
        states.mark_unchanged();
    }
    let elapsed = started.elapsed();
    assert!(
        elapsed > Duration::from_millis(1500),
        "rotated twice in {elapsed:?}"
    );
    let svid = snapshot(&states).svids[0].clone();
    assert_ne!(svid.chain, first.chain);
    assert!(!svid.is_expired(SystemTime::now()));
}

#[tokio::test]
async fn roots_of_seconds_rotate_by_themselves() {
    let mut config = config(&["domain.test"]);
    config.trust_domains[0].root_ttl = Duration::from_secs(4);
    let authority = Authority::start(config).unwrap();
    let states = states(&authority, "domain.test");
    let first = snapshot(&states);
    let renewed = async {
        loop {
            let now = snapshot(&states);
            verify(&now.svids[0], &now).unwrap();
            if now.bundles["domain.test"].roots[0] != first.bundles["domain.test"].roots[0] {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(15), renewed).await.unwrap();
}

#[tokio::test]
async fn jwt_svids_verify_with_the_bundle_of_their_trust_domain() {
    let mut config = config(&["domain.test", "example.org"]);
    config.federation = vec![(td("domain.test"), td("example.org"))];
    let authority = Authority::start(config).unwrap();
    let ours = authority.agent("domain.test").unwrap();
    let audience = ["api".to_owned()];
    let svid = ours.mint(&Caller::default(), &audience, None).remove(0);
    let peer = authority.agent("example.org").unwrap();
    let bundles = peer.bundles(&Caller::default()).borrow().clone().unwrap();
    let valid = JwtSvid::validate(svid.token(), "api", &bundles).unwrap();
    assert_eq!(valid.id, web());
    let check = |token: &str, audience: &str| {
        JwtSvid::validate(token, audience, &bundles)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        check(svid.token(), "other"),
        "has the audience [\"api\"], not \"other\""
    );
    let forged = format!("{}A", &svid.token()[..svid.token().len() - 1]);
    let forged = if forged == svid.token() {
        format!("{}B", &forged[..forged.len() - 1])
    } else {
        forged
    };
    assert!(
        check(&forged, "api").starts_with("is not signed by the key"),
        "{forged}"
    );
    assert!(check("a.b.c", "api").starts_with("is not a JWT"));
    authority
        .unfederate(&td("domain.test"), &td("example.org"))
        .unwrap();
    let bundles = peer.bundles(&Caller::default()).borrow().clone().unwrap();
    let error = JwtSvid::validate(svid.token(), "api", &bundles).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no JWT bundle for trust domain domain.test"
    );
    assert!(
        ours.mint(
            &Caller::default(),
            &audience,
            Some(&id("spiffe://domain.test/no"))
        )
        .is_empty()
    );
    assert!(!format!("{svid:?}").contains(svid.token()));
}

#[test]
fn broken_configurations_are_refused_by_field() {
    let broken = |json: &str| {
        let config = serde_json::from_str::<AuthorityConfig>(json);
        config
            .map_err(|error| error.to_string())
            .and_then(|config| config.check().map_err(|error| error.to_string()))
            .unwrap_err()
    };
    for (json, error) in [
        (r#"{"trust_domains":[]}"#, "trust_domains: is empty"),
        (
            r#"{"trust_domains":[{"name":"Bad"}]}"#,
            "trust domain has the character 'B'",
        ),
        (
            r#"{"trust_domains":[{"name":"a"},{"name":"a"}]}"#,
            "trust_domains[1].authority: \"a\" occurs twice",
        ),
        (
            r#"{"trust_domains":[{"name":"a","root":"r"}]}"#,
            "trust_domains[0].intermediate: is needed",
        ),
        (
            r#"{"trust_domains":[{"name":"a","svid_ttl":"0s"}]}"#,
            "trust_domains[0].svid_ttl: is shorter",
        ),
        (
            r#"{"trust_domains":[{"name":"a","svid_ttl":"1 hour"}]}"#,
            "\"1 hour\" is not a duration",
        ),
        (
            r#"{"trust_domains":[{"name":"a","nonsense":1}]}"#,
            "unknown field `nonsense`",
        ),
        (
            r#"{"trust_domains":[{"name":"a","intermediate":"rsa-512"}]}"#,
            "unknown variant `rsa-512`",
        ),
        (
            r#"{"trust_domains":[{"name":"a","workloads":[{"id":"spiffe://b/x"}]}]}"#,
            "trust_domains[0].workloads[0].id: spiffe://b/x is not of trust domain a",
        ),
        (
            r#"{"trust_domains":[{"name":"a"}],"federation":[["a","b"]]}"#,
            "federation[0]: b is not among",
        ),
    ] {
        let found = broken(json);
        assert!(found.contains(error), "{json}: {found}");
    }
}

#[test]
fn durations_are_read_and_written() {
    for text in ["500ms", "30s", "5m", "1h", "7d"] {
        assert_eq!(format_duration(parse_duration(text).unwrap()), text);
    }
    for text in [
        "",
        "s",
        "30",
        "-1s",
        "1.5h",
        "9999999999999999999d",
        "99999999d",
    ] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}
