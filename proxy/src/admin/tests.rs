use std::{sync::Arc, time::Instant};

use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::sync::watch;

use super::*;
use crate::config::Snapshot;

struct Fixture {
    server: AdminServer,
    readiness: watch::Sender<Readiness>,
    commands: Commands,
}

async fn start() -> Fixture {
    let stats = Arc::new(Registry::new(1));
    let readiness = watch::Sender::new(Readiness::Waiting(Arc::new([])));
    let commands = Commands::default();
    let state = AdminState {
        bootstrap: Arc::default(),
        published: Published::new(Arc::new(Snapshot::default())),
        resources: watch::channel(Arc::default()).1,
        control: watch::channel(Arc::default()).1,
        listeners: watch::channel(Arc::default()).1,
        readiness: readiness.subscribe(),
        logs: Arc::new(LogWriter::new(Arc::clone(&stats.filesystem))),
        stats,
        commands: commands.clone(),
        started: Instant::now(),
    };
    let server = AdminServer::start(([127, 0, 0, 1], 0).into(), state)
        .await
        .unwrap();
    Fixture {
        server,
        readiness,
        commands,
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

#[tokio::test]
async fn the_configuration_is_dumped_in_envoys_sections() {
    let fixture = start().await;
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
