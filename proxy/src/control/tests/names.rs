//! Clusters of names, some of which do not resolve.

use std::{sync::Arc, time::Duration};

use ithildin_proto::from_yaml;
use ithildin_xds::ResourceSet;
use tokio::time::timeout;

use super::support::Bench;

/// Less than name servers that say nothing are waited for.
const SOON: Duration = Duration::from_secs(10);

fn set(clusters: &[(&str, &[&str])]) -> ResourceSet {
    let mut set = ResourceSet::default();
    for (cluster, hosts) in clusters {
        let endpoint = |host: &&str| {
            format!(
                "{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: 80}}}}}}}}"
            )
        };
        let endpoints: Vec<_> = hosts.iter().map(endpoint).collect();
        let yaml = format!(
            "{{name: {cluster}, type: STRICT_DNS, \
             load_assignment: {{cluster_name: {cluster}, endpoints: [{{lb_endpoints: [{}]}}]}}}}",
            endpoints.join(", ")
        );
        let config = from_yaml(&yaml).expect("it is the test's own");
        set.clusters.insert((*cluster).into(), Arc::new(config));
    }
    let listener = "{name: l, address: {socket_address: {address: 127.0.0.1, port_value: 0}}, filter_chains: \
        [{filters: [{name: t, typed_config: {\"@type\": \
        type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: CLUSTER}}]}]}";
    let listener =
        from_yaml(&listener.replace("CLUSTER", clusters[0].0)).expect("it is the test's own");
    set.listeners.insert("l".into(), Arc::new(listener));
    set
}

fn addresses(bench: &Bench, cluster: &str) -> Vec<String> {
    let snapshot = bench.snapshot();
    let Some(cluster) = snapshot.clusters.get(cluster) else {
        return Vec::new();
    };
    let endpoints = cluster.endpoints.load();
    let all = endpoints.priorities.iter().flatten();
    all.map(|endpoint| format!("{}", endpoint.address))
        .collect()
}

#[tokio::test]
async fn a_silent_name_holds_up_no_other_of_its_cluster() {
    let bench = Bench::start(set(&[("c", &["silent.test", "good.test"])]));
    let serves = bench.until("serves", |state| state.started && state.waiting.is_empty());
    assert!(
        timeout(SOON, serves).await.is_ok(),
        "it waits for the silent one"
    );
    assert_eq!(addresses(&bench, "c"), ["192.0.2.1:80"]);
    assert_eq!(bench.snapshot().listeners.len(), 1);
}

#[tokio::test]
async fn silent_servers_do_not_keep_the_proxy_from_starting() {
    let begun = std::time::Instant::now();
    let bench = Bench::start(set(&[
        ("c", &["silent.test"]),
        ("d", &["silent.test", "silent2.test"]),
    ]));
    bench
        .until("serves", |state| state.started && state.waiting.is_empty())
        .await;
    let took = begun.elapsed();
    assert!(took <= Duration::from_secs(19), "{took:?}");
    assert_eq!(bench.snapshot().listeners.len(), 1);
    assert!(addresses(&bench, "c").is_empty());
}
