//! Upgrades: from HTTP/1 to whatever both ends agree on.

use std::{sync::Arc, time::Duration};

use tokio::net::TcpListener;

use super::support::{Origin, Peer, Site, forward, header_values, manager, route, table, to};
use crate::{config::route::RouteAction, testing};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
                       Upgrade: WebSocket\r\nSec-WebSocket-Key: x\r\n\r\n";

async fn site(address: std::net::SocketAddr) -> Site {
    let mut manager = manager(table(vec![route("/", to("origin"))]));
    manager.upgrades = vec![Arc::from("websocket")];
    Site::start(manager, vec![testing::cluster("origin", &[address])]).await
}

#[tokio::test]
async fn a_websocket_is_a_tunnel() {
    let listener = TcpListener::bind(testing::ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let origin = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut peer = Peer::new(stream);
        let head = peer.head().await.unwrap();
        // The first words may come in the same packet as the head.
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: y\r\n\r\nwelcome",
        )
        .await;
        assert_eq!(peer.take(5).await.unwrap(), "early");
        assert_eq!(peer.take(4).await.unwrap(), "ping");
        peer.send("pong").await;
        assert!(peer.is_closed().await);
        head
    });
    let site = site(address).await;
    let mut client = site.client().await;
    client.send(format!("{UPGRADE}early")).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(
        answer
            .header("connection")
            .map(str::to_ascii_lowercase)
            .as_deref(),
        Some("upgrade")
    );
    assert_eq!(answer.header("sec-websocket-accept"), Some("y"));
    assert_eq!(client.take(7).await.unwrap(), "welcome");
    client.send("ping").await;
    assert_eq!(client.take(4).await.unwrap(), "pong");
    drop(client);
    let head = origin.await.unwrap();
    assert_eq!(header_values(&head, "upgrade"), ["WebSocket"]);
    assert_eq!(header_values(&head, "sec-websocket-key"), ["x"]);
}

#[tokio::test]
async fn an_upgrade_that_is_not_configured_is_refused() {
    let origin = Origin::echo().await;
    let site = Site::before(origin.address).await;
    assert_eq!(site.ask(UPGRADE).await.status, 403);
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn an_origin_may_decline() {
    let origin = Origin::echo().await;
    let site = site(origin.address).await;
    let mut client = site.client().await;
    client.send(UPGRADE).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("upgrade")), (200, None));
}

#[tokio::test]
async fn connect_is_refused_without_a_route_for_it() {
    let origin = Origin::echo().await;
    let site = Site::before(origin.address).await;
    let answer = site
        .ask("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n")
        .await;
    assert_eq!(answer.status, 404);
    assert!(origin.requests().is_empty());
}

/// The response's time limit ends with its head: what follows is no response.
#[tokio::test]
async fn a_tunnel_outlives_the_timeout_of_its_route() {
    let listener = TcpListener::bind(testing::ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut peer = Peer::new(stream);
        peer.head().await.unwrap();
        peer.send("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        let asked = peer.take(4).await.unwrap();
        peer.send(asked).await;
        std::future::pending::<()>().await;
    });
    let mut forward = forward("origin");
    forward.timeout = Some(Duration::from_secs(1));
    let mut table = table(vec![route("/", RouteAction::Forward(Box::new(forward)))]);
    table.hosts[0].include_attempt_count_in_response = true;
    let mut manager = manager(table);
    manager.upgrades = vec![Arc::from("websocket")];
    let cluster = testing::cluster("origin", &[address]);
    let site = Site::start(manager, vec![cluster]).await;
    let mut client = site.client().await;
    client.send(UPGRADE).await;
    let answer = client.answer().await;
    assert_eq!(answer.header("x-envoy-attempt-count"), Some("1"));
    // Three times the limit, and the slack of the timers.
    tokio::time::sleep(Duration::from_secs(3)).await;
    client.send("ping").await;
    assert_eq!(client.take(4).await.unwrap(), "ping");
}

/// What follows a request for another protocol is nobody's request.
#[tokio::test]
async fn nothing_is_read_behind_an_upgrade_that_came_to_nothing() {
    let origin = Origin::echo().await;
    let with = site(origin.address).await;
    let without = Site::before(origin.address).await;
    let smuggled = format!("{UPGRADE}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    for (site, status) in [(with, 200), (without, 403)] {
        let mut client = site.client().await;
        client.send(&smuggled).await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, answer.header("connection")),
            (status, Some("close"))
        );
        assert!(client.is_closed().await);
    }
    assert_eq!(origin.requests().len(), 1);
}
