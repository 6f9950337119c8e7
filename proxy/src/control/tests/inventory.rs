use std::sync::Arc;

use ithildin_proto::pb::envoy::config::cluster::v3::Cluster;
use ithildin_xds::ResourceSet;

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
    assert!(active.stamp.version < refused.source.stamp.version);
    assert!(
        refused.errors.to_string().contains("lb_policy"),
        "{}",
        refused.errors
    );

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
