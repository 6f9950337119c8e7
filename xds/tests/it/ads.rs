//! The ADS client against the ADS server: what the built-in proxy gets from a control plane.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use ithildin_proto::{
    pack,
    pb::envoy::{
        config::{
            cluster::v3::{Cluster, cluster},
            core::v3::{ConfigSource, Node},
            endpoint::v3::ClusterLoadAssignment,
            listener::v3::{Filter, FilterChain, Listener, filter},
            route::v3::RouteConfiguration,
        },
        extensions::filters::network::http_connection_manager::v3::{
            HttpConnectionManager, Rds, http_connection_manager::RouteSpecifier,
        },
    },
};
use ithildin_xds::{
    AdsClient, AdsServer, ResourceKind, ResourceSet, ServerAddress,
    ads::{AdsClientOptions, AdsProtocol, Candidate, Upstream},
    serve::Socket,
};
use tokio::sync::{oneshot, watch};
use tonic::service::Routes;

use crate::common::LIMIT;

const PROTOCOLS: [AdsProtocol; 2] = [AdsProtocol::StateOfTheWorld, AdsProtocol::Delta];
/// The client under test refuses a cluster with this stat name.
const BAD: &str = "bad";

struct Server {
    resources: watch::Sender<Arc<ResourceSet>>,
    stop: Option<oneshot::Sender<()>>,
}

impl Server {
    fn start(path: &Path, set: ResourceSet) -> (Self, AdsServer) {
        let (resources, receiver) = watch::channel(Arc::new(set));
        let ads = AdsServer::new(receiver);
        let (stop, stopped) = oneshot::channel::<()>();
        let socket = Socket::unix(path, 0o600).unwrap();
        let routes = Routes::new(ads.clone().into_service());
        let stopped = async move {
            let _ = stopped.await;
        };
        tokio::spawn(socket.serve(routes, stopped));
        let server = Self {
            resources,
            stop: Some(stop),
        };
        (server, ads)
    }
}

fn client(path: &Path, protocol: AdsProtocol) -> AdsClient {
    let check = |candidate: Candidate<'_>| match candidate {
        Candidate::Cluster(cluster) if cluster.alt_stat_name == BAD => {
            Err("alt_stat_name: is bad".to_owned())
        }
        _ => Ok(()),
    };
    AdsClient::start(AdsClientOptions {
        server: Upstream::plain(&ServerAddress::Pipe(path.to_path_buf())),
        node: Node {
            id: "sidecar~127.0.0.1~a.b~b.svc.cluster.local".into(),
            ..Default::default()
        },
        protocol,
        check: Arc::new(check),
    })
}

/// Clusters as `name` or `name=stat name`, and routes that the listener names.
fn set(clusters: &[&str], routes: &[&str]) -> ResourceSet {
    let named = |text: &&str| text.split('=').next().unwrap().to_owned();
    let cluster = |text: &&str| Cluster {
        name: named(text),
        alt_stat_name: text.split('=').nth(1).unwrap_or_default().to_owned(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Eds.into(),
        )),
        ..Default::default()
    };
    let endpoints = |text: &&str| ClusterLoadAssignment {
        cluster_name: named(text),
        ..Default::default()
    };
    let route = |name: &&str| RouteConfiguration {
        name: (*name).to_owned(),
        ..Default::default()
    };
    let listener = Listener {
        name: "listener".into(),
        filter_chains: routes.iter().map(|name| chain(name)).collect(),
        ..Default::default()
    };
    fn all<'a, T>(texts: &[&'a str], make: impl Fn(&&'a str) -> T) -> BTreeMap<String, Arc<T>> {
        let name = |text: &str| text.split('=').next().unwrap().to_owned();
        texts
            .iter()
            .map(|text| (name(text), Arc::new(make(text))))
            .collect()
    }
    ResourceSet {
        clusters: all(clusters, cluster),
        endpoints: all(clusters, endpoints),
        listeners: [("listener".into(), Arc::new(listener))].into(),
        routes: all(routes, route),
        provenance: None,
    }
}

fn chain(route: &str) -> FilterChain {
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ConfigSource::default()),
            route_config_name: route.into(),
        })),
        ..Default::default()
    };
    FilterChain {
        filters: vec![Filter {
            name: "http".into(),
            config_type: Some(filter::ConfigType::TypedConfig(pack(&manager))),
        }],
        ..Default::default()
    }
}

/// `clusters | endpoints | listeners | routes`.
fn names(set: &ResourceSet) -> String {
    fn list<T>(map: &BTreeMap<String, T>) -> String {
        map.keys().cloned().collect::<Vec<_>>().join(" ")
    }
    [
        list(&set.clusters),
        list(&set.endpoints),
        list(&set.listeners),
        list(&set.routes),
    ]
    .join(" | ")
}

async fn until(resources: &mut watch::Receiver<Arc<ResourceSet>>, expected: &str) {
    let found = resources.wait_for(|set| names(set) == expected);
    if tokio::time::timeout(LIMIT, found).await.is_err() {
        panic!("{} instead of {expected}", names(&resources.borrow()));
    }
}

#[tokio::test]
async fn follows_the_server() {
    // A removed cluster takes its time: both at once.
    tokio::join!(follows(PROTOCOLS[0]), follows(PROTOCOLS[1]));
}

async fn follows(protocol: AdsProtocol) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ads.sock");
    let client = client(&path, protocol);
    let mut resources = client.resources();
    let (server, _) = Server::start(&path, set(&["a", "b"], &["r", "s"]));
    until(&mut resources, "a b | a b | listener | r s").await;
    let before = Arc::clone(&resources.borrow());

    // What nothing refers to any more goes, whether or not the server says so.
    server.resources.send_replace(Arc::new(set(&["a"], &["r"])));
    until(&mut resources, "a | a | listener | r").await;
    let after = Arc::clone(&resources.borrow());
    assert!(
        Arc::ptr_eq(&before.clusters["a"], &after.clusters["a"]),
        "unchanged: the same"
    );

    server
        .resources
        .send_replace(Arc::new(set(&["a", "c"], &["r", "t"])));
    until(&mut resources, "a c | a c | listener | r t").await;
}

#[tokio::test]
async fn refuses_one_resource_and_takes_the_others() {
    for protocol in PROTOCOLS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ads.sock");
        let (server, ads) = Server::start(&path, set(&["a", "b"], &[]));
        let client = client(&path, protocol);
        let mut resources = client.resources();
        until(&mut resources, "a b | a b | listener | ").await;

        server
            .resources
            .send_replace(Arc::new(set(&["a=bad", "b=new", "c"], &[])));
        until(&mut resources, "a b c | a b c | listener | ").await;
        let set_now = Arc::clone(&resources.borrow());
        assert_eq!(set_now.clusters["a"].alt_stat_name, "", "the old one stays");
        assert_eq!(set_now.clusters["b"].alt_stat_name, "new");
        let own = client.status().borrow().clone();
        assert_eq!(
            own.refused[&ResourceKind::Cluster],
            "a: alt_stat_name: is bad"
        );

        let said = set_now.provenance.as_ref().unwrap();
        let said = said.of(ResourceKind::Cluster).unwrap();
        assert_eq!(said.rejected, 1);
        let refused: Vec<_> = said.refused.iter().collect();
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert_eq!(refused[0].0, "a");
        assert_eq!(&*refused[0].1.reason, "alt_stat_name: is bad");
        assert!(refused[0].1.body.is_some());
        let versions = [&said.versions["a"], &said.versions["b"]];
        assert_ne!(versions[0], versions[1], "that of the form in force");

        let mut status = ads.status();
        let told = status.wait_for(|status| {
            let kind = &status.kinds[&ResourceKind::Cluster];
            kind.refusal.as_deref() == Some("a: alt_stat_name: is bad")
        });
        tokio::time::timeout(LIMIT, told)
            .await
            .expect("the server is told")
            .unwrap();

        server
            .resources
            .send_replace(Arc::new(set(&["a=good", "b=new", "c"], &[])));
        let good = resources.wait_for(|set| set.clusters["a"].alt_stat_name == "good");
        tokio::time::timeout(LIMIT, good).await.unwrap().unwrap();
        assert!(client.status().borrow().refused.is_empty());
        let set_now = Arc::clone(&resources.borrow());
        let said = set_now.provenance.as_ref().unwrap();
        assert!(said.of(ResourceKind::Cluster).unwrap().refused.is_empty());
    }
}

#[tokio::test]
async fn an_outage_takes_nothing_away() {
    for protocol in PROTOCOLS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ads.sock");
        let (mut server, _) = Server::start(&path, set(&["a"], &["r"]));
        let client = client(&path, protocol);
        let (mut resources, mut status) = (client.resources(), client.stream());
        until(&mut resources, "a | a | listener | r").await;

        server.stop.take();
        let lost = status.wait_for(|status| !status.connected && status.error.is_some());
        tokio::time::timeout(LIMIT, lost)
            .await
            .expect("the loss is seen")
            .unwrap();
        assert_eq!(names(&resources.borrow()), "a | a | listener | r");

        let _server = Server::start(&path, set(&["a", "b"], &["r"]));
        until(&mut resources, "a b | a b | listener | r").await;
        assert!(status.borrow().connected);
    }
}
