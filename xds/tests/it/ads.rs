//! The ADS client against the ADS server: what the built-in proxy gets from a control plane.

use std::{path::Path, sync::Arc};

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
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            aggregated_discovery_service_server::{
                AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
            },
        },
    },
    pb::google::rpc,
};
use ithildin_xds::{
    AdsClient, AdsServer, NameMap, ResourceKind, ResourceSet, ServerAddress, TypeUrl,
    ads::{
        AdsClientOptions, AdsProtocol, Candidate, Follower, StreamStatus, Upstream, Want, follow,
    },
    serve::Socket,
    subscription::{Update, Verdict},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, service::Routes};

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
        endpoints: Vec::new(),
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
    fn all<'a, T>(texts: &[&'a str], make: impl Fn(&&'a str) -> T) -> NameMap<T> {
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
    fn list<T>(map: &NameMap<T>) -> String {
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

/// Takes the stream, reads what it is told, and never answers: not even that the stream is open.
struct Blocked(mpsc::UnboundedSender<DeltaDiscoveryRequest>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Blocked {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("it speaks the other protocol"))
    }

    async fn delta_aggregated_resources(
        &self,
        requests: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let mut requests = requests.into_inner();
        while let Some(request) = requests.message().await? {
            let _ = self.0.send(request);
        }
        Err(Status::cancelled("the client has gone"))
    }
}

/// Tells what the watch holds.
struct Telling(watch::Receiver<&'static str>);

impl Follower for Telling {
    fn node(&self) -> Option<Node> {
        Some(Node::default())
    }

    fn wanted(&mut self) -> Vec<Want> {
        let text = (*self.0.borrow_and_update()).to_owned();
        let status = rpc::Status {
            message: text,
            ..Default::default()
        };
        vec![Want::Notice(TypeUrl::new("type.test/Health"), Some(status))]
    }

    fn take(&mut self, _: Update) -> Option<Verdict> {
        None
    }

    async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[tokio::test]
async fn a_server_that_is_blocked_is_told_things_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("xds.sock");
    let (told, mut requests) = mpsc::unbounded_channel();
    let service = AggregatedDiscoveryServiceServer::new(Blocked(told));
    let socket = Socket::unix(&path, 0o600).unwrap();
    tokio::spawn(socket.serve(Routes::new(service), std::future::pending()));
    let (tell, receiver) = watch::channel("healthy");
    let upstream = Upstream::plain(&ServerAddress::Pipe(path));
    let status = watch::Sender::new(StreamStatus::default());
    tokio::spawn(follow(
        upstream,
        AdsProtocol::Delta,
        Telling(receiver),
        status,
    ));
    let mut next = async || {
        let request = tokio::time::timeout(LIMIT, requests.recv()).await;
        let request = request.expect("the server is told nothing").unwrap();
        request.error_detail.unwrap().message
    };
    assert_eq!(next().await, "healthy");
    tell.send_replace("unhealthy");
    assert_eq!(next().await, "unhealthy");
}
