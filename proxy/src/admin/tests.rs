use std::{sync::Arc, time::Instant};

use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use ithildin_proto::pb::envoy::config::{
    bootstrap::v3::Bootstrap, cluster::v3::Cluster, listener::v3::Listener,
};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::{
    config::Snapshot,
    control::{Held, Inventory, InventoryRequest, Refused, Source, Stamp},
    runtime::{Runtime, RuntimeOptions},
};

/// How long the servers of these tests wait for a head.
const IDLE: Duration = Duration::from_secs(3);

struct Fixture {
    requests: mpsc::Receiver<InventoryRequest>,
    server: AdminServer,
    readiness: watch::Sender<Readiness>,
    commands: Commands,
    /// It is drained by nothing but `/drain_listeners`.
    _runtime: Runtime,
}

async fn start() -> Fixture {
    let stats = Arc::new(Registry::new(1));
    let readiness = watch::Sender::new(Readiness::Waiting(Arc::new([])));
    let commands = Commands::default();
    let (inventory, requests) = InventoryClient::new();
    let published = Published::new(Arc::new(Snapshot::default()));
    let options = RuntimeOptions {
        workers: 1,
        drain_time: Duration::from_secs(600),
        max_connections: None,
    };
    let runtime = Runtime::start(options, Arc::clone(&published)).unwrap();
    let state = AdminState {
        drainer: runtime.drainer(),
        bootstrap: Arc::new(StoredBootstrap::new(&Bootstrap::default())),
        inventory,
        published,
        resources: watch::channel(Arc::default()).1,
        control: watch::channel(Arc::default()).1,
        listeners: watch::channel(Arc::default()).1,
        readiness: readiness.subscribe(),
        logs: Arc::new(LogWriter::new(Arc::clone(&stats.filesystem))),
        stats,
        commands: commands.clone(),
        started: Instant::now(),
        drain_time: Duration::from_secs(600),
        counted: Arc::default(),
    };
    let address = ([127, 0, 0, 1], 0).into();
    let server = AdminServer::start_with(address, state, IDLE).await.unwrap();
    Fixture {
        requests,
        server,
        readiness,
        commands,
        _runtime: runtime,
    }
}

impl Fixture {
    async fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.server.address()))
            .body(Empty::new())
            .unwrap();
        let response = client.request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn ready_follows_the_proxy_and_the_operator() {
    let fixture = start().await;
    assert_eq!(
        fixture.ask("GET", "/ready").await,
        (503, "INITIALIZING\n".into())
    );
    fixture.readiness.send_replace(Readiness::Ready);
    assert_eq!(fixture.ask("GET", "/ready").await, (200, "LIVE\n".into()));
    assert_eq!(
        fixture.ask("POST", "/healthcheck/fail").await,
        (200, "OK\n".into())
    );
    assert_eq!(
        fixture.ask("GET", "/ready").await,
        (503, "DRAINING\n".into())
    );
    assert_eq!(fixture.ask("POST", "/healthcheck/ok").await.0, 200);
    assert_eq!(fixture.ask("GET", "/ready").await.0, 200);
}

#[tokio::test]
async fn what_changes_something_wants_post() {
    let fixture = start().await;
    let requested = fixture.commands.subscribe();
    let (status, text) = fixture.ask("GET", "/quitquitquit").await;
    assert_eq!(
        (status, text.as_str()),
        (405, "Method GET not allowed, POST required.")
    );
    assert!(!requested.borrow().quit);
    assert_eq!(
        fixture.ask("POST", "/quitquitquit").await,
        (200, "OK\n".into())
    );
    assert!(requested.borrow().quit);
}

#[tokio::test]
async fn an_unknown_path_is_404_with_the_pages() {
    let fixture = start().await;
    let (status, text) = fixture.ask("GET", "/nope").await;
    assert_eq!(status, 404);
    assert!(
        text.starts_with("invalid path. admin commands are:\n"),
        "{text}"
    );
    assert!(
        text.contains("  /quitquitquit (POST): exit the server\n"),
        "{text}"
    );
}

#[tokio::test]
async fn statistics_are_filtered() {
    let fixture = start().await;
    fixture.readiness.send_replace(Readiness::Ready);
    let (_, text) = fixture.ask("GET", "/stats?filter=%5Eserver%5C.live$").await;
    assert_eq!(text, "server.live: 1\n");
    assert_eq!(fixture.ask("GET", "/stats?filter=(").await.0, 400);
    let (_, text) = fixture.ask("GET", "/stats/prometheus").await;
    assert!(text.contains("envoy_server_live{} 1\n"), "{text}");
    let (_, text) = fixture.ask("GET", "/certs").await;
    assert_eq!(text, "{\n \"certificates\": []\n}\n");
}

/// Answers each request for resources with what `inventory` makes.
fn serve(fixture: &mut Fixture, inventory: fn() -> Inventory) {
    let (_, closed) = mpsc::channel(1);
    let mut requests = std::mem::replace(&mut fixture.requests, closed);
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            let _ = request.send(inventory());
        }
    });
}

#[tokio::test]
async fn the_configuration_is_dumped_in_envoys_sections() {
    let mut fixture = start().await;
    serve(&mut fixture, Inventory::default);
    let (status, text) = fixture.ask("GET", "/config_dump?include_eds").await;
    assert_eq!(status, 200);
    for section in [
        "Bootstrap",
        "Clusters",
        "Endpoints",
        "Listeners",
        "Routes",
        "Secrets",
    ] {
        let kind = format!("\"type.googleapis.com/envoy.admin.v3.{section}ConfigDump\"");
        assert!(text.contains(&kind), "{kind}");
    }
    let (_, text) = fixture.ask("GET", "/config_dump").await;
    assert!(!text.contains("EndpointsConfigDump"), "{text}");
}

fn source<M>(message: M, version: &str) -> Source<M> {
    Source {
        message: Some(Arc::new(message)),
        stamp: Stamp {
            update: 0,
            told: Some(version.into()),
            at: std::time::UNIX_EPOCH + Duration::from_millis(1_500),
        },
    }
}

/// A listener and a cluster whose third update is refused while the first serves; a secret.
fn half_refused() -> Inventory {
    let listener = |stat_prefix: &str| Listener {
        name: "in".into(),
        stat_prefix: stat_prefix.into(),
        ..Default::default()
    };
    let cluster = |alt_stat_name: &str| Cluster {
        name: "out".into(),
        alt_stat_name: alt_stat_name.into(),
        ..Default::default()
    };
    let reason: Arc<str> = "listener \"in\".address: is required".into();
    Inventory {
        clusters_version: "2026/3".into(),
        listeners_version: "2026/3".into(),
        listeners: vec![Held {
            name: "in".into(),
            active: Some(source(listener("old"), "2026/1")),
            warming: None,
            refused: Some(Refused {
                source: source(listener("new"), "2026/3"),
                reason: Arc::clone(&reason),
            }),
        }],
        clusters: vec![Held {
            name: "out".into(),
            active: Some(source(cluster("old"), "")),
            warming: None,
            refused: Some(Refused {
                source: source(cluster("new"), "2026/3"),
                reason: Arc::clone(&reason),
            }),
        }],
        ..Inventory::default()
    }
}

#[tokio::test]
async fn what_is_refused_stands_beside_what_serves() {
    let mut fixture = start().await;
    serve(&mut fixture, half_refused);
    let (_, text) = fixture.ask("GET", "/config_dump").await;
    let dump: serde_json::Value = serde_json::from_str(&text).unwrap();
    let section = |name: &str| {
        let name = format!("type.googleapis.com/envoy.admin.v3.{name}ConfigDump");
        let sections = dump["configs"].as_array().unwrap();
        sections.iter().find(|it| it["@type"] == *name).unwrap()
    };
    assert_eq!(section("Listeners")["version_info"], "2026/3");
    let listener = &section("Listeners")["dynamic_listeners"][0];
    assert_eq!(listener["name"], "in");
    let active = &listener["active_state"];
    assert_eq!(active["version_info"], "2026/1");
    assert_eq!(active["last_updated"], "1970-01-01T00:00:01.500Z");
    assert_eq!(active["listener"]["stat_prefix"], "old");
    let error = &listener["error_state"];
    assert_eq!(error["version_info"], "2026/3");
    assert_eq!(error["details"], "listener \"in\".address: is required");
    assert_eq!(error["failed_configuration"]["stat_prefix"], "new");
    let cluster = &section("Clusters")["dynamic_active_clusters"][0];
    assert_eq!(cluster["cluster"]["alt_stat_name"], "old");
    assert!(cluster.get("version_info").is_none(), "it has none");
    let failed = &cluster["error_state"]["failed_configuration"];
    assert_eq!(failed["alt_stat_name"], "new");
}

#[tokio::test]
async fn clients_that_say_nothing_keep_nobody_out() {
    let fixture = start().await;
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        idle.push(TcpStream::connect(fixture.server.address()).await.unwrap());
    }
    let asked = tokio::time::timeout(Duration::from_secs(30), fixture.ask("GET", "/server_info"));
    assert_eq!(asked.await.expect("it waits for idle clients").0, 200);
}

#[tokio::test]
async fn connections_end_with_the_server() {
    use tokio::io::AsyncReadExt;

    let fixture = start().await;
    let mut client = TcpStream::connect(fixture.server.address()).await.unwrap();
    // Accepted in order: when the second is answered, the first is served.
    fixture.ask("GET", "/server_info").await;
    let begun = Instant::now();
    drop(fixture.server);
    let read = client.read(&mut [0]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert!(begun.elapsed() < IDLE / 2, "it ended for being idle");
}
