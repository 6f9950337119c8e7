//! Clusters that the control plane takes away while routes still name them.

use std::sync::Arc;

use ithildin_proto::from_yaml;
use ithildin_xds::ResourceSet;

use super::support::Bench;

const LISTENER: &str = "
name: l
address: {socket_address: {address: 127.0.0.1, port_value: 0}}
filter_chains:
- filters:
  - name: tcp
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
      stat_prefix: s
      cluster: NAME
";

fn set(clusters: &[&str], named: &str) -> ResourceSet {
    let mut set = ResourceSet::default();
    for name in clusters {
        let cluster = from_yaml(&format!("{{name: {name}, type: STATIC}}")).expect("a cluster");
        set.clusters.insert((*name).to_owned(), Arc::new(cluster));
    }
    let listener = from_yaml(&LISTENER.replace("NAME", named)).expect("a listener");
    set.listeners.insert("l".to_owned(), Arc::new(listener));
    set
}

#[tokio::test]
async fn a_named_cluster_stays_and_an_unnamed_one_goes_at_once() {
    let bench = Bench::start(set(&["named", "other"], "named"));
    bench.until("is warm", |state| state.version == 1).await;
    bench.send(set(&[], "named"));
    bench.until("one goes", |state| state.version == 2).await;
    assert!(bench.snapshot().clusters.contains_key("named"));
    assert!(!bench.snapshot().clusters.contains_key("other"));
    let inventory = bench.control.inventory().get().await.expect("it runs");
    assert!(
        inventory.clusters.is_empty(),
        "the configuration has it not"
    );
}

#[tokio::test]
async fn a_cluster_stays_for_the_drain_when_its_listener_has_moved_on() {
    let bench = Bench::start(set(&["old"], "old"));
    bench.until("is warm", |state| state.version == 1).await;
    bench.send(set(&["new"], "old"));
    bench.until("both serve", |state| state.version == 2).await;
    bench.send(set(&["new"], "new"));
    bench.until("it moves on", |state| state.version == 3).await;
    let clusters = &bench.snapshot().clusters;
    assert!(clusters.contains_key("old") && clusters.contains_key("new"));
}
