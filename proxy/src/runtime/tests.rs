//! Whole workers in process, over loopback.

use std::{
    io::ErrorKind,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

mod limits;
mod mesh;
mod sessions;
mod tls;

use super::*;
use crate::config::listener::TrafficDirection;
use crate::{
    config::{
        FilterChains, Listener, Snapshot,
        listener::{AccessFilter, ListenerFilterKind, ListenerFilters, Terminal},
    },
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
            let (mut stream, _) = listener.accept().await.unwrap();
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
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        echo(&mut stream, b"hello").await?;
        Ok(stream)
    };
    tokio::time::timeout(SOON, exchange).await?
}

/// Waits until nobody accepts there.
async fn refuses(address: SocketAddr) {
    let start = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(start.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
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
    let drain_time = Duration::from_secs(3);
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
    chain.access = vec![AccessFilter::Rbac(Rbac {
        shadow_keys: Default::default(),
        stats: None,
        rules: Some(nobody),
        shadow_rules: None,
    })];
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
    refuses(address).await;
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
    refuses(entry).await;
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
    refuses(address).await;
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

/// An `AUTO_PASSTHROUGH` gateway: a service that is not exported has a cluster, and no name reaches it.
#[tokio::test]
async fn only_the_exported_name_passes_through() {
    let exported = "outbound_.443_._.a.b.svc.cluster.local";
    let hidden = "outbound_.443_._.hidden.b.svc.cluster.local";
    let server = echo_server().await;
    let clusters = [exported, hidden, "xds-grpc", "outbound_.0_._.x"];
    let clusters = clusters.map(|name| testing::cluster(name, &[server]));
    let terminal = Terminal::Tcp(Arc::new(testing::tcp_proxy("BlackHoleCluster")));
    let mut chain = testing::chain("c", terminal);
    chain.sni_cluster = true;
    chain.matches.server_names = vec![exported.into()];
    let mut listener = testing::listener(
        "l",
        testing::ANY,
        testing::chain(
            "c",
            Terminal::Tcp(Arc::new(testing::tcp_proxy("BlackHoleCluster"))),
        ),
    );
    listener.chains = FilterChains::new(vec![Arc::new(chain)], None).unwrap();
    listener.filters = ListenerFilters::only(ListenerFilterKind::TlsInspector);
    let proxy = Proxy::start(1, snapshot(vec![Arc::new(listener)], clusters.into())).await;
    let address = proxy.address("l");

    // Names do not differ by case (RFC 6066), and Envoy's inspector writes them small, too.
    for name in [exported.to_owned(), exported.to_uppercase()] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        echo(&mut stream, &hello_for(&name)).await.unwrap();
    }
    for name in [
        "",
        ".",
        "*",
        "10.0.0.1",
        "::1",
        "xds-grpc",
        "XDS-GRPC",
        "outbound_.0_._.x",
        hidden,
        "*.svc.cluster.local",
        "a.b.svc.cluster.local",
        "outbound|443||a.b.svc.cluster.local",
        &format!("{exported}."),
        &format!(".{exported}"),
        &format!(" {exported}"),
        &format!("{exported}\0"),
        &format!("{exported}\n{hidden}"),
        &format!("{exported}\u{e4}"),
        &exported.replace(".a.", ".\u{430}."),
        &"a".repeat(256),
        &format!("{}.{exported}", "a".repeat(1000)),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // It may be closed before all is written.
        let _ = stream.write_all(&hello_for(name)).await;
        let answer = tokio::time::timeout(SOON, stream.read(&mut [0; 5])).await;
        let length = answer.expect("it is closed").unwrap_or(0);
        assert_eq!(length, 0, "{name:?}");
    }
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
