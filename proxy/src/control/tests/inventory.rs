use std::sync::Arc;

use ithildin_proto::{pack, pb::envoy::config::cluster::v3::Cluster};
use ithildin_xds::{KindProvenance, RefusedResource, ResourceKind, ResourceSet};

use super::support::Bench;

fn set(lb_policy: i32) -> ResourceSet {
    let cluster = Cluster {
        name: "out".into(),
        lb_policy,
        ..Default::default()
    };
    let mut set = ResourceSet::default();
    set.clusters.insert("out".into(), Arc::new(cluster));
    set
}

#[tokio::test]
async fn a_refused_update_leaves_the_last_good_one_in_the_inventory() {
    let bench = Bench::start(set(0));
    bench
        .until("the first serves", |state| state.version == 1)
        .await;
    bench.send(set(99));
    let refused = |state: &Arc<_>| {
        let state: &crate::control::ControlState = state;
        !state.rejected.is_empty()
    };
    bench.until("the second is refused", refused).await;
    let inventory = bench.control.inventory().get().await.unwrap();
    let [cluster] = &*inventory.clusters else {
        panic!("{} clusters", inventory.clusters.len());
    };
    let active = cluster.active.as_ref().unwrap();
    assert_eq!(active.message.as_ref().unwrap().lb_policy, 0);
    let refused = cluster.refused.as_ref().unwrap();
    assert_eq!(refused.source.message.as_ref().unwrap().lb_policy, 99);
    assert!(active.stamp.update < refused.source.stamp.update);
    assert!(refused.reason.contains("lb_policy"), "{}", refused.reason);

    bench.send(set(1));
    bench
        .until("the third serves", |state| state.version == 2)
        .await;
    let inventory = bench.control.inventory().get().await.unwrap();
    assert!(inventory.clusters[0].refused.is_none());
    bench.send(ResourceSet::default());
    bench
        .until("none is left", |state| state.version == 3)
        .await;
    let inventory = bench.control.inventory().get().await.unwrap();
    assert!(inventory.clusters.is_empty());
}

/// As istiod's client hands it over: the cluster `out`, and what became of the newest responses.
fn told(responses: u64, rejected: u64, refused: &[(ResourceKind, &str)]) -> ResourceSet {
    let mut set = set(0);
    let kinds = [ResourceKind::Cluster, ResourceKind::Listener];
    let provenance = kinds.map(|kind| {
        let refused = refused.iter().filter(|(of, _)| *of == kind);
        let refused = refused.map(|(_, name)| {
            let refused = RefusedResource {
                body: Some(pack(&Cluster {
                    name: (*name).into(),
                    lb_policy: 99,
                    ..Default::default()
                })),
                version: "2026/2".into(),
                reason: "lb_policy: unknown value 99".into(),
                at: std::time::SystemTime::now(),
            };
            ((*name).to_owned(), Arc::new(refused))
        });
        let of = KindProvenance {
            version: format!("2026/{responses}").into(),
            responses,
            rejected,
            versions: [("out".to_owned(), "2026/1".into())].into(),
            refused: refused.collect(),
        };
        (kind, of)
    });
    set.provenance = Some(Arc::new(provenance.into_iter().collect()));
    set
}

fn metric(bench: &Bench, name: &str) -> String {
    let metrics = bench.stats.metrics(false);
    let metric = metrics.iter().find(|metric| metric.name == name);
    format!("{:?}", metric.map(|metric| &metric.value))
}

#[tokio::test]
async fn what_the_client_of_the_control_plane_refused_is_shown_and_counted() {
    let bench = Bench::start(told(1, 0, &[]));
    bench
        .until("the first serves", |state| state.version == 1)
        .await;
    let refused = [
        (ResourceKind::Cluster, "out"),
        (ResourceKind::Cluster, "new"),
        (ResourceKind::Listener, "in"),
    ];
    bench.send(told(3, 2, &refused));
    let state = bench
        .until("is refused", |state| state.rejected.len() == 3)
        .await;
    assert_eq!(&*state.rejected[0].reason, "lb_policy: unknown value 99");

    let inventory = bench.control.inventory().get().await.unwrap();
    assert_eq!(&*inventory.clusters_version, "2026/3");
    let [out, new] = &*inventory.clusters else {
        panic!("{} clusters", inventory.clusters.len());
    };
    let active = out.active.as_ref().expect("it serves");
    assert_eq!(&*active.stamp.version_info(), "2026/1");
    let failed = out.refused.as_ref().expect("its newest form is refused");
    assert_eq!(&*failed.source.stamp.version_info(), "2026/2");
    assert_eq!(failed.source.message.as_ref().unwrap().lb_policy, 99);
    assert!(new.active.is_none() && new.refused.is_some());
    assert_eq!(inventory.listeners[0].name, "in");

    for (name, value) in [
        ("cluster_manager.cds.update_attempt", "Some(Counter(3))"),
        ("cluster_manager.cds.update_success", "Some(Counter(1))"),
        ("cluster_manager.cds.update_rejected", "Some(Counter(2))"),
        ("cluster_manager.cds.version_text", "Some(Text(\"2026/1\"))"),
        ("listener_manager.lds.update_rejected", "Some(Counter(2))"),
    ] {
        assert_eq!(metric(&bench, name), value, "{name}");
    }
    bench.send(told(4, 2, &[]));
    bench
        .until("all is well", |state| state.rejected.is_empty())
        .await;
    assert_eq!(
        metric(&bench, "cluster_manager.cds.update_success"),
        "Some(Counter(2))"
    );
}
