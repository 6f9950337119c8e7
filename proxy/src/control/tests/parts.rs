//! Updates of one part of the configuration: they reach whoever uses it, whichever came first, and nobody else.

use std::{sync::Arc, time::Duration};

use ithildin_xds::ResourceSet;

use super::{
    support::Bench,
    warming::{add_cluster, add_endpoints, add_listener, add_routes, eds_cluster, http_listener},
};
use crate::{
    config::{cluster::EndpointAddress, listener::Terminal},
    testing::eventually,
};

/// The hosts that a cluster serves with.
fn hosts(bench: &Bench, cluster: &str) -> Vec<String> {
    let set = bench.snapshot().clusters[cluster].endpoints.load_full();
    let hosts = set.priorities.iter().flatten();
    hosts
        .map(|host| match &host.address {
            EndpointAddress::Socket(address) => address.ip().to_string(),
            EndpointAddress::Pipe(path) => path.display().to_string(),
        })
        .collect()
}

/// The route configurations that are held.
async fn routes(bench: &Bench) -> Vec<String> {
    let inventory = bench.control.inventory().get().await.expect("it runs");
    inventory.routes.into_iter().map(|held| held.name).collect()
}

#[tokio::test]
async fn what_was_there_before_its_users_is_taken_when_they_come() {
    let mut set = ResourceSet::default();
    add_endpoints(&mut set, "e", &["127.0.0.1"]);
    add_routes(&mut set, "r", "/");
    add_cluster(&mut set, eds_cluster("first", "", None));
    add_endpoints(&mut set, "first", &["127.0.0.9"]);
    let bench = Bench::start(set.clone());
    bench.until("is warm", |state| state.version == 1).await;

    add_cluster(&mut set, eds_cluster("a", "e", None));
    bench.send(set.clone());
    bench
        .until("the cluster is warm", |state| state.version == 2)
        .await;
    assert_eq!(hosts(&bench, "a"), ["127.0.0.1"]);
    add_listener(&mut set, http_listener("l", "r", None));
    bench.send(set.clone());
    bench
        .until("the listener is warm", |state| state.version == 3)
        .await;
    let listener = Arc::clone(&bench.snapshot().listeners[0]);
    let Terminal::Http(manager) = &listener.chains.chains()[0].terminal else {
        panic!("an HTTP connection manager");
    };
    assert_eq!(&*manager.routes.load_full().expect("routes").name, "r");

    // Once nobody reads them they are let go, and come back with their reader.
    add_listener(&mut set, http_listener("l", "other", None));
    add_routes(&mut set, "other", "/");
    bench.send(set.clone());
    bench.until("it moves on", |state| state.version == 4).await;
    add_endpoints(&mut set, "of nobody", &["127.0.0.1"]);
    bench.send(set.clone());
    let let_go = async {
        while routes(&bench).await != ["other"] {
            tokio::task::yield_now().await;
        }
    };
    let let_go = tokio::time::timeout(Duration::from_secs(30), let_go);
    let_go.await.expect("one of them is let go");
    add_listener(&mut set, http_listener("l", "r", None));
    bench.send(set);
    bench.until("it is back", |state| state.version == 5).await;
}

#[tokio::test]
async fn endpoints_reach_all_clusters_that_follow_them_and_no_other() {
    let mut set = ResourceSet::default();
    for (cluster, endpoints) in [("a", "shared"), ("b", "shared"), ("c", "own")] {
        add_cluster(&mut set, eds_cluster(cluster, endpoints, None));
        add_endpoints(&mut set, endpoints, &["127.0.0.1"]);
    }
    let bench = Bench::start(set.clone());
    bench.until("is warm", |state| state.version == 1).await;
    let untouched = bench.snapshot().clusters["c"].endpoints.load_full();

    add_endpoints(&mut set, "shared", &["127.0.0.2"]);
    bench.send(set.clone());
    let both = || ["a", "b"].map(|name| hosts(&bench, name));
    eventually("both have it", || both() == [["127.0.0.2"]; 2]).await;

    // One of them goes over to the other assignment, which stays as it is.
    add_cluster(&mut set, eds_cluster("b", "own", None));
    bench.send(set.clone());
    bench.until("it is warm", |state| state.version == 2).await;
    assert_eq!(both(), [["127.0.0.2"], ["127.0.0.1"]]);
    add_endpoints(&mut set, "shared", &["127.0.0.3"]);
    bench.send(set);
    eventually("one has it", || hosts(&bench, "a") == ["127.0.0.3"]).await;
    assert_eq!(hosts(&bench, "b"), ["127.0.0.1"]);
    let now = bench.snapshot().clusters["c"].endpoints.load_full();
    assert!(Arc::ptr_eq(&untouched, &now));
}
