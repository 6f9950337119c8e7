//! Pools against real sockets on loopback.

#[path = "tls_tests.rs"]
mod tls;

use std::{cell::Cell, future::poll_fn, net::IpAddr, time::Instant};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use http::{Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

use super::*;
use crate::{
    access_log::ResponseFlags,
    config::{
        cluster::{ClusterKind, EndpointAddress, RetryBudget, UpstreamProtocol},
        forward::{Forward, Question, Resolution},
        http::Http2Keepalive,
    },
    testing::{self, eventually},
};

/// The upstreams of one worker, with its timers running.
fn upstreams() -> Upstreams {
    let timers = Timers::new();
    let sweep = Rc::clone(&timers);
    tokio::task::spawn_local(async move { sweep.sweep().await });
    Upstreams::new(0, timers, Registry::new(0, Arc::default()))
}

/// Accepts, and keeps what it accepted.
struct Server {
    address: SocketAddr,
    accepted: Rc<RefCell<Vec<TcpStream>>>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind(testing::ANY).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted: Rc<RefCell<Vec<TcpStream>>> = Rc::default();
        let list = Rc::clone(&accepted);
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                list.borrow_mut().push(stream);
            }
        });
        Self { address, accepted }
    }

    async fn accepted(&self, count: usize) {
        eventually("accepted", || self.accepted.borrow().len() >= count).await;
    }
}

fn refusing() -> SocketAddr {
    ithildin_sys::port::refusing().unwrap()
}

async fn http1(
    upstreams: &Upstreams,
    cluster: &Arc<Cluster>,
) -> Result<Http1Lease, UpstreamFailure> {
    match upstreams.http(cluster, &LbRequest::default()).await? {
        HttpLease::Http1(lease) => Ok(lease),
        HttpLease::Http2(_) => panic!("wanted http/1"),
    }
}

async fn http2(
    upstreams: &Upstreams,
    cluster: &Arc<Cluster>,
) -> Result<Http2Lease, UpstreamFailure> {
    match upstreams.http(cluster, &LbRequest::default()).await? {
        HttpLease::Http2(lease) => Ok(lease),
        HttpLease::Http1(_) => panic!("wanted http/2"),
    }
}

#[tokio::test(flavor = "local")]
async fn an_http1_connection_is_used_again_last_in_first_out() {
    let server = Server::start().await;
    let cluster = Arc::new(testing::cluster("c", &[server.address]));
    let upstreams = upstreams();
    let first = http1(&upstreams, &cluster).await.unwrap();
    let second = http1(&upstreams, &cluster).await.unwrap();
    assert!(!first.reused && !second.reused);
    let stats = cluster.stats.worker(0);
    assert_eq!(stats.upstream_rq_active.get(), 2);
    let last = second.local();
    first.give_back();
    second.give_back();
    assert_eq!(stats.upstream_rq_active.get(), 0);
    let again = http1(&upstreams, &cluster).await.unwrap();
    assert!(again.reused);
    assert_eq!(again.local(), last);
    assert_eq!(stats.upstream_cx_total.get(), 2);
    assert_eq!(stats.upstream_cx_active.get(), 2);
    assert_eq!(stats.upstream_rq_total.get(), 3);
    drop(again);
    assert_eq!(stats.upstream_cx_active.get(), 1, "dropping a lease closes");
}

#[tokio::test(flavor = "local")]
async fn stale_connections_are_not_lent() {
    let server = Server::start().await;
    let cluster = Arc::new(testing::cluster("c", &[server.address]));
    let upstreams = upstreams();
    // The peer closes, or speaks out of turn.
    for disturb in [true, false] {
        let lease = http1(&upstreams, &cluster).await.unwrap();
        let local = lease.local();
        lease.give_back();
        server.accepted(1).await;
        let mut peer = server.accepted.borrow_mut().pop().unwrap();
        if disturb {
            peer.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
                .await
                .unwrap();
        } else {
            drop(peer);
        }
        // The reactor must have seen it; then checkout does.
        let start = Instant::now();
        loop {
            let lease = http1(&upstreams, &cluster).await.unwrap();
            let fresh = lease.local() != local;
            if fresh {
                assert!(!lease.reused);
                break;
            }
            lease.give_back();
            assert!(start.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.accepted.borrow_mut().clear();
    }
}

#[tokio::test(flavor = "local")]
async fn reaping_closes_idle_superseded_and_removed() {
    let server = Server::start().await;
    let mut config = testing::cluster("c", &[server.address]);
    config.http.idle_timeout = Some(Duration::from_secs(2));
    let snapshot = testing::snapshot(Vec::new(), vec![config]);
    let cluster = Arc::clone(&snapshot.clusters["c"]);
    let stats = cluster.stats.worker(0);
    let upstreams = upstreams();
    http1(&upstreams, &cluster).await.unwrap().give_back();
    for _ in 0..2 {
        upstreams.reap(&snapshot);
        assert_eq!(stats.upstream_cx_active.get(), 1);
    }
    upstreams.reap(&snapshot);
    assert_eq!(stats.upstream_cx_active.get(), 0);
    assert_eq!(stats.upstream_cx_idle_timeout.get(), 1);

    // The endpoint leaves the set: what is idle closes, what is in use goes on and is not kept.
    http1(&upstreams, &cluster).await.unwrap().give_back();
    let used = http1(&upstreams, &cluster).await.unwrap();
    cluster.endpoints.store(Arc::new(testing::endpoints(&[])));
    upstreams.reap(&snapshot);
    assert_eq!(stats.upstream_cx_active.get(), 1);
    used.give_back();
    assert_eq!(stats.upstream_cx_active.get(), 0);
    let failure = http1(&upstreams, &cluster).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NoHealthyUpstream);

    // The cluster is gone.
    cluster
        .endpoints
        .store(Arc::new(testing::endpoints(&[server.address])));
    http1(&upstreams, &cluster).await.unwrap().give_back();
    upstreams.reap(&Snapshot::default());
    assert_eq!(stats.upstream_cx_active.get(), 0);
}

#[tokio::test(flavor = "local")]
async fn pools_survive_a_new_endpoint_set() {
    let server = Server::start().await;
    let cluster = Arc::new(testing::cluster("c", &[server.address]));
    let upstreams = upstreams();
    http1(&upstreams, &cluster).await.unwrap().give_back();
    cluster
        .endpoints
        .store(Arc::new(testing::endpoints(&[server.address])));
    assert!(http1(&upstreams, &cluster).await.unwrap().reused);
}

#[tokio::test(flavor = "local")]
async fn another_generation_has_its_own_connections() {
    let server = Server::start().await;
    let upstreams = upstreams();
    for _ in 0..2 {
        let cluster = Arc::new(testing::cluster("c", &[server.address]));
        let lease = http1(&upstreams, &cluster).await.unwrap();
        assert!(!lease.reused);
        lease.give_back();
    }
}

#[tokio::test(flavor = "local")]
async fn a_connection_carries_no_more_requests_than_configured() {
    let server = Server::start().await;
    let mut cluster = testing::cluster("c", &[server.address]);
    cluster.http.max_requests_per_connection = 2;
    let cluster = Arc::new(cluster);
    let upstreams = upstreams();
    let mut reused = Vec::new();
    for _ in 0..4 {
        let lease = http1(&upstreams, &cluster).await.unwrap();
        reused.push(lease.reused);
        lease.give_back();
    }
    assert_eq!(reused, [false, true, false, true]);
    assert_eq!(cluster.stats.worker(0).upstream_cx_max_requests.get(), 2);
}

#[tokio::test(flavor = "local")]
async fn bytes_left_over_close_the_connection() {
    let server = Server::start().await;
    let cluster = Arc::new(testing::cluster("c", &[server.address]));
    let upstreams = upstreams();
    let mut lease = http1(&upstreams, &cluster).await.unwrap();
    lease.leftover = BytesMut::from(&b"HTTP/1.1 200 smuggled"[..]);
    lease.give_back();
    assert!(!http1(&upstreams, &cluster).await.unwrap().reused);
}

#[tokio::test(flavor = "local")]
async fn failures_are_told_in_envoys_words() {
    let upstreams = upstreams();
    let refused = Arc::new(testing::cluster("c", &[refusing()]));
    let failure = http1(&upstreams, &refused).await.unwrap_err();
    assert_eq!(
        failure.kind.flags(),
        ResponseFlags::UPSTREAM_CONNECTION_FAILURE
    );
    assert_eq!(
        failure.to_string(),
        "remote connection failure, transport failure reason: delayed connect error: Connection refused"
    );
    assert_eq!(refused.stats.worker(0).upstream_cx_connect_fail.get(), 1);

    let empty = Arc::new(testing::cluster("c", &[]));
    let failure = http1(&upstreams, &empty).await.unwrap_err();
    assert_eq!(
        (failure.kind.flags(), failure.to_string()),
        (
            ResponseFlags::NO_HEALTHY_UPSTREAM,
            "no healthy upstream".into()
        )
    );

    let mut pipe = testing::cluster("c", &[]);
    let path = std::path::PathBuf::from("/nonexistent/socket");
    pipe.kind = ClusterKind::Static;
    let endpoint = Arc::new(testing::endpoint(EndpointAddress::Pipe(path)));
    let mut set = testing::endpoints(&[]);
    set.priorities[0].push(endpoint);
    pipe.endpoints.store(Arc::new(set));
    let failure = http1(&upstreams, &Arc::new(pipe)).await.unwrap_err();
    assert_eq!(
        failure.to_string(),
        "remote connection failure, transport failure reason: \
         immediate connect error: No such file or directory"
    );
}

#[tokio::test(flavor = "local")]
async fn a_connect_that_takes_too_long_times_out() {
    let upstreams = upstreams();
    // A listener whose queue is full answers no SYN.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&testing::ANY.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut fill = Vec::new();
    for _ in 0..4 {
        let connect = TcpStream::connect(address);
        fill.push(tokio::time::timeout(Duration::from_millis(200), connect).await);
    }
    let mut cluster = testing::cluster("c", &[address]);
    cluster.connect_timeout = Duration::from_millis(300);
    let failure = http1(&upstreams, &Arc::new(cluster)).await.unwrap_err();
    assert_eq!(failure.to_string(), "connection timeout");
    assert_eq!(
        failure.kind.flags(),
        ResponseFlags::UPSTREAM_CONNECTION_FAILURE
    );
}

#[tokio::test(flavor = "local")]
async fn circuit_breakers_open_and_close() {
    let server = Server::start().await;
    let mut config = testing::cluster("c", &[server.address]);
    config.limits.max_requests = 1;
    config.limits.max_retries = 1;
    let cluster = Arc::new(config);
    let stats = cluster.stats.worker(0);
    let upstreams = upstreams();
    let lease = http1(&upstreams, &cluster).await.unwrap();
    let failure = http1(&upstreams, &cluster).await.unwrap_err();
    assert_eq!(
        (failure.kind.flags(), failure.to_string()),
        (ResponseFlags::UPSTREAM_OVERFLOW, "overflow".into())
    );
    assert_eq!(stats.upstream_rq_active_overflow.get(), 1);
    lease.give_back();
    http1(&upstreams, &cluster).await.unwrap().give_back();

    let retry = upstreams.retry(&cluster).unwrap();
    assert!(upstreams.retry(&cluster).is_none());
    assert_eq!(stats.upstream_rq_retry_overflow.get(), 1);
    drop(retry);
    assert!(upstreams.retry(&cluster).is_some());
}

#[tokio::test(flavor = "local")]
async fn a_retry_budget_grows_with_the_requests() {
    let server = Server::start().await;
    let mut config = testing::cluster("c", &[server.address]);
    config.limits.max_retries = 0;
    config.limits.retry_budget = Some(RetryBudget {
        percent: 50.0,
        min_retry_concurrency: 1,
    });
    let cluster = Arc::new(config);
    let upstreams = upstreams();
    let first = upstreams.retry(&cluster).unwrap();
    assert!(upstreams.retry(&cluster).is_none(), "the least there is");
    let mut leases = Vec::new();
    for _ in 0..4 {
        leases.push(http1(&upstreams, &cluster).await.unwrap());
    }
    let second = upstreams.retry(&cluster).unwrap();
    assert!(upstreams.retry(&cluster).is_none(), "half of four");
    drop((first, second, leases));
    assert!(upstreams.retry(&cluster).is_some());
}

#[tokio::test(flavor = "local")]
async fn requests_beyond_the_connections_wait_for_one() {
    let server = Server::start().await;
    let mut config = testing::cluster("c", &[server.address]);
    config.limits.max_connections = 1;
    config.limits.max_pending_requests = 1;
    let cluster = Arc::new(config);
    let stats = cluster.stats.worker(0);
    let upstreams = upstreams();
    let lease = http1(&upstreams, &cluster).await.unwrap();
    let waiting = http1(&upstreams, &cluster);
    let overflow = async {
        eventually("pending", || stats.upstream_rq_pending_active.get() == 1).await;
        let failure = http1(&upstreams, &cluster).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Overflow);
        lease.give_back();
    };
    let (waited, ()) = tokio::join!(waiting, overflow);
    let waited = waited.unwrap();
    assert!(waited.reused);
    assert_eq!(stats.upstream_rq_pending_active.get(), 0);
    assert_eq!(stats.upstream_cx_total.get(), 1);
    assert_eq!(stats.upstream_cx_overflow.get(), 1);
    // One that closes lets the next one open.
    let waiting = http1(&upstreams, &cluster);
    let close = async {
        eventually("pending", || stats.upstream_rq_pending_active.get() == 1).await;
        drop(waited);
    };
    let (fresh, ()) = tokio::join!(waiting, close);
    assert!(!fresh.unwrap().reused);
}

#[tokio::test(flavor = "local")]
async fn original_destination_clusters_go_where_the_client_went() {
    let server = Server::start().await;
    let mut config = testing::cluster("c", &[]);
    config.kind = ClusterKind::OriginalDst;
    let cluster = Arc::new(config);
    let upstreams = upstreams();
    let request = LbRequest {
        original_destination: Some(server.address),
        ..LbRequest::default()
    };
    for reused in [false, true] {
        let Ok(HttpLease::Http1(lease)) = upstreams.http(&cluster, &request).await else {
            panic!("no lease");
        };
        assert_eq!(lease.reused, reused);
        assert_eq!(
            lease.endpoint().address,
            EndpointAddress::Socket(server.address)
        );
        lease.give_back();
    }
    let failure = http1(&upstreams, &cluster).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NoHealthyUpstream);
}

/// Who resolves the names of a cluster's requests, and a cluster that asks.
fn forward(mut config: Cluster) -> (Arc<Cluster>, mpsc::Receiver<Question>) {
    let (questions, asked) = mpsc::channel(8);
    config.kind = ClusterKind::Forward;
    config.forward = Some(Forward {
        questions,
        host_ttl: Duration::ZERO,
        query_timeout: Duration::from_millis(200),
        max_pending: 1,
    });
    (Arc::new(config), asked)
}

async fn http1_named(
    upstreams: &Upstreams,
    cluster: &Arc<Cluster>,
    name: &str,
    port: u16,
) -> Result<Http1Lease, UpstreamFailure> {
    let request = LbRequest {
        named: Some(NamedHost { name, port }),
        ..LbRequest::default()
    };
    match upstreams.http(cluster, &request).await? {
        HttpLease::Http1(lease) => Ok(lease),
        HttpLease::Http2(_) => panic!("wanted http/1"),
    }
}

#[tokio::test(flavor = "local")]
async fn requests_lead_where_the_name_of_their_host_leads_now() {
    let server = Server::start().await;
    let port = server.address.port();
    let other = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let (cluster, mut asked) = forward(testing::cluster("c", &[]));
    let upstreams = upstreams();
    let first: Arc<[IpAddr]> = [[127, 0, 0, 1].into()].into();
    let (resolve, known) = watch::channel(Resolution::Pending);
    let answer = async {
        let question = asked.recv().await.unwrap();
        assert_eq!(&*question.name, "a.test");
        question.answer.send(Some(known)).unwrap();
        resolve.send_replace(Resolution::Addresses(first));
    };
    let (lease, ()) = tokio::join!(http1_named(&upstreams, &cluster, "a.test", port), answer);
    lease.unwrap().give_back();
    let lease = http1_named(&upstreams, &cluster, "a.test", port)
        .await
        .unwrap();
    assert!(lease.reused);
    assert_eq!(&*lease.endpoint().hostname, "a.test");
    lease.give_back();
    // Other addresses: another connection.
    let second: Arc<[IpAddr]> = [[127, 0, 0, 2].into()].into();
    resolve.send_replace(Resolution::Addresses(second));
    let (lease, accepted) = tokio::join!(
        http1_named(&upstreams, &cluster, "a.test", port),
        other.accept()
    );
    let lease = lease.unwrap();
    assert!(!lease.reused && accepted.is_ok());
    resolve.send_replace(Resolution::Failed("gone".into()));
    let failure = http1_named(&upstreams, &cluster, "a.test", port)
        .await
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotResolved);
    // Nobody asks any more, and nothing is open.
    drop(lease);
    upstreams.pools(&cluster).reap();
    assert_eq!(resolve.receiver_count(), 0);
}

#[tokio::test(flavor = "local")]
async fn names_without_an_answer_and_too_many_are_refused() {
    let (cluster, mut asked) = forward(testing::cluster("c", &[]));
    let upstreams = upstreams();
    let ask = |name: &'static str| http1_named(&upstreams, &cluster, name, 80);
    let kind = |failure: Result<Http1Lease, UpstreamFailure>| failure.unwrap_err().kind;
    let full = async { asked.recv().await.unwrap().answer.send(None).unwrap() };
    let (refused, ()) = tokio::join!(ask("a.test"), full);
    assert_eq!(kind(refused), FailureKind::TooManyNames);
    let (resolve, known) = watch::channel(Resolution::Pending);
    let silent = async {
        asked
            .recv()
            .await
            .unwrap()
            .answer
            .send(Some(known))
            .unwrap()
    };
    let (late, beside, ()) = tokio::join!(ask("b.test"), ask("c.test"), silent);
    assert_eq!(kind(late), FailureKind::NotResolved);
    assert_eq!(kind(beside), FailureKind::TooManyNames, "one may wait");
    resolve.send_replace(Resolution::Failed("no".into()));
    assert_eq!(kind(ask("b.test").await), FailureKind::NotResolved);
    let long: &'static str = String::leak("a".repeat(254));
    assert_eq!(kind(ask(long).await), FailureKind::NotResolved);
}

/// An HTTP/2 server that answers each request with 200 when told, and counts its connections.
struct Http2Server {
    address: SocketAddr,
    connections: Rc<Cell<usize>>,
    requests: Rc<RefCell<Vec<SendResponse<Bytes>>>>,
    goaway: Rc<tokio::sync::Notify>,
}

impl Http2Server {
    async fn start(max_streams: u32) -> Self {
        let listener = TcpListener::bind(testing::ANY).await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            connections: Rc::default(),
            requests: Rc::default(),
            goaway: Rc::default(),
        };
        let connections = Rc::clone(&server.connections);
        let requests = Rc::clone(&server.requests);
        let goaway = Rc::clone(&server.goaway);
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.set(connections.get() + 1);
                let (requests, goaway) = (Rc::clone(&requests), Rc::clone(&goaway));
                tokio::task::spawn_local(async move {
                    let mut builder = h2::server::Builder::new();
                    builder.max_concurrent_streams(max_streams);
                    let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
                    loop {
                        tokio::select! {
                            request = connection.accept() => match request {
                                Some(Ok((_, respond))) => requests.borrow_mut().push(respond),
                                _ => return,
                            },
                            () = goaway.notified() => connection.graceful_shutdown(),
                        }
                    }
                });
            }
        });
        server
    }

    fn cluster(&self, streams: u32) -> Cluster {
        let mut cluster = testing::cluster("c", &[self.address]);
        cluster.protocol = UpstreamProtocol::Http2;
        cluster.http.max_concurrent_streams = streams;
        cluster
    }

    fn answer_all(&self) {
        for mut respond in self.requests.borrow_mut().drain(..) {
            respond.send_response(Response::new(()), true).unwrap();
        }
    }
}

async fn exchange(lease: Http2Lease) -> Result<(), h2::Error> {
    let Http2Lease { mut send, permit } = lease;
    let (response, _) = send.send_request(Request::new(()), true)?;
    response.await?;
    drop(permit);
    Ok(())
}

#[tokio::test(flavor = "local")]
async fn http2_streams_share_connections_and_more_open_when_they_are_full() {
    let server = Http2Server::start(100).await;
    let cluster = Arc::new(server.cluster(2));
    let stats = cluster.stats.worker(0);
    let upstreams = upstreams();
    let leases = futures_util::future::join_all((0..5).map(|_| http2(&upstreams, &cluster))).await;
    let leases: Vec<_> = leases.into_iter().map(Result::unwrap).collect();
    assert_eq!(stats.upstream_cx_total.get(), 3);
    assert_eq!(stats.upstream_rq_active.get(), 5);
    assert_eq!(stats.upstream_rq_pending_active.get(), 0);
    let exchanges = futures_util::future::join_all(leases.into_iter().map(exchange));
    let answer = async {
        eventually("requests", || server.requests.borrow().len() == 5).await;
        server.answer_all();
    };
    let (results, ()) = tokio::join!(exchanges, answer);
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(server.connections.get(), 3);
    assert_eq!(stats.upstream_rq_active.get(), 0);
    http2(&upstreams, &cluster).await.unwrap();
    assert_eq!(
        stats.upstream_cx_total.get(),
        3,
        "a connection with room is used"
    );
}

#[tokio::test(flavor = "local")]
async fn http2_keeps_to_the_peers_limit_of_streams() {
    let server = Http2Server::start(1).await;
    let mut config = server.cluster(100);
    config.limits.max_connections = 1;
    let cluster = Arc::new(config);
    let stats = cluster.stats.worker(0);
    let upstreams = upstreams();
    let first = http2(&upstreams, &cluster).await.unwrap();
    // SETTINGS come with the first answer at the latest.
    let answer = async {
        eventually("request", || server.requests.borrow().len() == 1).await;
        server.answer_all();
    };
    tokio::join!(async { exchange(first).await.unwrap() }, answer);
    let first = http2(&upstreams, &cluster).await.unwrap();
    let second = http2(&upstreams, &cluster);
    let release = async {
        eventually("pending", || stats.upstream_rq_pending_active.get() == 1).await;
        drop(first);
    };
    let (second, ()) = tokio::join!(second, release);
    second.unwrap();
    assert_eq!(stats.upstream_cx_total.get(), 1);
}

#[tokio::test(flavor = "local")]
async fn after_goaway_streams_finish_and_new_ones_go_elsewhere() {
    let server = Http2Server::start(100).await;
    let cluster = Arc::new(server.cluster(100));
    let upstreams = upstreams();
    let lease = http2(&upstreams, &cluster).await.unwrap();
    let old = exchange(lease);
    let meanwhile = async {
        eventually("request", || server.requests.borrow().len() == 1).await;
        server.goaway.notify_one();
        let start = Instant::now();
        while server.connections.get() < 2 {
            drop(http2(&upstreams, &cluster).await.unwrap());
            assert!(start.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.answer_all();
    };
    let (old, ()) = tokio::join!(old, meanwhile);
    old.expect("the stream that was there finishes");
}

#[tokio::test(flavor = "local")]
async fn a_failed_http2_connect_fails_all_that_wait() {
    let mut config = testing::cluster("c", &[refusing()]);
    config.protocol = UpstreamProtocol::Http2;
    let cluster = Arc::new(config);
    let upstreams = upstreams();
    let waiting = (0..4).map(|_| http2(&upstreams, &cluster));
    let results = futures_util::future::join_all(waiting).await;
    for result in results {
        assert_eq!(
            result.unwrap_err().kind,
            FailureKind::RemoteConnectionFailure
        );
    }
    let stats = cluster.stats.worker(0);
    assert_eq!(stats.upstream_cx_total.get(), 1);
    assert_eq!(stats.upstream_rq_pending_failure_eject.get(), 4);
    assert_eq!(stats.upstream_rq_pending_active.get(), 0);
}

#[tokio::test(flavor = "local")]
async fn a_request_that_gives_up_does_not_stop_the_connect_of_the_others() {
    let server = Http2Server::start(100).await;
    let cluster = Arc::new(server.cluster(100));
    let upstreams = upstreams();
    {
        let mut first = std::pin::pin!(http2(&upstreams, &cluster));
        assert!(futures_util::poll!(first.as_mut()).is_pending());
    }
    http2(&upstreams, &cluster).await.unwrap();
    assert_eq!(cluster.stats.worker(0).upstream_cx_total.get(), 1);
    assert_eq!(cluster.stats.worker(0).upstream_rq_pending_active.get(), 0);
}

#[tokio::test(flavor = "local")]
async fn use_downstream_protocol_follows_the_client() {
    let server = Http2Server::start(100).await;
    let mut config = server.cluster(100);
    config.protocol = UpstreamProtocol::Downstream;
    let cluster = Arc::new(config);
    let upstreams = upstreams();
    for (downstream, http2) in [
        (DownstreamProtocol::Http1, false),
        (DownstreamProtocol::Http2, true),
    ] {
        let request = LbRequest {
            downstream,
            ..LbRequest::default()
        };
        let lease = upstreams.http(&cluster, &request).await.unwrap();
        assert_eq!(matches!(lease, HttpLease::Http2(_)), http2);
    }
}

#[tokio::test(flavor = "local")]
async fn a_tcp_lease_carries_bytes_and_counts() {
    let server = Server::start().await;
    let cluster = Arc::new(testing::cluster("c", &[server.address]));
    let upstreams = upstreams();
    let mut lease = upstreams
        .tcp(&cluster, &LbRequest::default())
        .await
        .unwrap();
    lease.stream.write_all(b"x").await.unwrap();
    server.accepted(1).await;
    let mut peer = server.accepted.borrow_mut().pop().unwrap();
    assert_eq!(peer.read_u8().await.unwrap(), b'x');
    let stats = cluster.stats.worker(0);
    assert_eq!(stats.upstream_cx_active.get(), 1);
    drop(lease);
    assert_eq!(stats.upstream_cx_active.get(), 0);
}

#[tokio::test(flavor = "local")]
async fn a_warm_request_holds_little() {
    let server = Server::start().await;
    let cluster = Arc::new(testing::cluster("c", &[server.address]));
    let upstreams = upstreams();
    let request = LbRequest::default();
    let future = upstreams.http(&cluster, &request);
    let size = size_of_val(&future);
    assert!(size <= 1024, "{size}");
}

/// One connection, to a server that stops to read and write after the greeting, or goes on.
async fn pinged(goes_on: bool, timeout: Duration) -> Result<(), h2::Error> {
    let listener = TcpListener::bind(testing::ANY).await.unwrap();
    let mut cluster = testing::cluster("c", &[listener.local_addr().unwrap()]);
    cluster.protocol = UpstreamProtocol::Http2;
    cluster.http.http2_keepalive = Some(Http2Keepalive {
        interval: Duration::from_millis(20),
        timeout,
        jitter: 0.0,
    });
    let upstreams = upstreams();
    let cluster = Arc::new(cluster);
    let answer = async {
        let lease = http2(&upstreams, &cluster).await.unwrap();
        exchange(lease).await
    };
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        if !goes_on {
            return std::future::pending().await;
        }
        // For several pings, and longer than one may wait for its answer.
        let several = timeout * 3 / 2;
        let _ = tokio::time::timeout(several, poll_fn(|cx| connection.poll_closed(cx))).await;
        respond.send_response(Response::new(()), true).unwrap();
        let _ = poll_fn(|cx| connection.poll_closed(cx)).await;
    };
    tokio::select! {
        answer = answer => answer,
        () = server => panic!("the server ends first"),
    }
}

#[tokio::test(flavor = "local")]
async fn an_http2_connection_ends_when_pings_have_no_answer() {
    pinged(true, Duration::from_secs(2))
        .await
        .expect("a slow answer is an answer");
    let silent = pinged(false, Duration::from_millis(200));
    let ended = tokio::time::timeout(Duration::from_secs(10), silent);
    ended.await.expect("not for ever").expect_err("no answer");
}
