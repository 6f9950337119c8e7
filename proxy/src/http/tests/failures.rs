//! Answers of our own: Envoy's words, and the counters behind them.

use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{Act, Origin, SOON, Site, forward, manager, ok, route, table, to};
use crate::{
    config::{
        cluster::ClusterKind,
        route::{Redirect, RedirectPath, RouteAction},
    },
    testing::{self, eventually},
};

pub(super) fn https_redirect() -> RouteAction {
    RouteAction::Redirect(Box::new(Redirect {
        status: StatusCode::MOVED_PERMANENTLY,
        https: true,
        scheme: None,
        host: None,
        port: None,
        path: RedirectPath::Keep,
        strip_query: false,
    }))
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")
}

pub(super) fn closed_port() -> std::net::SocketAddr {
    ithildin_sys::port::refusing().unwrap()
}

#[tokio::test]
async fn each_failure_has_its_status_and_its_words() {
    let closing = Origin::start(|_| Act::Close).await;
    let hanging = Origin::start(|_| Act::Hang).await;
    let mut slow = forward("hanging");
    slow.timeout = Some(Duration::from_millis(200));
    let mut gone = forward("missing");
    gone.cluster_not_found = StatusCode::INTERNAL_SERVER_ERROR;
    let direct = RouteAction::Direct {
        status: StatusCode::IM_A_TEAPOT,
        body: "hi".into(),
    };
    let table = table(vec![
        route("/closing", to("closing")),
        route("/dead", to("dead")),
        route("/empty", to("empty")),
        route("/missing", to("missing")),
        route("/gone", RouteAction::Forward(Box::new(gone))),
        route("/slow", RouteAction::Forward(Box::new(slow))),
        route("/direct", direct),
        route("/secure", https_redirect()),
    ]);
    let clusters = vec![
        testing::cluster("closing", &[closing.address]),
        testing::cluster("dead", &[closed_port()]),
        testing::cluster("empty", &[]),
        testing::cluster("hanging", &[hanging.address]),
    ];
    let site = Site::start(manager(table), clusters).await;
    let reset = "upstream connect error or disconnect/reset before headers. reset reason: ";
    for (path, status, body) in [
        ("/closing", 503, format!("{reset}connection termination")),
        ("/dead", 503, format!("{reset}remote connection failure")),
        ("/empty", 503, "no healthy upstream".into()),
        ("/missing", 503, String::new()),
        ("/gone", 500, String::new()),
        ("/slow", 504, "upstream request timeout".into()),
        ("/direct", 418, "hi".into()),
        ("/secure", 301, String::new()),
        ("/nothing", 404, String::new()),
    ] {
        // One connection for all: an answer of ours is no reason to close.
        let mut client = site.client().await;
        for _ in 0..2 {
            client.send(get(path)).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, &answer.body), (status, &body), "{path}");
            let length = body.len().to_string();
            assert_eq!(answer.header("content-length"), Some(&*length), "{path}");
            let kind = (!body.is_empty()).then_some("text/plain");
            assert_eq!(answer.header("content-type"), kind, "{path}");
            assert_eq!(answer.header("server"), Some("envoy"), "{path}");
            assert_eq!(answer.header("connection"), None, "{path}");
            let location = (path == "/secure").then_some("https://a.test/secure");
            assert_eq!(answer.header("location"), location, "{path}");
        }
    }
    let stats = site.stats();
    assert_eq!(stats.no_route.get(), 2);
    assert_eq!(stats.no_cluster.get(), 4);
    // Redirects are among them, as in Envoy.
    assert_eq!(stats.rq_direct_response.get(), 4);
    // The last one is counted just after its client has it.
    eventually("all are counted", || {
        stats.downstream_rq_completed.get() == 18
    })
    .await;
    assert_eq!(stats.downstream_rq_5xx.get(), 12);
    assert_eq!(stats.downstream_rq_4xx.get(), 4);
    assert_eq!(stats.downstream_rq_active.get(), 0);
}

#[tokio::test]
async fn a_grpc_client_gets_a_grpc_status() {
    let site = Site::before(closed_port()).await;
    let answer = site
        .ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc+proto\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/grpc"));
    assert_eq!(answer.header("grpc-status"), Some("14"));
    assert_eq!(
        answer.header("grpc-message"),
        Some(
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
        ),
    );
}

#[tokio::test]
async fn head_gets_the_length_of_our_answer_only() {
    let site = Site::before(closed_port()).await;
    let mut client = site.client().await;
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.answer_to_head().await;
        assert_eq!(
            (answer.status, answer.header("content-length")),
            (503, Some("98"))
        );
    }
}

#[tokio::test]
async fn redirects_follow_the_request() {
    let redirect = |change: fn(&mut Redirect)| {
        let RouteAction::Redirect(mut redirect) = https_redirect() else {
            unreachable!("it is one");
        };
        redirect.https = false;
        change(&mut redirect);
        RouteAction::Redirect(redirect)
    };
    let table = table(vec![
        route("/host", redirect(|it| it.host = Some("b.test".into()))),
        route("/port", redirect(|it| it.port = Some(8443))),
        route("/scheme", redirect(|it| it.scheme = Some("https".into()))),
        route(
            "/path",
            redirect(|it| it.path = RedirectPath::Replace("/new".into())),
        ),
        route(
            "/own",
            redirect(|it| it.path = RedirectPath::Replace("/new?own".into())),
        ),
        route(
            "/prefix",
            redirect(|it| it.path = RedirectPath::Prefix("/p".into())),
        ),
        route("/strip", redirect(|it| it.strip_query = true)),
        route("/see", redirect(|it| it.status = StatusCode::SEE_OTHER)),
    ]);
    let site = Site::start(manager(table), Vec::new()).await;
    for (host, path, status, location) in [
        ("a.test", "/host/x?y", 301, "http://b.test/host/x?y"),
        ("a.test:81", "/host", 301, "http://b.test/host"),
        ("a.test:81", "/port", 301, "http://a.test:8443/port"),
        ("a.test:81", "/scheme", 301, "https://a.test:81/scheme"),
        ("a.test:80", "/scheme", 301, "https://a.test/scheme"),
        ("[::1]:80", "/scheme", 301, "https://[::1]/scheme"),
        ("a.test", "/path?q", 301, "http://a.test/new?q"),
        ("a.test", "/own?q", 301, "http://a.test/new?own"),
        ("a.test", "/prefix/x?q", 301, "http://a.test/p/x?q"),
        ("a.test", "/strip?q", 301, "http://a.test/strip"),
        ("a.test:81", "/see?q", 303, "http://a.test:81/see?q"),
    ] {
        let answer = site
            .ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (status, Some(location)),
            "{host} {path}",
        );
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along() {
    let hanging = Origin::start(|request| match request.contains("/hang") {
        true => Act::Hang,
        false => ok(""),
    })
    .await;
    let site = Site::before(hanging.address).await;
    let mut client = site.client().await;
    client.send(get("/hang")).await;
    eventually("the origin has it", || hanging.requests().len() == 1).await;
    drop(client);
    eventually("it is over", || {
        site.stats().downstream_rq_active.get() == 0
    })
    .await;
    assert_eq!(site.stats().downstream_rq_rx_reset.get(), 1);
    // Its connection is not given to somebody else.
    let answer = tokio::time::timeout(SOON, site.ask(&get("/")))
        .await
        .unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(hanging.connections(), 2);
    eventually("one stays pooled", || {
        site.cluster_stats().upstream_cx_active.get() == 1
    })
    .await;
}

/// An origin that begins to answer, then says no more, and tells when its connection ends.
async fn stalling_origin() -> (std::net::SocketAddr, tokio::sync::oneshot::Receiver<()>) {
    let listener = tokio::net::TcpListener::bind(testing::ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ended, end) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 1024];
        assert_ne!(stream.read(&mut buffer).await.unwrap(), 0);
        let start = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n";
        stream.write_all(start).await.unwrap();
        while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        ended.send(()).unwrap();
    });
    (address, end)
}

#[tokio::test]
async fn a_client_that_leaves_a_stalled_response_frees_its_upstream() {
    let (origin, end) = stalling_origin().await;
    let site = Site::before(origin).await;
    let mut client = site.client().await;
    client.send(get("/")).await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200"));
    drop(client);
    tokio::time::timeout(SOON, end).await.unwrap().unwrap();
    eventually("over", || site.stats().downstream_rq_active.get() == 0).await;
}

#[tokio::test]
async fn a_stream_that_is_reset_in_a_stalled_response_frees_its_upstream() {
    let (origin, end) = stalling_origin().await;
    let site = Site::before(origin).await;
    let stream = tokio::net::TcpStream::connect(site.address).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get("http://a.test/").body(()).unwrap();
    let mut send = send.ready().await.unwrap();
    let (response, mut stream) = send.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    stream.send_reset(h2::Reason::CANCEL);
    tokio::time::timeout(SOON, end).await.unwrap().unwrap();
    eventually("over", || site.stats().downstream_rq_active.get() == 0).await;
    connection.abort();
}

#[tokio::test]
async fn a_call_that_is_cancelled_after_its_body_frees_its_upstream() {
    let listener = tokio::net::TcpListener::bind(testing::ANY).await.unwrap();
    let site = Site::before(listener.local_addr().unwrap()).await;
    let stream = tokio::net::TcpStream::connect(site.address).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post("http://a.test/").body(()).unwrap();
    let mut send = send.ready().await.unwrap();
    let (response, mut stream) = send.send_request(request, false).unwrap();
    stream.send_data("whole".into(), true).unwrap();
    let (mut origin, _) = listener.accept().await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"whole\r\n0\r\n\r\n") {
        assert_ne!(origin.read_buf(&mut read).await.unwrap(), 0);
    }
    drop(response);
    stream.send_reset(h2::Reason::CANCEL);
    let end = tokio::time::timeout(SOON, origin.read(&mut [0; 1])).await;
    assert!(matches!(end.unwrap(), Ok(0) | Err(_)));
    eventually("over", || site.stats().downstream_rq_active.get() == 0).await;
    connection.abort();
}

#[tokio::test]
async fn a_local_reply_that_nobody_takes_is_given_up() {
    let routes = table(vec![route(
        "/",
        RouteAction::Direct {
            status: StatusCode::OK,
            body: "nobody reads this".into(),
        },
    )]);
    let mut manager = manager(routes);
    manager.timeouts.stream_idle = Some(Duration::from_millis(300));
    let site = Site::start(manager, Vec::new()).await;
    let stream = tokio::net::TcpStream::connect(site.address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    let (send, connection) = builder.handshake::<_, bytes::Bytes>(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get("http://a.test/").body(()).unwrap();
    let mut send = send.ready().await.unwrap();
    let (response, _) = send.send_request(request, true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let end = tokio::time::timeout(SOON, body.data()).await.unwrap();
    assert!(matches!(end, Some(Err(_))), "{end:?}");
    eventually("over", || site.stats().downstream_rq_active.get() == 0).await;
    connection.abort();
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_twice() {
    let origin = Origin::start(|head| match head.starts_with("GET /first") {
        true => ok("first"),
        false => Act::Close,
    })
    .await;
    let site = Site::before(origin.address).await;
    assert_eq!(site.ask(&get("/first")).await.status, 200);
    let post = "POST /second HTTP/1.1\r\nHost: a.test\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(site.ask(post).await.status, 503);
    let posts = origin.requests();
    let posts = posts.iter().filter(|head| head.starts_with("POST"));
    assert_eq!(posts.count(), 1);
}

#[tokio::test]
async fn without_an_original_destination_there_is_no_upstream() {
    let mut cluster = testing::cluster("origin", &[]);
    cluster.kind = ClusterKind::OriginalDst;
    let routes = table(vec![route("/", to("origin"))]);
    let site = Site::start(manager(routes), vec![cluster]).await;
    let answer = site.ask(&get("/")).await;
    assert_eq!((answer.status, &*answer.body), (503, "no healthy upstream"));
    assert_eq!(site.stats().downstream_rq_total.get(), 1, "not asked by us");
}

#[tokio::test]
async fn trailers_say_nothing_of_where_a_request_came_from() {
    let listener = tokio::net::TcpListener::bind(testing::ANY).await.unwrap();
    let site = Site::before(listener.local_addr().unwrap()).await;
    let stream = tokio::net::TcpStream::connect(site.address).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post("http://a.test/").body(()).unwrap();
    let mut send = send.ready().await.unwrap();
    let (_response, mut stream) = send.send_request(request, false).unwrap();
    let mut trailers = http::HeaderMap::new();
    for name in [
        "x-forwarded-client-cert",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-envoy-internal",
        "x-sum",
    ] {
        trailers.insert(name, http::HeaderValue::from_static("forged"));
    }
    stream.send_data("data".into(), false).unwrap();
    stream.send_trailers(trailers).unwrap();
    let (mut origin, _) = listener.accept().await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"x-sum: forged\r\n\r\n") {
        assert_ne!(origin.read_buf(&mut read).await.unwrap(), 0);
    }
    let read = String::from_utf8(read).unwrap();
    assert_eq!(read.matches("forged").count(), 1, "{read}");
    connection.abort();
}
