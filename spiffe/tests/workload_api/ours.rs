//! Our client with our server.

use std::time::{Duration, Instant, SystemTime};

use ithildin_proto::workload::{
    JwtsvidRequest, X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use ithildin_spiffe::{
    IdentityState, Source, SvidSelector,
    authority::{Authority, WorkloadConfig},
    workload_api::{
        BundleSource, BundleState, SourceOptions, WorkloadApiClient, WorkloadApiSource,
    },
};
use tempfile::tempdir;
use tonic::{Code, Request, transport::Endpoint};

use crate::support::*;

/// A back-off that grows is in its pause of eight to sixteen seconds then, or its next.
const OUTAGE: Duration = Duration::from_secs(15);
/// Far more than the second that a new socket takes to be found, and less than such a pause.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn identities_arrive_rotate_and_follow_the_federation() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let authority = authority();
    let _serving = Serving::start(&authority, &path);
    let source = WorkloadApiSource::start(endpoint(&path), SourceOptions::default());
    let mut states = source.subscribe();
    let first = ready(&mut states, |_| true).await;
    assert_eq!(first.svids[0].id.as_str(), WEB);
    assert!(first.bundles.contains_key("example.org"));
    let selected = first.select(&SvidSelector::Id(id(WEB))).unwrap();
    assert!(std::sync::Arc::ptr_eq(selected, &first.svids[0]));
    assert!(first.select(&SvidSelector::Hint("none".into())).is_none());

    authority.rotate_leaf("domain.test", None).unwrap();
    ready(&mut states, |now| {
        now.svids[0].chain != first.svids[0].chain
    })
    .await;

    authority
        .unfederate(&td("domain.test"), &td("example.org"))
        .unwrap();
    ready(&mut states, |now| !now.bundles.contains_key("example.org")).await;

    authority.prepare_root("domain.test").unwrap();
    ready(&mut states, |now| {
        now.bundles["domain.test"].roots.len() == 2
    })
    .await;

    authority.revoke_workload("domain.test", &id(WEB)).unwrap();
    ready(&mut states, |now| !now.crls.is_empty()).await;
}

#[tokio::test]
async fn a_denial_withdraws_and_a_new_registration_is_picked_up() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let authority = authority();
    let _serving = Serving::start(&authority, &path);
    let source = WorkloadApiSource::start(endpoint(&path), SourceOptions::default());
    let mut states = source.subscribe();
    ready(&mut states, |_| true).await;
    authority.withdraw("domain.test", &id(WEB)).unwrap();
    let reason = withdrawn(&mut states).await;
    assert_eq!(
        reason,
        "the Workload API answered PermissionDenied: no identity issued"
    );
    authority
        .grant("domain.test", WorkloadConfig::new(id(WEB)))
        .unwrap();
    ready(&mut states, |_| true).await;
}

#[tokio::test]
async fn a_socket_that_comes_late_is_picked_up_within_about_a_second() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("later/agent.sock");
    let source = WorkloadApiSource::start(endpoint(&path), SourceOptions::default());
    let mut states = source.subscribe();
    let state = until(
        &mut states,
        |state| matches!(state, IdentityState::Waiting(reason) if reason.contains("cannot connect")),
    );
    let IdentityState::Waiting(reason) = state.await else {
        panic!("waited for it");
    };
    assert!(reason.contains("agent.sock"), "{reason}");
    tokio::time::sleep(OUTAGE).await;
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    let authority = authority();
    let started = Instant::now();
    let _serving = Serving::start(&authority, &path);
    ready(&mut states, |_| true).await;
    let took = started.elapsed();
    assert!(took < SOON, "took {took:?}");
}

#[tokio::test]
async fn an_outage_keeps_the_identity_and_a_restart_is_noticed() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let first = authority();
    let serving = Serving::start(&first, &path);
    let source = WorkloadApiSource::start(endpoint(&path), SourceOptions::default());
    let mut states = source.subscribe();
    let before = ready(&mut states, |_| true).await;
    drop(serving);
    tokio::time::sleep(OUTAGE).await;
    assert_eq!(states.borrow().snapshot(), Some(&before));
    let second = authority();
    let started = Instant::now();
    let _serving = Serving::start(&second, &path);
    ready(&mut states, |now| now.bundles != before.bundles).await;
    let took = started.elapsed();
    assert!(took < SOON, "took {took:?}");
}

#[tokio::test]
async fn an_identity_ends_at_its_not_after_and_never_later() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let authority = Authority::start(config(Duration::from_secs(3))).unwrap();
    let serving = Serving::start(&authority, &path);
    let source = WorkloadApiSource::start(endpoint(&path), SourceOptions::default());
    let mut states = source.subscribe();
    ready(&mut states, |_| true).await;
    drop(serving);
    let last = states.borrow_and_update().snapshot().cloned().unwrap();
    let reason = withdrawn(&mut states).await;
    let late = SystemTime::now()
        .duration_since(last.svids[0].not_after)
        .unwrap();
    assert_eq!(reason, "every SVID expired before it was renewed");
    assert!(late < SOON, "{late:?} late");
}

#[tokio::test]
async fn calls_without_the_security_header_are_refused() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let authority = authority();
    let _serving = Serving::start(&authority, &path);
    let channel = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
    let mut client = SpiffeWorkloadApiClient::new(channel.connect().await.unwrap());
    for header in [None, Some("TRUE"), Some("false"), Some("")] {
        let mut request = Request::new(X509svidRequest {});
        if let Some(value) = header {
            request
                .metadata_mut()
                .insert("workload.spiffe.io", value.parse().unwrap());
        }
        let status = client.fetch_x509svid(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{header:?}");
        assert_eq!(status.message(), "security header missing from request");
    }
    let request = Request::new(JwtsvidRequest::default());
    let status = client.fetch_jwtsvid(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn bundles_come_alone_too() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let authority = authority();
    let _serving = Serving::start(&authority, &path);
    let source = BundleSource::start(endpoint(&path), SourceOptions::default());
    let mut states = source.subscribe();
    let has =
        |state: &BundleState, name| matches!(state, BundleState::Ready(b) if b.contains_key(name));
    until(&mut states, |state| {
        has(state, "domain.test") && has(state, "example.org")
    })
    .await;
    authority
        .unfederate(&td("domain.test"), &td("example.org"))
        .unwrap();
    until(&mut states, |state| {
        has(state, "domain.test") && !has(state, "example.org")
    })
    .await;
    authority.withdraw("domain.test", &id(WEB)).unwrap();
    until(&mut states, |state| {
        matches!(state, BundleState::Withdrawn(_))
    })
    .await;
}

#[tokio::test]
async fn jwt_svids_are_fetched_and_validated() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let authority = authority();
    let _serving = Serving::start(&authority, &path);
    let mut client = WorkloadApiClient::connect(&endpoint(&path)).await.unwrap();
    let audience = ["api".to_owned()];
    let svid = client
        .fetch_jwt_svids(&audience, None)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(svid.id.as_str(), WEB);
    assert!(svid.expires_at > SystemTime::now());
    let subject = client.validate_jwt_svid("api", svid.token()).await.unwrap();
    assert_eq!(subject.as_str(), WEB);
    let error = client
        .validate_jwt_svid("other", svid.token())
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has the audience [\"api\"], not \"other\""),
        "{error}"
    );
    let bundles = client.fetch_jwt_bundles().await.unwrap();
    assert!(bundles.contains_key("domain.test") && bundles.contains_key("example.org"));
    let error = client.fetch_jwt_svids(&[], None).await.unwrap_err();
    assert!(
        error.to_string().contains("audience must be specified"),
        "{error}"
    );
    authority.withdraw("domain.test", &id(WEB)).unwrap();
    let error = client.fetch_jwt_svids(&audience, None).await.unwrap_err();
    assert!(error.to_string().contains("no identity issued"), "{error}");
}
