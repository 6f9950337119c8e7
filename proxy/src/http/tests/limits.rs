//! Time, size and number: what a client may ask for, and for how long.

use std::time::{Duration, Instant};

use super::support::{Act, Origin, Site, manager, ok, route, table, to};
use crate::testing::{self, eventually};

const SHORT: Option<Duration> = Some(Duration::from_millis(300));
/// Within it a request is answered, on a busy machine, too.
const ENOUGH: Option<Duration> = Some(Duration::from_secs(3));

async fn site(origin: &Origin, change: impl FnOnce(&mut crate::config::HttpManager)) -> Site {
    let mut manager = manager(table(vec![route("/", to("origin"))]));
    change(&mut manager);
    Site::start(manager, vec![testing::cluster("origin", &[origin.address])]).await
}

#[tokio::test]
async fn a_head_that_does_not_end_is_cut_off() {
    let origin = Origin::echo().await;
    let site = site(&origin, |m| m.timeouts.request_headers = SHORT).await;
    let mut client = site.client().await;
    let started = Instant::now();
    // A byte now and then does not help.
    let drip = async {
        for byte in "GET / HTTP/1.1\r\nHost: a\r\nX: "
            .bytes()
            .chain(std::iter::repeat(b'a'))
        {
            client.send([byte]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            if site.stats().downstream_rq_header_timeout.get() > 0 {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), drip)
        .await
        .unwrap();
    assert!(started.elapsed() >= Duration::from_millis(290));
    assert_eq!(client.answer().await.status, 408);
    assert!(client.is_closed().await);
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let origin = Origin::echo().await;
    let site = site(&origin, |m| m.timeouts.idle = ENOUGH).await;
    let mut client = site.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    assert!(client.is_closed().await);
    assert_eq!(site.stats().downstream_cx_idle_timeout.get(), 1);
}

#[tokio::test]
async fn a_stream_without_progress_times_out() {
    let origin = Origin::start(|_| Act::Hang).await;
    let site = site(&origin, |m| m.timeouts.stream_idle = SHORT).await;
    let mut client = site.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (504, "stream timeout"));
    eventually("counted", || {
        site.stats().downstream_rq_idle_timeout.get() == 1
    })
    .await;
}

#[tokio::test]
async fn a_request_must_arrive_in_time() {
    let origin = Origin::echo().await;
    let site = site(&origin, |m| m.timeouts.request = SHORT).await;
    let mut client = site.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (408, "request timeout"));
    assert_eq!(site.stats().downstream_rq_timeout.get(), 1);
}

#[tokio::test]
async fn heads_are_bounded_in_size_and_number() {
    let origin = Origin::echo().await;
    let site = site(&origin, |_| ()).await;
    let large = "a".repeat(59 * 1024);
    let answer = site
        .ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {large}\r\n\r\n"))
        .await;
    assert_eq!(answer.status, 200);
    let large = "a".repeat(61 * 1024);
    for text in [
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {large}\r\n\r\n"),
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "a: b\r\n".repeat(100)
        ),
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "a: b\r\n".repeat(1000)
        ),
        format!("GET /{large} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        let mut client = site.client().await;
        client.send(&text).await;
        assert_eq!(client.answer().await.status, 431);
        assert!(client.is_closed().await);
    }
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn a_slow_reader_slows_the_origin_down() {
    const BODY: usize = 64 << 20;
    let listener = tokio::net::TcpListener::bind(testing::ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&written);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut peer = super::support::Peer::new(stream);
        peer.head().await.unwrap();
        peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n"))
            .await;
        let piece = vec![b'x'; 1 << 16];
        for _ in 0..BODY >> 16 {
            peer.send(&piece).await;
            count.fetch_add(piece.len(), std::sync::atomic::Ordering::SeqCst);
        }
    });
    let site = Site::before(address).await;
    let mut client = site.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await.unwrap();
    let sent = || written.load(std::sync::atomic::Ordering::SeqCst);
    let mut before = usize::MAX;
    // Until nothing moves any more.
    while before != sent() {
        before = sent();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(before < BODY / 2, "{before} bytes are buffered somewhere");
    let mut left = BODY;
    while left > 0 {
        let piece = left.min(1 << 20);
        client.take(piece).await.unwrap();
        left -= piece;
    }
}

#[tokio::test]
async fn draining_says_close_and_lets_requests_finish() {
    let (go, _) = tokio::sync::broadcast::channel::<()>(1);
    let gate = go.clone();
    let listener = tokio::net::TcpListener::bind(testing::ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let origin = Origin::start(|_| ok("fast")).await;
    let (asked, was_asked) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut peer = super::support::Peer::new(stream);
        let mut gate = gate.subscribe();
        peer.head().await.unwrap();
        asked.send(()).unwrap();
        gate.recv().await.unwrap();
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow")
            .await;
    });
    let table = table(vec![route("/slow", to("slow")), route("/", to("fast"))]);
    let clusters = vec![
        testing::cluster("slow", &[address]),
        testing::cluster("fast", &[origin.address]),
    ];
    let site = Site::start(manager(table), clusters).await;
    let mut idle = site.client().await;
    idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(idle.answer().await.body, "fast");
    let mut busy = site.client().await;
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    was_asked.await.unwrap();
    site.runtime.drain();
    assert!(idle.is_closed().await);
    go.send(()).unwrap();
    let answer = busy.answer().await;
    assert_eq!(
        (&*answer.body, answer.header("connection")),
        ("slow", Some("close"))
    );
    assert!(busy.is_closed().await);
}

#[tokio::test]
async fn a_connection_has_its_time() {
    let origin = Origin::start(|_| ok("")).await;
    let site = site(&origin, |m| m.timeouts.max_connection_duration = ENOUGH).await;
    let mut idle = site.client().await;
    idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(idle.answer().await.header("connection"), None);
    assert!(idle.is_closed().await);
    assert_eq!(site.stats().downstream_cx_idle_timeout.get(), 0);

    let stream = tokio::net::TcpStream::connect(site.address).await.unwrap();
    let (_send, connection) = h2::client::handshake(stream).await.unwrap();
    let ended = tokio::time::timeout(super::support::SOON, connection).await;
    ended.unwrap().unwrap();
}
