//! What passes through one connection.

use super::*;

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
    proxy_config.idle_timeout = Some(Duration::from_secs(2));
    let cluster = testing::cluster("echo", &[echo_server().await]);
    let terminal = Terminal::Tcp(Arc::new(proxy_config));
    let chain = testing::chain("c", terminal);
    let listener = Arc::new(testing::listener("l", testing::ANY, chain));
    let proxy = Proxy::start(1, snapshot(vec![listener], vec![cluster])).await;
    let mut stream = TcpStream::connect(proxy.address("l")).await.unwrap();
    let start = Instant::now();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        echo(&mut stream, b"not idle").await.unwrap();
    }
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    assert!(start.elapsed() >= Duration::from_millis(4500));
}

#[tokio::test]
async fn connect_attempts_go_on_to_the_next_endpoint() {
    // Two endpoints refuse.
    let refusing = || ithildin_sys::port::refusing().unwrap();
    let addresses = [refusing(), refusing(), echo_server().await];
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
