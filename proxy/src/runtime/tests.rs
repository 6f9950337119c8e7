//! Whole workers in process, over loopback.

use std::{
    cell::RefCell,
    io::ErrorKind,
    rc::Rc,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

mod mesh;
mod tls;

use super::*;
use crate::config::listener::TrafficDirection;
use crate::{
    config::{
        Listener, Snapshot,
        listener::{ListenerFilterKind, ListenerFilters, Terminal},
    },
    io::Origin,
    rbac::{Action, Rbac, RuleSet},
    testing::{self, eventually, snapshot, tcp_listener},
};

const LONG: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(10);

/// A server that sends back what it gets, and half-closes when its client does.
async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind(testing::ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                // The test of exhaustion takes our files, too.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}

struct Proxy {
    runtime: Runtime,
    published: Arc<Published>,
}

impl Proxy {
    async fn start(workers: usize, snapshot: Arc<Snapshot>) -> Self {
        Self::start_with(workers, LONG, snapshot).await
    }

    async fn start_with(workers: usize, drain_time: Duration, snapshot: Arc<Snapshot>) -> Self {
        let version = snapshot.version;
        let published = Published::new(snapshot);
        let options = RuntimeOptions {
            workers,
            drain_time,
            max_connections: None,
        };
        Self::start_by(options, published, version).await
    }

    async fn start_by(options: RuntimeOptions, published: Arc<Published>, version: u64) -> Self {
        let runtime = Runtime::start(options, Arc::clone(&published)).unwrap();
        let proxy = Self { runtime, published };
        proxy.applied(version).await;
        proxy
    }

    /// Publishes, and waits until it is in force.
    async fn publish(&self, snapshot: Arc<Snapshot>) {
        let version = snapshot.version;
        self.published.publish(snapshot);
        self.applied(version).await;
    }

    async fn applied(&self, version: u64) {
        let mut report = self.runtime.listeners();
        let done = report.wait_for(|report| report.version == Some(version));
        tokio::time::timeout(SOON, done).await.unwrap().unwrap();
    }

    fn bound(&self, name: &str) -> Result<Vec<SocketAddr>, String> {
        let report = self.runtime.listeners().borrow().clone();
        let status = report.listeners.iter().find(|it| *it.name == *name);
        status.unwrap().bound.clone()
    }

    fn address(&self, name: &str) -> SocketAddr {
        self.bound(name).unwrap()[0]
    }
}

async fn echo(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<()> {
    stream.write_all(text).await?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).await?;
    assert_eq!(answer, text);
    Ok(())
}

async fn connect_and_echo(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    echo(&mut stream, b"hello").await?;
    Ok(stream)
}

fn accepted_by(listener: &Listener, worker: usize) -> u64 {
    listener.stats.worker(worker).downstream_cx_total.get()
}

#[tokio::test]
async fn no_workers_is_an_error() {
    let options = RuntimeOptions {
        workers: 0,
        drain_time: LONG,
        max_connections: None,
    };
    let error = Runtime::start(options, Published::new(Arc::default())).unwrap_err();
    assert_eq!(error.to_string(), "workers is 0; it must be at least 1");
}

#[tokio::test]
async fn all_workers_serve() {
    let cluster = testing::cluster("echo", &[echo_server().await]);
    let listener = Arc::new(tcp_listener("l", "echo"));
    let proxy = Proxy::start(3, snapshot(vec![Arc::clone(&listener)], vec![cluster])).await;
    let mut streams = Vec::new();
    while (0..3).any(|worker| accepted_by(&listener, worker) == 0) {
        streams.push(connect_and_echo(proxy.address("l")).await.unwrap());
        assert!(streams.len() < 500, "the kernel spreads connections");
    }
    let all = streams.len() as u64;
    assert_eq!(proxy.runtime.active_connections(), all);
    drop(streams);
    eventually("connections are gone", || {
        proxy.runtime.active_connections() == 0
    })
    .await;
    proxy.runtime.shutdown(SOON).await;
}

#[tokio::test]
async fn listeners_come_change_and_go_under_load() {
    let echo_address = echo_server().await;
    let clusters = || vec![testing::cluster("echo", &[echo_address])];
    let kept = Arc::new(tcp_listener("kept", "echo"));
    let proxy = Proxy::start(2, snapshot(vec![Arc::clone(&kept)], clusters())).await;
    let address = proxy.address("kept");

    let (stop, served) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let load = tokio::spawn({
        let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
        async move {
            while !stop.load(Relaxed) {
                connect_and_echo(address)
                    .await
                    .expect("the listener that stays serves");
                served.fetch_add(1, Relaxed);
            }
        }
    });
    for round in 0..20 {
        let other = Arc::new(tcp_listener("other", "echo"));
        // The same address, other chains.
        let changed = Arc::new(tcp_listener("kept", "echo"));
        proxy
            .publish(snapshot(vec![changed, other], clusters()))
            .await;
        let other = proxy.address("other");
        connect_and_echo(other).await.unwrap();
        assert_eq!(proxy.address("kept"), address, "the socket stays");
        proxy
            .publish(snapshot(vec![Arc::clone(&kept)], clusters()))
            .await;
        let refused = TcpStream::connect(other).await.map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{round}");
    }
    stop.store(true, Relaxed);
    load.await.unwrap();
    assert!(served.load(Relaxed) > 0);
}

#[tokio::test]
async fn a_listener_can_take_over_the_address_of_one_that_goes() {
    let echo_address = echo_server().await;
    let clusters = || vec![testing::cluster("echo", &[echo_address])];
    let one = Arc::new(tcp_listener("one", "echo"));
    for workers in [1, 2] {
        let proxy = Proxy::start(workers, snapshot(vec![Arc::clone(&one)], clusters())).await;
        let mut two = tcp_listener("two", "echo");
        two.addresses = vec![proxy.address("one")];
        let mut old = connect_and_echo(proxy.address("one")).await.unwrap();
        proxy
            .publish(snapshot(vec![Arc::new(two)], clusters()))
            .await;
        connect_and_echo(proxy.address("two")).await.unwrap();
        echo(&mut old, b"connections of the old one live on")
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_listener_that_cannot_be_bound_is_reported_and_the_old_one_serves() {
    let echo_address = echo_server().await;
    let clusters = || vec![testing::cluster("echo", &[echo_address])];
    for workers in [1, 2] {
        let taken = std::net::TcpListener::bind(testing::ANY).unwrap();
        let good = Arc::new(tcp_listener("good", "echo"));
        let proxy = Proxy::start(workers, snapshot(vec![good], clusters())).await;
        let address = proxy.address("good");
        let mut bad = tcp_listener("good", "echo");
        bad.addresses = vec![taken.local_addr().unwrap()];
        let fresh = Arc::new(tcp_listener("fresh", "echo"));
        proxy
            .publish(snapshot(vec![Arc::new(bad), fresh], clusters()))
            .await;
        let error = proxy.bound("good").unwrap_err();
        assert!(error.contains("cannot listen on 127.0.0.1:"), "{error}");
        assert!(error.contains("in use"), "{error}");
        connect_and_echo(address).await.unwrap();
        connect_and_echo(proxy.address("fresh")).await.unwrap();
        // Once the address is free it is taken.
        drop(taken);
        eventually("bound", || proxy.bound("good").is_ok()).await;
        connect_and_echo(proxy.address("good")).await.unwrap();
    }
}

#[tokio::test]
async fn a_chain_that_goes_has_its_connections_closed_when_the_drain_time_is_over() {
    let echo_address = echo_server().await;
    let clusters = || vec![testing::cluster("echo", &[echo_address])];
    let listener = Arc::new(tcp_listener("l", "echo"));
    let drain_time = Duration::from_millis(300);
    let first = snapshot(vec![listener], clusters());
    let proxy = Proxy::start_with(1, drain_time, first).await;
    let address = proxy.address("l");
    let mut old = connect_and_echo(address).await.unwrap();
    let changed = Arc::new(tcp_listener("l", "echo"));
    proxy.publish(snapshot(vec![changed], clusters())).await;
    let mut new = connect_and_echo(address).await.unwrap();
    let start = Instant::now();
    echo(&mut old, b"still served").await.unwrap();
    assert_eq!(old.read(&mut [0; 1]).await.unwrap_or(0), 0);
    assert!(start.elapsed() < SOON);
    echo(&mut new, b"not of the old chain").await.unwrap();
}

#[tokio::test]
async fn a_client_that_is_silent_over_a_change_meets_what_holds_then() {
    let echo_address = echo_server().await;
    let clusters = || vec![testing::cluster("echo", &[echo_address])];
    let mut listener = tcp_listener("l", "echo");
    listener.filters = ListenerFilters::only(ListenerFilterKind::TlsInspector);
    let listener = Arc::new(listener);
    let proxy = Proxy::start(1, snapshot(vec![Arc::clone(&listener)], clusters())).await;
    let mut silent = TcpStream::connect(proxy.address("l")).await.unwrap();
    let inspected = || listener.stats.worker(0).downstream_pre_cx_active.get();
    eventually("accepted", || inspected() == 1).await;

    let mut chain = testing::chain("c", Terminal::Tcp(Arc::new(testing::tcp_proxy("echo"))));
    let nobody = RuleSet {
        action: Action::Allow,
        policies: Vec::new(),
    };
    chain.rbac = vec![Rbac {
        shadow_keys: Default::default(),
        stats: None,
        rules: Some(nobody),
        shadow_rules: None,
    }];
    let mut changed = testing::listener("l", testing::ANY, chain);
    changed.filters = ListenerFilters::only(ListenerFilterKind::TlsInspector);
    proxy
        .publish(snapshot(vec![Arc::new(changed)], clusters()))
        .await;
    silent.write_all(b"hello").await.unwrap();
    let answer = tokio::time::timeout(SOON, silent.read(&mut [0; 5])).await;
    assert_eq!(answer.unwrap().unwrap_or(0), 0, "the old chain echoes");
}

#[tokio::test]
async fn a_drain_refuses_new_connections_and_lets_live_ones_finish() {
    let cluster = testing::cluster("echo", &[echo_server().await]);
    let listener = Arc::new(tcp_listener("l", "echo"));
    let proxy = Proxy::start(2, snapshot(vec![listener], vec![cluster])).await;
    let address = proxy.address("l");
    let mut live = connect_and_echo(address).await.unwrap();
    proxy.runtime.drain();
    let start = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(start.elapsed() < SOON);
    }
    echo(&mut live, b"in flight").await.unwrap();
    let runtime = tokio::spawn(async move { proxy.runtime.shutdown(SOON).await });
    echo(&mut live, b"still in flight").await.unwrap();
    drop(live);
    let start = Instant::now();
    runtime.await.unwrap();
    assert!(start.elapsed() < SOON, "it does not wait for the deadline");
}

#[tokio::test]
async fn only_inbound_listeners_drain_where_only_they_are_asked_to() {
    let clusters = || vec![testing::cluster("echo", &[])];
    let cluster = testing::cluster("echo", &[echo_server().await]);
    let mut inbound = tcp_listener("in", "echo");
    inbound.direction = TrafficDirection::Inbound;
    let outbound = Arc::new(tcp_listener("out", "echo"));
    let listeners = vec![Arc::new(inbound), Arc::clone(&outbound)];
    let proxy = Proxy::start(2, snapshot(listeners, vec![cluster])).await;
    let (entry, exit) = (proxy.address("in"), proxy.address("out"));
    let mut live = connect_and_echo(entry).await.unwrap();
    let drainer = proxy.runtime.drainer();
    let inbound_only = true;
    // Nothing closes where nothing should.
    drainer.drain(Drain {
        inbound_only,
        skip_exit: true,
        graceful: false,
    });
    drainer.drain(Drain {
        inbound_only,
        graceful: true,
        skip_exit: false,
    });
    for address in [entry, exit] {
        connect_and_echo(address).await.unwrap();
    }
    drainer.drain(Drain {
        inbound_only,
        ..Drain::default()
    });
    let start = Instant::now();
    while TcpStream::connect(entry).await.is_ok() {
        assert!(start.elapsed() < SOON);
    }
    echo(&mut live, b"in flight").await.unwrap();
    connect_and_echo(exit).await.unwrap();
    // The others still follow the configuration.
    proxy.publish(snapshot(vec![outbound], clusters())).await;
    assert!(TcpStream::connect(exit).await.is_ok());
}

#[tokio::test]
async fn a_graceful_drain_accepts_until_the_drain_time_is_over() {
    let drain_time = Duration::from_millis(300);
    let cluster = testing::cluster("echo", &[echo_server().await]);
    let listener = Arc::new(tcp_listener("l", "echo"));
    let snapshot = snapshot(vec![listener], vec![cluster]);
    let proxy = Proxy::start_with(1, drain_time, snapshot).await;
    let address = proxy.address("l");
    let start = Instant::now();
    let graceful = Drain {
        graceful: true,
        ..Drain::default()
    };
    proxy.runtime.drainer().drain(graceful);
    while TcpStream::connect(address).await.is_ok() {
        assert!(start.elapsed() < SOON);
    }
    assert!(start.elapsed() >= drain_time);
}

#[tokio::test]
async fn the_sni_may_name_the_cluster() {
    let name = "outbound_.443_._.a.b.svc.cluster.local";
    let clusters = vec![testing::cluster(name, &[echo_server().await])];
    let terminal = Terminal::Tcp(Arc::new(testing::tcp_proxy("nowhere")));
    let mut chain = testing::chain("c", terminal);
    chain.sni_cluster = true;
    let mut listener = testing::listener("l", testing::ANY, chain);
    listener.filters = ListenerFilters::only(ListenerFilterKind::TlsInspector);
    let proxy = Proxy::start(1, snapshot(vec![Arc::new(listener)], clusters)).await;
    let hello = hello_for(name);
    let mut stream = TcpStream::connect(proxy.address("l")).await.unwrap();
    echo(&mut stream, &hello).await.unwrap();
    // Without a name there is the cluster of the configuration, which is not there.
    let mut stream = TcpStream::connect(proxy.address("l")).await.unwrap();
    stream.write_all(b"no tls").await.unwrap();
    let answer = tokio::time::timeout(SOON, stream.read(&mut [0; 5])).await;
    assert_eq!(answer.unwrap().unwrap_or(0), 0);
}

/// A ClientHello with this SNI and nothing else.
fn hello_for(name: &str) -> Vec<u8> {
    let with_length = |content: &[u8]| {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&length, content].concat()
    };
    let list = with_length(&[&[0][..], &with_length(name.as_bytes())].concat());
    let extensions = with_length(&[&[0, 0][..], &with_length(&list)].concat());
    let start = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2f, 1, 0]].concat();
    let message = with_length(&[start, extensions].concat());
    let message = [&[1, 0][..], &message].concat();
    [&[22, 3, 1][..], &with_length(&message)].concat()
}

#[tokio::test]
async fn a_shutdown_closes_what_is_left_at_its_deadline() {
    let cluster = testing::cluster("echo", &[echo_server().await]);
    let listener = Arc::new(tcp_listener("l", "echo"));
    let proxy = Proxy::start(2, snapshot(vec![listener], vec![cluster])).await;
    let mut live = connect_and_echo(proxy.address("l")).await.unwrap();
    let deadline = Duration::from_millis(200);
    let start = Instant::now();
    proxy.runtime.shutdown(deadline).await;
    assert!(start.elapsed() >= deadline);
    assert!(start.elapsed() < SOON);
    assert_eq!(live.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn half_close_goes_through() {
    let cluster = testing::cluster("echo", &[echo_server().await]);
    let listener = Arc::new(tcp_listener("l", "echo"));
    let proxy = Proxy::start(1, snapshot(vec![listener], vec![cluster])).await;
    let mut stream = TcpStream::connect(proxy.address("l")).await.unwrap();
    let sent: Vec<u8> = (0..3_000_000u32).map(|i| i as u8).collect();
    let (mut read, mut write) = stream.split();
    let mut received = Vec::new();
    let send = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    tokio::join!(send, async {
        read.read_to_end(&mut received).await.unwrap()
    });
    assert!(received == sent, "{} of {}", received.len(), sent.len());
}

#[tokio::test]
async fn a_session_without_traffic_is_closed_when_its_idle_time_is_over() {
    let mut proxy_config = testing::tcp_proxy("echo");
    proxy_config.idle_timeout = Some(Duration::from_millis(300));
    let cluster = testing::cluster("echo", &[echo_server().await]);
    let terminal = Terminal::Tcp(Arc::new(proxy_config));
    let chain = testing::chain("c", terminal);
    let listener = Arc::new(testing::listener("l", testing::ANY, chain));
    let proxy = Proxy::start(1, snapshot(vec![listener], vec![cluster])).await;
    let mut stream = TcpStream::connect(proxy.address("l")).await.unwrap();
    let start = Instant::now();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        echo(&mut stream, b"not idle").await.unwrap();
    }
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    assert!(start.elapsed() >= Duration::from_millis(1300));
}

#[tokio::test]
async fn connect_attempts_go_on_to_the_next_endpoint() {
    // Two endpoints refuse.
    let closed = || {
        std::net::TcpListener::bind(testing::ANY)
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let addresses = [closed(), closed(), echo_server().await];
    for (attempts, served) in [(3, true), (1, false)] {
        let cluster = testing::cluster("echo", &addresses);
        let stats = Arc::clone(&cluster.stats);
        let mut config = testing::tcp_proxy("echo");
        config.max_connect_attempts = attempts;
        let chain = testing::chain("c", Terminal::Tcp(Arc::new(config)));
        let listener = Arc::new(testing::listener("l", testing::ANY, chain));
        let proxy = Proxy::start(1, snapshot(vec![listener], vec![cluster])).await;
        let mut results = Vec::new();
        for _ in 0..3 {
            results.push(connect_and_echo(proxy.address("l")).await.is_ok());
        }
        let exceeded = stats.worker(0).upstream_cx_connect_attempts_exceeded.get();
        match served {
            true => assert_eq!((results, exceeded), (vec![true; 3], 0)),
            // Round robin: one of three gets the good one.
            false => assert_eq!((results.iter().filter(|ok| **ok).count(), exceeded), (1, 2)),
        }
    }
}

#[tokio::test]
async fn resets_leave_nothing_behind() {
    let cluster = testing::cluster("echo", &[echo_server().await]);
    let stats = Arc::clone(&cluster.stats);
    let listener = Arc::new(tcp_listener("l", "echo"));
    let proxy = Proxy::start(2, snapshot(vec![Arc::clone(&listener)], vec![cluster])).await;
    let address = proxy.address("l");
    for round in 0..300 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if round % 2 == 0 {
            echo(&mut stream, b"x").await.unwrap();
        }
        socket2::SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
    eventually("all connections are gone", || {
        let upstream = stats.workers().gauge(|it| it.upstream_cx_active.get());
        let total: u64 = (0..2).map(|worker| accepted_by(&listener, worker)).sum();
        total == 300 && proxy.runtime.active_connections() == 0 && upstream == 0
    })
    .await;
    connect_and_echo(address).await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_holds_its_sender_back_and_no_other() {
    let cluster = testing::cluster("echo", &[echo_server().await]);
    let listener = Arc::new(tcp_listener("l", "echo"));
    let proxy = Proxy::start(1, snapshot(vec![listener], vec![cluster])).await;
    let address = proxy.address("l");
    let mut slow = TcpStream::connect(address).await.unwrap();
    // Writes until nothing goes any more: all buffers on the way are bounded.
    let block = vec![7; 1 << 20];
    let mut sent = 0u64;
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(500), slow.write(&block)).await
    {
        sent += written.unwrap() as u64;
        assert!(sent < 1 << 30, "backpressure");
    }
    connect_and_echo(address).await.unwrap();
    let mut received = 0u64;
    let mut buffer = vec![0; 1 << 20];
    while received < sent {
        received += slow.read(&mut buffer).await.unwrap() as u64;
    }
    assert_eq!(received, sent);
}

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
    let script = r#"ulimit -n 60; exec "$0" --exact runtime::tests::exhausted_child --ignored"#;
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
