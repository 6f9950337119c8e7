//! The relay over real sockets, between a discovery server in istiod's place and clients in Envoy's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use ithildin_istiod::{
    dial::{
        Address, CallHeaders, DEFAULT_KEEPALIVE, DEFAULT_KEEPALIVE_TIMEOUT, Endpoint, Options,
        Transport,
    },
    discovery::{AgentTypes, AgentTypesOptions},
    relay::Relay,
};
use ithildin_proto::pb::envoy::{
    config::{cluster::v3::Cluster, core::v3::Node, listener::v3::Listener},
    service::discovery::v3::{
        DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use ithildin_xds::{
    AdsClient, AdsServer, ResourceKind, ResourceSet, ServerAddress,
    ads::{AdsClientOptions, AdsProtocol, Candidate, Upstream},
    serve::Socket,
};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    service::Routes,
    transport::{Channel, Endpoint as Connector, Uri},
};
use tower::service_fn;

/// For what should come at once, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(30);
const PROTOCOLS: [AdsProtocol; 2] = [AdsProtocol::StateOfTheWorld, AdsProtocol::Delta];

/// A server in istiod's place; it ends when it is dropped.
struct Istiod {
    resources: watch::Sender<Arc<ResourceSet>>,
    ads: AdsServer,
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Istiod {
    async fn start(address: SocketAddr, clusters: &[&str]) -> Self {
        let (resources, receiver) = watch::channel(Arc::new(set(clusters)));
        let ads = AdsServer::new(receiver);
        // The one before may not have let go of the port.
        let end = Instant::now() + LIMIT;
        let socket = loop {
            match Socket::tcp(address) {
                Ok(socket) => break socket,
                Err(error) => assert!(Instant::now() < end, "{address}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let address = socket.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let routes = Routes::new(ads.clone().into_service());
        tokio::spawn(socket.serve(routes, async move {
            let _ = stopped.await;
        }));
        Self {
            resources,
            ads,
            address,
            _stop: stop,
        }
    }
}

fn set(clusters: &[&str]) -> ResourceSet {
    let cluster = |name: &&str| Cluster {
        name: (*name).to_owned(),
        ..Default::default()
    };
    let listener = Listener {
        name: "listener".into(),
        ..Default::default()
    };
    ResourceSet {
        clusters: clusters
            .iter()
            .map(|name| ((*name).to_owned(), Arc::new(cluster(name))))
            .collect(),
        listeners: [("listener".to_owned(), Arc::new(listener))].into(),
        ..Default::default()
    }
}

fn relay(istiod: SocketAddr, protocol: AdsProtocol, path: &Path) -> Relay {
    relay_for(None, istiod, protocol, path)
}

/// A relay that knows who will ask.
fn relay_for(
    expected: Option<Node>,
    istiod: SocketAddr,
    protocol: AdsProtocol,
    path: &Path,
) -> Relay {
    let endpoint = Endpoint::new(Options {
        address: Address {
            host: istiod.ip().to_string(),
            port: istiod.port(),
        },
        transport: Transport::Plaintext,
        headers: CallHeaders::default(),
        keepalive: DEFAULT_KEEPALIVE,
        keepalive_timeout: DEFAULT_KEEPALIVE_TIMEOUT,
    });
    let (types, _) = AgentTypes::new(AgentTypesOptions::default());
    let relay = Relay::start(&endpoint, protocol, types, None, expected);
    let socket = Socket::unix(path, 0o600).unwrap();
    let routes = Routes::new(relay.server().into_service());
    tokio::spawn(socket.serve(routes, std::future::pending()));
    relay
}

/// A client in Envoy's place, which refuses a cluster by the name `bad`.
fn envoy(path: &Path, protocol: AdsProtocol) -> AdsClient {
    let check = |candidate: Candidate<'_>| match candidate {
        Candidate::Cluster(cluster) if cluster.name == "bad" => Err("is bad".to_owned()),
        _ => Ok(()),
    };
    AdsClient::start(AdsClientOptions {
        server: Upstream::plain(&ServerAddress::Pipe(path.to_path_buf())),
        node: Node {
            user_agent_name: "envoy".into(),
            ..node()
        },
        protocol,
        endpoints: Vec::new(),
        check: Arc::new(check),
    })
}

fn node() -> Node {
    Node {
        id: "router~127.0.0.1~a.b~b.svc.cluster.local".into(),
        ..Default::default()
    }
}

async fn until(client: &AdsClient, expected: &str) {
    let names = |set: &ResourceSet| set.clusters.keys().cloned().collect::<Vec<_>>().join(" ");
    let mut resources = client.resources();
    let found = timeout(LIMIT, resources.wait_for(|set| names(set) == expected)).await;
    assert!(
        found.is_ok_and(|found| found.is_ok()),
        "{:?} instead of {expected:?}",
        names(&client.resources().borrow())
    );
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn an_outage_of_istiod_is_not_envoys() {
    // Each side may speak either protocol. A removed cluster takes its time: all at once.
    let [sotw, delta] = PROTOCOLS;
    tokio::join!(
        outage(sotw, sotw),
        outage(sotw, delta),
        outage(delta, sotw),
        outage(delta, delta),
    );
}

async fn outage(above: AdsProtocol, below: AdsProtocol) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("XDS");
    // It is taken twice, and nobody else's between.
    let port = ithildin_sys::port::unused().unwrap();
    let istiod = Istiod::start((Ipv4Addr::LOCALHOST, port).into(), &["a"]).await;
    let address = istiod.address;
    let relay = relay(address, above, &path);
    let first = envoy(&path, below);
    until(&first, "a").await;

    drop(istiod);
    let mut stream = relay.stream();
    let lost = stream.wait_for(|status| !status.connected);
    timeout(LIMIT, lost).await.unwrap().unwrap();
    assert!(first.stream().borrow().connected, "Envoy's stream goes on");
    drop(first);
    let second = envoy(&path, below);
    until(&second, "a").await;

    let istiod = Istiod::start(address, &["a", "b"]).await;
    until(&second, "a b").await;
    istiod.resources.send_replace(Arc::new(set(&["b"])));
    until(&second, "b").await;
}

#[tokio::test]
async fn istiod_is_told_what_envoy_refuses() {
    for protocol in PROTOCOLS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("XDS");
        let istiod = Istiod::start(any_port(), &["a", "bad"]).await;
        let relay = relay(istiod.address, protocol, &path);
        let envoy = envoy(&path, protocol);
        until(&envoy, "a").await;
        for status in [istiod.ads.status(), relay.status()] {
            let mut status = status;
            let told = status.wait_for(|status| {
                let clusters = status.kinds.get(&ResourceKind::Cluster);
                clusters.is_some_and(|kind| kind.refusal.as_deref() == Some("bad: is bad"))
            });
            timeout(LIMIT, told).await.expect("it is told").unwrap();
        }
        istiod.resources.send_replace(Arc::new(set(&["a", "c"])));
        until(&envoy, "a c").await;
        let mut status = istiod.ads.status();
        let settled = status.wait_for(|status| {
            let clusters = status.kinds.get(&ResourceKind::Cluster);
            clusters.is_some_and(|kind| kind.refusal.is_none())
        });
        timeout(LIMIT, settled).await.expect("accepted").unwrap();
    }
}

#[tokio::test]
async fn istiod_answers_while_envoy_starts() {
    let another = Node {
        id: "sidecar~127.0.0.1~c.b~b.svc.cluster.local".into(),
        ..Default::default()
    };
    for (expected, streams) in [(node(), 1), (another, 2)] {
        for protocol in PROTOCOLS {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("XDS");
            let istiod = Istiod::start(any_port(), &["a", "bad"]).await;
            let relay = relay_for(Some(expected.clone()), istiod.address, protocol, &path);
            let mut told = istiod.ads.status();
            let answers = told.wait_for(|status| {
                let listeners = status.kinds.get(&ResourceKind::Listener);
                listeners.is_some_and(|kind| kind.responses == 1)
            });
            timeout(LIMIT, answers)
                .await
                .expect("it is asked before Envoy is there")
                .unwrap();

            let envoy = envoy(&path, protocol);
            until(&envoy, "a").await;
            let refused = told.wait_for(|status| {
                let clusters = status.kinds.get(&ResourceKind::Cluster);
                clusters.is_some_and(|kind| kind.refusal.as_deref() == Some("bad: is bad"))
            });
            timeout(LIMIT, refused)
                .await
                .expect("Envoy's word is handed on")
                .unwrap();
            let ended = relay.stream().borrow().counts.ends;
            assert_eq!(ended, streams - 1, "{expected:?}");
        }
    }
}

/// A channel as Envoy's, by hand.
async fn channel(path: &Path) -> Channel {
    let path = path.to_path_buf();
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Connector::from_static("http://agent");
    endpoint.connect_with_connector(connector).await.unwrap()
}

/// A stream that asks for clusters, and its first answer.
struct Asking {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
    first: DiscoveryResponse,
}

impl Asking {
    async fn open(channel: &Channel) -> Self {
        let (requests, receiver) = mpsc::channel(4);
        requests.send(clusters()).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
        let call = client.stream_aggregated_resources(ReceiverStream::new(receiver));
        let opened = timeout(LIMIT, call).await.expect("it is answered");
        let mut responses = opened.unwrap().into_inner();
        let first = timeout(LIMIT, responses.message())
            .await
            .expect("a response");
        Self {
            requests,
            responses,
            first: first.unwrap().unwrap(),
        }
    }
}

fn clusters() -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: ResourceKind::Cluster.url(),
        node: Some(node()),
        ..Default::default()
    }
}

/// Envoy comes anew on the connection that it has, or on another one, while its old stream still seems to
/// live: the newest is served, and the one before ends. What it says of old responses counts for nothing.
#[tokio::test]
async fn the_newest_stream_of_envoy_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("XDS");
    let istiod = Istiod::start(any_port(), &["a"]).await;
    let _relay = relay(istiod.address, AdsProtocol::Delta, &path);
    let same = channel(&path).await;
    let other = channel(&path).await;
    let mut streams = vec![Asking::open(&same).await];
    for channel in [&same, &other, &same] {
        let next = Asking::open(channel).await;
        assert_eq!(next.first.resources.len(), 1);
        let mut before = streams.pop().unwrap();
        let ended = timeout(LIMIT, before.responses.message()).await;
        assert!(matches!(ended.expect("it ends"), Ok(None) | Err(_)));
        let stale = DiscoveryRequest {
            response_nonce: "of another stream".into(),
            version_info: "another".into(),
            ..clusters()
        };
        next.requests.send(stale).await.unwrap();
        streams.push(next);
    }
    istiod.resources.send_replace(Arc::new(set(&["a", "b"])));
    let next = timeout(LIMIT, streams[0].responses.message()).await;
    let next = next.expect("the next push").unwrap().unwrap();
    assert_eq!(next.resources.len(), 2);
}
