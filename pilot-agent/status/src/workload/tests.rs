//! Workloads that are well, ill and in between.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

fn ready() -> Readiness {
    let readiness = Readiness::new(Instant::now());
    readiness.gate("all").open();
    readiness
}

fn start(probe: Value, readiness: Readiness) -> watch::Receiver<Option<WorkloadHealth>> {
    let probe = WorkloadProbe::parse(&probe).unwrap();
    probe.start(readiness, ProbeTarget::Localhost).unwrap()
}

/// The first thing that is said.
async fn first(probe: Value) -> WorkloadHealth {
    let mut health = start(probe, ready());
    let said = timeout(LIMIT, health.wait_for(Option::is_some)).await;
    said.unwrap().unwrap().clone().unwrap()
}

fn is_unhealthy(health: &WorkloadHealth, text: &str) -> bool {
    matches!(health, WorkloadHealth::Unhealthy(reason) if reason.contains(text))
}

/// Answers with this status; the head of the last request.
async fn server(status: &'static str) -> (u16, watch::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, heads) = watch::channel(String::new());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let count = stream.read(&mut head).await.unwrap();
            let answer = format!(
                "HTTP/1.1 {status} x\r\nlocation: http://b.example/\r\ncontent-length: 0\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            sender.send_replace(String::from_utf8_lossy(&head[..count]).to_lowercase());
        }
    });
    (port, heads)
}

#[tokio::test]
async fn http_statuses() {
    for (status, healthy) in [
        ("200", true),
        ("204", true),
        ("302", true),
        ("304", true),
        ("400", false),
        ("503", false),
    ] {
        let (port, mut heads) = server(status).await;
        let health = first(json!({"httpGet": {"port": port, "path": "/h?x",
            "httpHeaders": [{"name": "Host", "value": "a.example"}, {"name": "X", "value": "y"}]}}))
        .await;
        assert_eq!(
            health == WorkloadHealth::Healthy,
            healthy,
            "{status}: {health:?}"
        );
        assert!(healthy || is_unhealthy(&health, status));
        let head = heads
            .wait_for(|head| !head.is_empty())
            .await
            .unwrap()
            .clone();
        for line in [
            "get /h?x http/1.1",
            "host: a.example",
            "x: y",
            "user-agent: istio-probe/1.0",
        ] {
            assert!(head.lines().any(|got| got == line), "{line}: {head}");
        }
    }
}

#[tokio::test]
async fn every_method() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let silent = json!({"httpGet": {"port": port}, "timeoutSeconds": 1});
    for (probe, unhealthy) in [
        (
            json!({"tcpSocket": {"port": port}, "timeoutSeconds": 5}),
            None,
        ),
        (
            json!({"tcpSocket": {"port": port, "host": "127.0.0.1"}, "timeoutSeconds": 5}),
            None,
        ),
        (json!({"tcpSocket": {"port": 1}}), Some("cannot connect")),
        (silent, Some("no answer within 1s")),
        (json!({"grpc": {"port": port}}), Some("no answer within 1s")),
        (
            json!({"exec": {"command": ["true"]}, "timeoutSeconds": 5}),
            None,
        ),
        (
            json!({"exec": {"command": ["sh", "-c", "exit 3"]}, "timeoutSeconds": 5}),
            Some("exit status: 3"),
        ),
        (
            json!({"exec": {"command": ["sleep", "60"]}}),
            Some("no answer within 1s"),
        ),
        (
            json!({"exec": {"command": ["/nonexistent/probe"]}, "timeoutSeconds": 5}),
            Some("/nonexistent/probe"),
        ),
    ] {
        let health = first(probe.clone()).await;
        match unhealthy {
            None => assert_eq!(health, WorkloadHealth::Healthy, "{probe}"),
            Some(text) => assert!(is_unhealthy(&health, text), "{probe}: {health:?}"),
        }
    }
}

#[tokio::test]
async fn changes_are_said_once_and_only_those() {
    let folder = tempfile::tempdir().unwrap();
    let flag = folder.path().join("well");
    let probe =
        json!({"exec": {"command": ["test", "-e", flag]}, "periodSeconds": 1, "timeoutSeconds": 5});
    let mut health = start(probe, ready());
    let said = timeout(LIMIT, health.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert!(is_unhealthy(&said.unwrap(), "exit status: 1"));
    health.mark_unchanged();
    sleep(Duration::from_millis(1500)).await;
    assert!(!health.has_changed().unwrap(), "still unhealthy");
    std::fs::write(&flag, "").unwrap();
    timeout(LIMIT, health.changed()).await.unwrap().unwrap();
    assert_eq!(*health.borrow(), Some(WorkloadHealth::Healthy));
}

#[tokio::test]
async fn a_proxy_that_is_not_ready_serves_no_workload() {
    let readiness = Readiness::new(Instant::now());
    let gate = readiness.gate("data plane");
    let probe = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    let mut health = start(probe, readiness);
    let said = timeout(LIMIT, health.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert!(is_unhealthy(
        &said.unwrap(),
        "the proxy is not ready: data plane"
    ));
    gate.open();
    let healthy = health.wait_for(|health| *health == Some(WorkloadHealth::Healthy));
    drop(timeout(LIMIT, healthy).await.unwrap().unwrap());
}

#[test]
fn thresholds_count_what_is_in_a_row() {
    let mut row = Row::default();
    let lengths: Vec<_> = [false, true, true, false, true]
        .map(|healthy| {
            row.count(healthy);
            row.length
        })
        .into();
    assert_eq!(lengths, [1, 1, 2, 1, 1]);
}
