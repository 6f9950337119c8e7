//! How far trust reaches: bound to domains, pooled where nobody says whose roots they are, and let into
//! inbound listeners only where an operator said so.

use std::sync::Arc;

use ithildin_proto::pb::envoy::{
    extensions::transport_sockets::tls::v3::{Secret, secret},
    r#type::matcher::v3::string_matcher::MatchPattern,
};
use ithildin_spiffe::{IdentityState, X509Bundle};
use ithildin_xds::{
    LocalSecrets, SdsOptions, SecretRef, SecretState, SecretSubscriber,
    sds::{FEDERATED_BUNDLE, roots_pem},
};
use tokio::sync::watch;

use crate::common::{LIMIT, Mesh, OTHER, OWN, domain, summaries};

/// What a context lets in beside what its user names.
#[allow(deprecated)]
fn admitted(secret: &Secret) -> Vec<String> {
    let Some(secret::Type::ValidationContext(context)) = &secret.r#type else {
        panic!("no trust: {secret:?}");
    };
    assert!(context.match_typed_subject_alt_names.is_empty());
    let rules = context.match_subject_alt_names.iter();
    rules
        .map(|rule| match &rule.match_pattern {
            Some(MatchPattern::Prefix(prefix)) => prefix.clone(),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn federated(names: &[&str]) -> SdsOptions {
    SdsOptions {
        federated: names.iter().map(|name| domain(name)).collect(),
        ..SdsOptions::default()
    }
}

async fn until(
    states: &mut watch::Receiver<SecretState>,
    wanted: impl Fn(&Secret) -> bool,
) -> Secret {
    let is = |state: &SecretState| matches!(state, SecretState::Ready(secret) if wanted(secret));
    let state = tokio::time::timeout(LIMIT, states.wait_for(is)).await;
    match &*state.expect("the secret comes").unwrap() {
        SecretState::Ready(secret) => Secret::clone(secret),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn without_the_switch_nobody_is_let_in() {
    let mesh = Mesh::start().await;
    let names = ["ROOTCA", FEDERATED_BUNDLE];
    let mut stream = mesh.stream().await;
    stream.ask(&names).await;
    for secret in stream.secrets(&names).await {
        assert!(admitted(&secret).is_empty(), "{}", secret.name);
    }
}

/// A federation that comes, goes and comes again, on both ways to the secret.
#[tokio::test]
async fn a_named_domain_is_let_in_while_there_is_a_bundle_for_it() {
    let options = federated(&[OTHER, "without.bundle"]);
    let mesh = Mesh::with(options.clone()).await;
    let local = LocalSecrets::new(mesh.identity.subscribe(), options, Default::default());
    let mut local = local.subscribe(&SecretRef {
        name: FEDERATED_BUNDLE.into(),
        source: None,
    });
    let names = [FEDERATED_BUNDLE];
    let mut stream = mesh.stream().await;
    stream.ask(&names).await;
    let with = [format!("spiffe://{OTHER}/")];
    assert_eq!(admitted(&stream.secrets(&names).await[0]), with);
    until(&mut local, |secret| admitted(secret) == with).await;

    mesh.authority
        .unfederate(&domain(OWN), &domain(OTHER))
        .unwrap();
    mesh.sync().await;
    let gone = stream.secrets(&names).await;
    assert!(admitted(&gone[0]).is_empty());
    assert_eq!(
        summaries(&gone),
        [format!("{FEDERATED_BUNDLE}: spiffe {OWN}=1")]
    );
    until(&mut local, |secret| admitted(secret).is_empty()).await;

    mesh.authority
        .federate(&domain(OWN), &domain(OTHER))
        .unwrap();
    mesh.sync().await;
    assert_eq!(admitted(&stream.secrets(&names).await[0]), with);
    until(&mut local, |secret| admitted(secret) == with).await;

    // A domain that has revoked all its roots is trusted for nothing.
    let IdentityState::Ready(mut snapshot) = mesh.identity.borrow().clone() else {
        panic!("no identity");
    };
    let empty = X509Bundle {
        trust_domain: domain(OTHER),
        roots: Vec::new(),
    };
    let bundles = &mut Arc::make_mut(&mut snapshot).bundles;
    bundles.insert(domain(OTHER), Arc::new(empty));
    mesh.identity.send_replace(IdentityState::Ready(snapshot));
    assert!(admitted(&stream.secrets(&names).await[0]).is_empty());
    until(&mut local, |secret| admitted(secret).is_empty()).await;
}

/// The trust that outbound contexts use is never widened.
#[tokio::test]
async fn the_switch_leaves_all_other_names_alone() {
    let mesh = Mesh::with(federated(&[OTHER])).await;
    let names = ["ROOTCA", "ALL", "spiffe://otherdomain.test"];
    let mut stream = mesh.stream().await;
    stream.ask(&names).await;
    for secret in stream.secrets(&names).await {
        assert!(admitted(&secret).is_empty(), "{}", secret.name);
    }
}

#[tokio::test]
async fn roots_are_pooled_where_nobody_says_whose_they_are_or_an_operator_wants_it() {
    let mesh = Mesh::start().await;
    let IdentityState::Ready(bound) = mesh.identity.borrow().clone() else {
        panic!("no identity");
    };
    let secret = |options: SdsOptions, state: IdentityState| {
        let states = watch::channel(state).1;
        let local = LocalSecrets::new(states, options, Default::default());
        let states = local.subscribe(&SecretRef {
            name: "ROOTCA".into(),
            source: None,
        });
        let state = states.borrow().clone();
        match state {
            SecretState::Ready(secret) => Secret::clone(&secret),
            other => panic!("{other:?}"),
        }
    };
    let of_domains = secret(SdsOptions::default(), IdentityState::Ready(bound.clone()));
    assert_eq!(
        summaries(&[of_domains]),
        [format!("ROOTCA: spiffe {OWN}=1 {OTHER}=1")]
    );

    let pooled = SdsOptions {
        pool_roots: true,
        ..SdsOptions::default()
    };
    let pooled = secret(pooled, IdentityState::Ready(bound.clone()));
    assert_eq!(summaries(std::slice::from_ref(&pooled)), ["ROOTCA: ca 2"]);

    let roots = bound.bundles[OWN].roots.clone();
    let unbound = (*bound).clone().with_unbound_roots(roots);
    let unbound = secret(SdsOptions::default(), IdentityState::Ready(unbound.into()));
    assert_eq!(
        roots_pem(&unbound),
        roots_pem(&pooled),
        "each root once, in one order"
    );
}
