//! Listeners that are refused for what other resources are, until these change.

use std::sync::Arc;

use ithildin_proto::{from_yaml, pb::envoy::config::listener::v3::Listener};
use ithildin_xds::ResourceSet;

use super::support::Bench;

const LISTENER: &str = "
name: NAME
address: {socket_address: {address: 127.0.0.1, port_value: PORT}}
bind_to_port: false
filter_chains:
- filters:
  - name: http
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: s
      route_config:
        name: r
        virtual_hosts:
        - name: all
          domains: ['*']
          routes: [{match: {prefix: /}, route: {cluster: late}}]
      http_filters:
      - name: router
        typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
";

fn add_listener(set: &mut ResourceSet, name: &str, port: u16) {
    let text = LISTENER
        .replace("NAME", name)
        .replace("PORT", &port.to_string());
    let listener: Listener = from_yaml(&text).expect("a listener");
    set.listeners.insert(name.to_owned(), Arc::new(listener));
}

fn add_cluster(set: &mut ResourceSet, name: &str) {
    let cluster = from_yaml(&format!("{{name: {name}, type: STATIC}}")).expect("a cluster");
    set.clusters.insert(name.to_owned(), Arc::new(cluster));
}

#[tokio::test]
async fn a_cluster_that_comes_late_lets_its_listener_serve() {
    let mut set = ResourceSet::default();
    add_listener(&mut set, "l", 80);
    add_cluster(&mut set, "other");
    let bench = Bench::start(set.clone());
    let state = bench.until("is refused", |state| !state.rejected.is_empty());
    let reason = Arc::clone(&state.await.rejected[0].reason);
    assert!(reason.contains("unknown cluster \"late\""), "{reason}");
    assert!(bench.snapshot().listeners.is_empty());

    add_cluster(&mut set, "late");
    bench.send(set);
    bench
        .until("is taken", |state| {
            state.rejected.is_empty() && state.waiting.is_empty()
        })
        .await;
    assert_eq!(&*bench.snapshot().listeners[0].name, "l");
    let manager = &bench.stats.listener_manager;
    let counted = (
        manager.listener_added.get(),
        manager.listener_modified.get(),
    );
    assert_eq!(
        counted,
        (2, 0),
        "when it came, and when it could be used at last"
    );
}

#[tokio::test]
async fn an_address_that_is_free_again_goes_to_who_asked_for_it() {
    let mut set = ResourceSet::default();
    add_cluster(&mut set, "late");
    add_listener(&mut set, "a", 80);
    add_listener(&mut set, "b", 80);
    let bench = Bench::start(set.clone());
    bench
        .until("one is refused", |state| {
            state.version > 0 && state.rejected.len() == 1
        })
        .await;
    assert_eq!(&*bench.snapshot().listeners[0].name, "a");

    set.listeners.remove("a");
    bench.send(set);
    bench
        .until("the other is taken", |state| state.rejected.is_empty())
        .await;
    assert_eq!(bench.snapshot().listeners.len(), 1);
    assert_eq!(&*bench.snapshot().listeners[0].name, "b");
}
