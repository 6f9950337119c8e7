//! How much there may be, of connections and in each.

use std::{cell::RefCell, rc::Rc};

use super::*;
use crate::io::Origin;

/// What the test after it runs in a process of its own, which may hold few files.
///
/// The silent clients hold two files each, their own and that of the proxy, and none for the
/// origin. One file is spared for the last of them: it is let in by the kernel, and no file is left
/// for the proxy to take it.
#[tokio::test]
#[ignore = "runs in a child process of its own"]
async fn exhausted_child() {
    let cluster = testing::cluster("echo", &[echo_server().await]);
    let mut listener = tcp_listener("l", "echo");
    listener.filters = ListenerFilters::only(ListenerFilterKind::TlsInspector);
    let listener = Arc::new(listener);
    let proxy = Proxy::start(1, snapshot(vec![Arc::clone(&listener)], vec![cluster])).await;
    let address = proxy.address("l");
    let stats = || listener.stats.worker(0);
    let overflow = || stats().downstream_cx_overflow.get();

    let mut spare = Some(std::fs::File::open("/dev/null").unwrap());
    let mut clients = Vec::new();
    while overflow() == 0 {
        match TcpStream::connect(address).await {
            Ok(client) => clients.push(client),
            Err(error) => drop(spare.take().unwrap_or_else(|| panic!("{error}"))),
        }
        eventually("a client is taken, or there is no file for it", || {
            stats().downstream_pre_cx_active.get() == clients.len() as i64 || overflow() > 0
        })
        .await;
    }
    let (before, start) = (overflow(), Instant::now());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let attempts = overflow() - before;
    // Twice of what is meant.
    let many = start.elapsed().as_millis() as u64 / 50;
    assert!(
        (1..=many).contains(&attempts),
        "it waits, and does not spin: {attempts}"
    );
    drop(clients);
    let start = Instant::now();
    while let Err(error) = connect_and_echo(address).await {
        assert!(start.elapsed() < SOON, "it serves again: {error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn without_files_accept_waits_and_then_goes_on() {
    let script =
        r#"ulimit -n 60; exec "$0" --exact runtime::tests::limits::exhausted_child --ignored"#;
    let output = tokio::process::Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(6 * SOON, output)
        .await
        .unwrap()
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
