//! How much there may be, of connections and in each.

use std::{cell::RefCell, rc::Rc};

use super::*;
use crate::io::Origin;

/// What the test after it runs in a process of its own, which may hold few files.
#[tokio::test]
#[ignore = "runs in a child process of its own"]
async fn exhausted_child() {
    let cluster = testing::cluster("echo", &[echo_server().await]);
    let listener = Arc::new(tcp_listener("l", "echo"));
    let proxy = Proxy::start(1, snapshot(vec![Arc::clone(&listener)], vec![cluster])).await;
    let address = proxy.address("l");
    let mut clients = Vec::new();
    while let Ok(client) = TcpStream::connect(address).await {
        clients.push(client);
    }
    let overflow = || listener.stats.worker(0).downstream_cx_overflow.get();
    eventually("accept fails", || overflow() > 0).await;
    let before = overflow();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let attempts = overflow() - before;
    assert!(
        (1..=20).contains(&attempts),
        "it waits, and does not spin: {attempts}"
    );
    drop(clients);
    let start = Instant::now();
    while connect_and_echo(address).await.is_err() {
        assert!(start.elapsed() < SOON, "it serves again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn without_files_accept_waits_and_then_goes_on() {
    let script =
        r#"ulimit -n 60; exec "$0" --exact runtime::tests::limits::exhausted_child --ignored"#;
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

#[tokio::test(flavor = "local")]
async fn what_is_kept_per_connection_is_small() {
    let cluster = testing::cluster("echo", &[echo_server().await]);
    let listener = Arc::new(tcp_listener("l", "echo"));
    let published = Published::new(snapshot(vec![Arc::clone(&listener)], vec![cluster]));
    let worker = crate::worker::Worker::new(0, published, Arc::default());
    let stream = TcpStream::connect(echo_server().await).await.unwrap();
    let accepted = session::Accepted {
        id: 1,
        remote: stream.local_addr().unwrap(),
        stream,
        registration: worker.registry.register(Origin::Downstream {
            listener: Arc::clone(&listener),
            chain: None,
        }),
        newest: Rc::new(RefCell::new(Arc::clone(&listener))),
        listener,
    };
    let size = size_of_val(&session::run(worker, accepted));
    assert!(size <= 640, "{size}");
    assert!(size_of::<crate::worker::Downstream>() <= 128);
    assert!(size_of::<crate::worker::Connection>() <= 256);
    assert!(size_of::<crate::io::Stream>() <= 96);
}

#[tokio::test]
async fn no_more_connections_are_taken_than_there_may_be() {
    let cluster = testing::cluster("echo", &[echo_server().await]);
    let listener = Arc::new(tcp_listener("l", "echo"));
    let mut always = tcp_listener("always", "echo");
    always.is_always_accepted = true;
    let listeners = vec![Arc::clone(&listener), Arc::new(always)];
    let snapshot = snapshot(listeners, vec![cluster]);
    let version = snapshot.version;
    let options = RuntimeOptions {
        workers: 1,
        drain_time: LONG,
        max_connections: Some(3),
    };
    let proxy = Proxy::start_by(options, Published::new(snapshot), version).await;
    let address = proxy.address("l");
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(connect_and_echo(address).await.unwrap());
    }
    let overflow = || {
        let stats = listener.stats.worker(0);
        stats.downstream_global_cx_overflow.get()
    };
    assert_eq!(overflow(), 0);
    assert!(connect_and_echo(address).await.is_err(), "one too many");
    assert_eq!(overflow(), 1);
    connect_and_echo(proxy.address("always")).await.unwrap();
    held.pop();
    eventually("a connection ends", || {
        proxy.runtime.active_connections() < 3
    })
    .await;
    connect_and_echo(address).await.unwrap();
}
