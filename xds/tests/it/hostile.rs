//! Peers of our own sockets that ask for too much, answer what was never said, or do not listen: what they
//! cost is bounded, and others are served.

use std::{path::Path, sync::Arc, time::Duration};

use ithildin_proto::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{
        DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
};
use ithildin_xds::{AdsServer, ResourceSet, serve::Socket};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, service::Routes, transport::Endpoint};

use crate::common::{LIMIT, Mesh, OWN, QUIET, WORKLOAD, id, request, secrets, summaries};

/// Of the longest names that a stream may ask for.
const NAME: usize = 16 << 10;
/// As many as fit into one request.
const NAMES: usize = 60;
/// More than all streams together may ask for, with such requests.
const STREAMS: usize = 80;
/// Of HTTP/2, in bytes: some dozens of responses.
const WINDOW: u32 = 65_535;
/// Far more than the buffers of a connection hold.
const ROTATIONS: usize = 300;

async fn is_served(mesh: &Mesh) {
    let mut stream = mesh.stream().await;
    stream.ask(&["default"]).await;
    let served = summaries(&stream.secrets(&["default"]).await);
    assert_eq!(served, [format!("default: cert {WORKLOAD}")]);
}

#[tokio::test]
async fn a_request_without_end_is_refused() {
    let mesh = Mesh::start().await;
    let mut huge = request(&["default"]);
    huge.version_info = "a".repeat(100 << 20);
    let status = mesh
        .client()
        .await
        .fetch_secrets(huge.clone())
        .await
        .unwrap_err();
    assert!(status.message().len() < 300, "{status:?}");
    let mut stream = mesh.stream().await;
    stream.ask(&["default"]).await;
    stream.next().await;
    stream.send(huge.clone()).await;
    let status = stream.end().await;
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    is_served(&mesh).await;

    let folder = tempfile::tempdir().unwrap();
    let (server, _world) = ads(&folder.path().join("ads.sock"));
    let (requests, mut responses) = open(&server).await.unwrap();
    huge.type_url = clusters().type_url;
    requests.send(huge).await.unwrap();
    let end = tokio::time::timeout(LIMIT, responses.message()).await;
    let status = end.expect("the stream ends").unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    let (requests, mut responses) = open(&server).await.unwrap();
    requests.send(clusters()).await.unwrap();
    next(&mut responses).await;
}

#[tokio::test]
async fn made_up_names_of_all_streams_are_bounded() {
    let mesh = Mesh::start().await;
    let names: Vec<_> = (0..NAMES)
        .map(|n| format!("spiffe://a.test/{n}/{}", "x".repeat(NAME - 100)))
        .collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let (mut held, mut refused) = (Vec::new(), 0);
    for _ in 0..STREAMS {
        let mut stream = mesh.stream().await;
        let asked = [&names[..], &["default"]].concat();
        stream.ask(&asked).await;
        match stream.first().await {
            Ok(_) => held.push(stream),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "{} streams hold names", held.len());
    is_served(&mesh).await;
    // Who wants less has less, and who goes has nothing.
    let last = held.pop().unwrap();
    last.ask(&["default"]).await;
    drop(held);
    let again = async {
        loop {
            let mut stream = mesh.stream().await;
            stream.ask(&[&names[..], &["default"]].concat()).await;
            if stream.first().await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, again)
        .await
        .expect("there is room again");
}

/// The newest state, and no backlog.
#[tokio::test]
async fn who_does_not_read_is_sent_the_newest() {
    let mesh = Mesh::start().await;
    let uri = format!("unix://{}", mesh.socket().display());
    let endpoint = Endpoint::from_shared(uri).unwrap();
    // As little as HTTP/2 allows: what waits beyond waits at the server.
    let endpoint = endpoint
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let mut client = SecretDiscoveryServiceClient::new(endpoint.connect().await.unwrap());
    let (requests, receiver) = mpsc::channel(8);
    requests.send(request(&["default"])).await.unwrap();
    let stream = client.stream_secrets(ReceiverStream::new(receiver)).await;
    let mut stream = stream.unwrap().into_inner();
    let mut last = next(&mut stream).await;
    for _ in 0..ROTATIONS {
        mesh.authority
            .rotate_leaf(OWN, Some(&id(WORKLOAD)))
            .unwrap();
        mesh.sync().await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut current = mesh.stream().await;
    current.ask(&["default"]).await;
    let newest = current.next().await.version_info;
    let mut count = 0;
    while last.version_info != newest {
        last = next(&mut stream).await;
        count += 1;
    }
    assert!(
        count < ROTATIONS / 2,
        "{count} responses waited for who did not read"
    );
    let quiet = tokio::time::timeout(QUIET, stream.message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert_eq!(secrets(&last).len(), 1);
}

#[tokio::test]
async fn answers_to_what_was_never_said_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _world) = ads(&folder.path().join("ads.sock"));
    let (requests, mut responses) = open(&server).await.unwrap();
    requests.send(clusters()).await.unwrap();
    let first = next(&mut responses).await;
    let listeners = DiscoveryRequest {
        type_url: "type.googleapis.com/envoy.config.listener.v3.Listener".into(),
        ..clusters()
    };
    requests.send(listeners.clone()).await.unwrap();
    let second = next(&mut responses).await;
    for (type_url, nonce) in [
        (&first.type_url, "never"),
        (&first.type_url, "18446744073709551616"),
        (&first.type_url, "-1"),
        (&first.type_url, "\u{0}"),
        // Of the other type, and of one that is not served.
        (&second.type_url, "2"),
        (&"type.googleapis.com/a.B".to_owned(), "1"),
        (&String::new(), "1"),
    ] {
        let answer = DiscoveryRequest {
            type_url: type_url.clone(),
            response_nonce: nonce.into(),
            version_info: "made up".into(),
            resource_names: vec!["made up".into()],
            error_detail: Some(ithildin_proto::pb::google::rpc::Status {
                message: "a\nforged\tline".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        requests.send(answer).await.unwrap();
    }
    let quiet = tokio::time::timeout(QUIET, responses.message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    // It goes on as if nothing had been.
    requests
        .send(DiscoveryRequest {
            response_nonce: first.nonce.clone(),
            version_info: first.version_info.clone(),
            ..clusters()
        })
        .await
        .unwrap();
    let routes = DiscoveryRequest {
        type_url: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment".into(),
        resource_names: (0..5000).map(|n| format!("made-up-{n}")).collect(),
        ..clusters()
    };
    requests.send(routes).await.unwrap();
    let quiet = tokio::time::timeout(QUIET, responses.message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

/// A client of one protocol that speaks the other on its stream.
#[tokio::test]
async fn a_stream_has_one_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _world) = ads(&folder.path().join("ads.sock"));
    let (requests, mut responses) = open(&server).await.unwrap();
    // In the other protocol, these fields are another's: a version is a node, a type is names.
    let mixed = DiscoveryRequest {
        version_info: clusters().type_url,
        type_url: String::new(),
        resource_names: vec![clusters().type_url],
        ..clusters()
    };
    requests.send(mixed).await.unwrap();
    let quiet = tokio::time::timeout(QUIET, responses.message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    requests.send(clusters()).await.unwrap();
    next(&mut responses).await;
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _world) = ads(&folder.path().join("ads.sock"));
    let mut streams = Vec::new();
    let refused = loop {
        match open(&server).await {
            Ok((requests, mut responses)) => {
                requests.send(clusters()).await.unwrap();
                next(&mut responses).await;
                streams.push((requests, responses));
            }
            Err(status) => break status,
        }
        assert!(streams.len() < 1000, "there is no limit");
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    streams.pop();
    let again = async { while open(&server).await.is_err() {} };
    tokio::time::timeout(LIMIT, again)
        .await
        .expect("a place is free again");
}

fn ads(path: &Path) -> (String, watch::Sender<Arc<ResourceSet>>) {
    let (world, receiver) = watch::channel(Arc::default());
    let routes = Routes::new(AdsServer::new(receiver).into_service());
    let socket = Socket::unix(path, 0o600).unwrap();
    tokio::spawn(socket.serve(routes, std::future::pending()));
    (format!("unix://{}", path.display()), world)
}

type Both = (mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>);

async fn open(server: &str) -> Result<Both, Status> {
    let channel = Endpoint::from_shared(server.to_owned())
        .unwrap()
        .connect()
        .await;
    let mut client = AggregatedDiscoveryServiceClient::new(channel.unwrap())
        .max_encoding_message_size(usize::MAX);
    let (requests, receiver) = mpsc::channel(8);
    let responses = client
        .stream_aggregated_resources(ReceiverStream::new(receiver))
        .await?;
    Ok((requests, responses.into_inner()))
}

fn clusters() -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node {
            id: "sidecar~127.0.0.1~a.b~b.svc.cluster.local".into(),
            ..Default::default()
        }),
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
        ..Default::default()
    }
}

async fn next(responses: &mut Streaming<DiscoveryResponse>) -> DiscoveryResponse {
    let next = tokio::time::timeout(LIMIT, responses.message()).await;
    next.expect("a response in time").unwrap().unwrap()
}
