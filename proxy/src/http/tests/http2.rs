//! HTTP/2 on either side: the same requests, with flow control.

use std::{net::SocketAddr, num::NonZeroU32};

use bytes::Bytes;
use h2::{RecvStream, client::SendRequest};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tokio::net::{TcpListener, TcpStream};

use super::support::{
    Act, Origin, SOON, Site, forward, header_values, manager, ok, retry, route, send, table, to,
};
use crate::{
    config::{
        HttpManager,
        cluster::UpstreamProtocol,
        route::{RetryOn, RouteAction},
    },
    testing::{self, eventually},
};

struct Client {
    send: SendRequest<Bytes>,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self { send }
    }

    async fn begin(
        &self,
        request: Request<()>,
        end: bool,
    ) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let mut send = self.send.clone().ready().await.unwrap();
        send.send_request(request, end).unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, HeaderMap, String) {
        let (response, _) = self.begin(request(Method::GET, path), true).await;
        answer(response.await.unwrap()).await
    }
}

fn request(method: Method, path: &str) -> Request<()> {
    let uri = format!("http://a.test{path}");
    Request::builder().method(method).uri(uri).body(()).unwrap()
}

async fn answer(response: Response<RecvStream>) -> (StatusCode, HeaderMap, String) {
    let (head, mut body) = response.into_parts();
    let text = text(&mut body).await.unwrap();
    (head.status, head.headers, text)
}

async fn text(body: &mut RecvStream) -> Result<String, h2::Error> {
    let mut text = Vec::new();
    while let Some(data) = tokio::time::timeout(SOON, body.data()).await.unwrap() {
        let data = data?;
        body.flow_control().release_capacity(data.len()).unwrap();
        text.extend_from_slice(&data);
    }
    Ok(String::from_utf8(text).unwrap())
}

/// Answers with method, path and body, and sends trailers back with a mark on them.
async fn http2_origin() -> SocketAddr {
    let listener = TcpListener::bind(testing::ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(echo(request, respond));
                }
            });
        }
    });
    address
}

async fn echo(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let (head, mut body) = request.into_parts();
    if head.uri.path() == "/refuse" {
        return respond.send_reset(h2::Reason::INTERNAL_ERROR);
    }
    let Ok(sent) = text(&mut body).await else {
        return;
    };
    let trailers = body.trailers().await.unwrap_or_default();
    let told = format!("{} {} {:?} {sent}", head.method, head.uri, head.headers);
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(told.into(), trailers.is_none()).unwrap();
    if let Some(mut trailers) = trailers {
        trailers.insert("x-seen", HeaderValue::from_static("yes"));
        stream.send_trailers(trailers).unwrap();
    }
}

async fn before(
    address: SocketAddr,
    protocol: UpstreamProtocol,
    change: impl FnOnce(&mut HttpManager),
) -> Site {
    let mut manager = manager(table(vec![route("/", to("origin"))]));
    change(&mut manager);
    let mut cluster = testing::cluster("origin", &[address]);
    cluster.protocol = protocol;
    Site::start(manager, vec![cluster]).await
}

#[tokio::test]
async fn http2_to_http1() {
    let origin = Origin::echo().await;
    let site = Site::before(origin.address).await;
    let client = Client::connect(site.address).await;
    let (status, headers, body) = client.get("/a?b").await;
    assert_eq!(status, 200);
    assert!(
        body.starts_with("GET /a?b HTTP/1.1\r\nhost: a.test\r\n"),
        "{body}"
    );
    assert_eq!(headers["server"], "envoy");

    let mut post = request(Method::POST, "/post");
    post.headers_mut().insert("content-length", 5.into());
    let (response, mut stream) = client.begin(post, false).await;
    stream.send_data("hello".into(), true).unwrap();
    let (_, _, body) = answer(response.await.unwrap()).await;
    assert_eq!(header_values(&body, "content-length"), ["5"]);
    assert!(body.ends_with("\r\n\r\nhello"), "{body}");

    // Without a length the body becomes chunks.
    let (response, mut stream) = client.begin(request(Method::POST, "/post"), false).await;
    stream.send_data("hel".into(), false).unwrap();
    stream.send_data("lo".into(), true).unwrap();
    let (_, _, body) = answer(response.await.unwrap()).await;
    assert_eq!(header_values(&body, "transfer-encoding"), ["chunked"]);
    assert_eq!(site.stats().downstream_rq_http2_total.get(), 3);
}

#[tokio::test]
async fn http1_to_http2() {
    let site = before(http2_origin().await, UpstreamProtocol::Http2, |_| ()).await;
    let answer = site
        .ask("POST /a?b HTTP/1.1\r\nHost: a.test\r\nX-Own: 1\r\nConnection: x-own\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.body.starts_with("POST http://a.test/a?b "),
        "{}",
        answer.body
    );
    assert!(answer.body.ends_with(" hello"), "{}", answer.body);
    assert!(!answer.body.contains("x-own"), "{}", answer.body);
    // No length is known: chunks.
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));

    let mut client = site.client().await;
    client.send("GET /refuse HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 503);
    assert!(
        answer.body.ends_with("reset reason: remote reset"),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn http2_to_http2_with_trailers() {
    let site = before(http2_origin().await, UpstreamProtocol::Http2, |_| ()).await;
    let client = Client::connect(site.address).await;
    let (response, mut stream) = client.begin(request(Method::POST, "/"), false).await;
    stream.send_data("data".into(), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    stream.send_trailers(trailers).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert!(text(&mut body).await.unwrap().ends_with(" data"));
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(
        (&trailers["x-sum"], &trailers["x-seen"]),
        (&"7".parse().unwrap(), &"yes".parse().unwrap())
    );
}

#[tokio::test]
async fn many_streams_share_one_upstream_connection() {
    let site = before(http2_origin().await, UpstreamProtocol::Http2, |_| ()).await;
    let client = Client::connect(site.address).await;
    let paths: Vec<String> = (0..50).map(|n| format!("/{n}")).collect();
    let answers = futures_util::future::join_all(paths.iter().map(|path| client.get(path))).await;
    for (path, (status, _, body)) in paths.iter().zip(answers) {
        assert_eq!(status, 200);
        assert!(body.contains(&format!("http://a.test{path} ")), "{body}");
    }
    assert_eq!(site.cluster_stats().upstream_cx_total.get(), 1);
    assert_eq!(site.stats().downstream_rq_active.get(), 0);
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let site = before(http2_origin().await, UpstreamProtocol::Http2, |_| ()).await;
    let client = Client::connect(site.address).await;
    let (response, mut stream) = client.begin(request(Method::POST, "/"), false).await;
    let body = "0123456789abcdef".repeat(1 << 16);
    let mut rest = Bytes::from(body.clone());
    let feed = async move {
        while !rest.is_empty() {
            stream.reserve_capacity(rest.len());
            let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx))
                .await
                .unwrap()
                .unwrap();
            let piece = rest.split_to(capacity.min(rest.len()));
            stream.send_data(piece, rest.is_empty()).unwrap();
        }
    };
    let (response, ()) = tokio::join!(response, feed);
    let (_, _, answer) = answer(response.unwrap()).await;
    assert!(answer.ends_with(&body));
}

#[tokio::test]
async fn a_reset_goes_through_to_the_origin() {
    let origin = Origin::start(|_| Act::Hang).await;
    let site = Site::before(origin.address).await;
    let client = Client::connect(site.address).await;
    let (response, mut stream) = client.begin(request(Method::POST, "/"), false).await;
    eventually("asked", || site.stats().downstream_rq_active.get() == 1).await;
    stream.send_reset(h2::Reason::CANCEL);
    assert!(response.await.is_err());
    eventually("over", || site.stats().downstream_rq_active.get() == 0).await;
    eventually("its connection is closed", || {
        site.cluster_stats().upstream_cx_active.get() == 0
    })
    .await;
}

#[tokio::test]
async fn a_response_that_breaks_off_resets_the_stream() {
    let origin = Origin::start(|_| {
        Act::SendAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc".to_vec())
    })
    .await;
    let site = Site::before(origin.address).await;
    let client = Client::connect(site.address).await;
    for _ in 0..2 {
        let (response, _) = client.begin(request(Method::GET, "/"), true).await;
        // What is queued of a response goes with its stream, if need be.
        let error = match response.await {
            Ok(response) => text(&mut response.into_body()).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(error.is_reset(), "{error}");
    }
    // The connection goes on.
    assert_eq!(origin.requests().len(), 2);
    assert_eq!(site.stats().downstream_cx_total.get(), 1);
}

#[tokio::test]
async fn responses_without_a_body_and_head() {
    let origin = Origin::start(
        |request| match request.split(' ').take(2).collect::<Vec<_>>()[..] {
            ["HEAD", "/none"] => send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
            ["HEAD", _] => send("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n"),
            _ => send("HTTP/1.1 204 No Content\r\n\r\n"),
        },
    )
    .await;
    let site = Site::before(origin.address).await;
    let client = Client::connect(site.address).await;
    let (status, _, body) = client.get("/").await;
    assert_eq!((status, &*body), (StatusCode::NO_CONTENT, ""));
    for (path, length) in [("/", "12"), ("/none", "0")] {
        let (response, _) = client.begin(request(Method::HEAD, path), true).await;
        let (status, headers, body) = answer(response.await.unwrap()).await;
        assert_eq!((status, &*body), (StatusCode::OK, ""));
        assert_eq!(headers["content-length"], length);
    }
}

#[tokio::test]
async fn a_connection_ends_after_as_many_requests_as_it_may_carry() {
    let origin = Origin::start(|_| ok("done")).await;
    let most = NonZeroU32::new(2);
    let site = before(origin.address, UpstreamProtocol::Http1, |manager| {
        manager.max_requests_per_connection = most;
    })
    .await;
    let stream = TcpStream::connect(site.address).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let client = Client { send };
    assert_eq!(client.get("/").await.2, "done");
    assert_eq!(client.get("/").await.2, "done");
    let ended = tokio::time::timeout(SOON, connection).await.unwrap();
    ended.unwrap().unwrap();
    assert_eq!(site.stats().downstream_cx_max_requests_reached.get(), 1);
}

#[tokio::test]
async fn draining_says_goaway_and_finishes() {
    let origin = Origin::start(|_| ok("done")).await;
    let site = Site::before(origin.address).await;
    let stream = TcpStream::connect(site.address).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let client = Client { send };
    assert_eq!(client.get("/").await.2, "done");
    site.runtime.drain();
    tokio::time::timeout(SOON, connection)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn crumbs_of_a_cookie_become_one_field() {
    let origin = Origin::echo().await;
    let site = Site::before(origin.address).await;
    let client = Client::connect(site.address).await;
    let mut crumbs = request(Method::GET, "/");
    for crumb in ["a=1", "user=jason", "c=3"] {
        crumbs
            .headers_mut()
            .append("cookie", crumb.parse().unwrap());
        crumbs
            .headers_mut()
            .append("x-list", crumb.parse().unwrap());
    }
    let (response, _) = client.begin(crumbs, true).await;
    let (_, _, body) = answer(response.await.unwrap()).await;
    assert_eq!(header_values(&body, "cookie"), ["a=1; user=jason; c=3"]);
    assert_eq!(header_values(&body, "x-list"), ["a=1", "user=jason", "c=3"]);
}

/// What was forwarded of one stream no longer fills the window that all share.
#[tokio::test]
async fn uploads_that_wait_for_their_answers_hold_up_no_others() {
    let origin = Origin::start(|_| Act::Hang).await;
    let mut manager = manager(table(vec![route("/", to("origin"))]));
    manager.http2.initial_connection_window = 65_535;
    let clusters = vec![testing::cluster("origin", &[origin.address])];
    let site = Site::start(manager, clusters).await;
    let client = Client::connect(site.address).await;
    let mut streams = Vec::new();
    for _ in 0..12 {
        let (response, mut stream) = client.begin(request(Method::POST, "/"), false).await;
        stream.reserve_capacity(16_000);
        while stream.capacity() < 16_000 {
            let more = std::future::poll_fn(|cx| stream.poll_capacity(cx));
            let more = tokio::time::timeout(SOON, more).await.expect("a window");
            more.unwrap().unwrap();
        }
        stream.send_data(vec![b'x'; 16_000].into(), true).unwrap();
        streams.push((response, stream));
    }
    eventually("all are forwarded", || origin.requests().len() == 12).await;
}

/// They would be written as they are into an HTTP/1 head.
#[tokio::test]
async fn targets_obey_the_rules_of_http1() {
    let origin = Origin::echo().await;
    let site = Site::before(origin.address).await;
    let client = Client::connect(site.address).await;
    for target in ["/é", "/a?é"] {
        let path = http::uri::PathAndQuery::try_from(target).unwrap();
        let uri = http::Uri::builder().scheme("http").authority("a.test");
        let mut odd = request(Method::GET, "/");
        *odd.uri_mut() = uri.path_and_query(path).build().unwrap();
        let (response, _) = client.begin(odd, true).await;
        assert!(response.await.unwrap_err().is_reset(), "{target:?}");
    }
    assert!(origin.requests().is_empty());
}

/// Which of them would be the request's is anybody's guess.
#[tokio::test]
async fn several_hosts_are_refused() {
    let origin = Origin::echo().await;
    let site = Site::before(origin.address).await;
    let client = Client::connect(site.address).await;
    let mut odd = request(Method::GET, "/");
    for host in ["a.test", "b.test"] {
        let host = HeaderValue::from_static(host);
        odd.headers_mut().append(http::header::HOST, host);
    }
    let (response, _) = client.begin(odd, true).await;
    assert!(response.await.unwrap_err().is_reset());
    assert!(origin.requests().is_empty());
}

/// An upstream of HTTP/1 would drop them, and take for an administrator whom no policy took for one.
#[tokio::test]
async fn spaces_are_no_part_of_a_value() {
    let origin = Origin::echo().await;
    let site = Site::before(origin.address).await;
    let client = Client::connect(site.address).await;
    let mut padded = request(Method::GET, "/");
    let value = HeaderValue::from_static(" \tadmin of all\t ");
    padded.headers_mut().insert("x-role", value);
    let (response, _) = client.begin(padded, true).await;
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    let seen = origin.requests();
    assert_eq!(header_values(&seen[0], "x-role"), ["admin of all"]);
}

#[tokio::test]
async fn what_http2_cannot_carry_is_no_fault_of_the_upstream() {
    let mut forward = forward("origin");
    let on = RetryOn {
        reset: true,
        server_error: true,
        ..RetryOn::default()
    };
    forward.retry = Some(retry(on, 3));
    let route = route("/", RouteAction::Forward(Box::new(forward)));
    let mut cluster = testing::cluster("origin", &[http2_origin().await]);
    cluster.protocol = UpstreamProtocol::Http2;
    let mut manager = manager(table(vec![route]));
    manager.upgrades = vec!["websocket".into()];
    let site = Site::start(manager, vec![cluster]).await;
    let host = site.ask("GET / HTTP/1.1\r\nHost: a:b:c\r\n\r\n").await;
    assert_eq!(host.status, 400);
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(site.ask(upgrade).await.status, 403);
    assert_eq!(site.cluster_stats().upstream_rq_retry.get(), 0);
    assert_eq!(site.cluster_stats().upstream_cx_connect_fail.get(), 0);
}

/// Speaks HTTP/2 by hand: what a well-behaved library would not send.
async fn raw(site: &Site) -> TcpStream {
    use tokio::io::AsyncWriteExt;
    let mut stream = TcpStream::connect(site.address).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    stream.write_all(&frame(4, 0, 0, b"")).await.unwrap();
    stream
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Sends `flood` for as long as the proxy takes it; whether the proxy put an end to it.
async fn is_cut_off(mut stream: TcpStream, flood: &[u8], times: usize) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut read, mut write) = stream.split();
    let send = async {
        for _ in 0..times {
            if write.write_all(flood).await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    };
    let receive = async {
        let mut buffer = vec![0; 1 << 16];
        while matches!(read.read(&mut buffer).await, Ok(1..)) {}
    };
    let ended = async {
        tokio::select! {
            () = send => {}
            () = receive => {}
        }
    };
    tokio::time::timeout(SOON, ended).await.is_ok()
}

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

/// CVE-2024-27316 and its like: a head without an end, in small pieces or in large ones.
#[tokio::test]
async fn a_head_that_does_not_end_is_cut_off() {
    let origin = Origin::start(|_| ok("")).await;
    let site = Site::before(origin.address).await;
    // A literal field of one byte each way, never indexed.
    let field = b"\x00\x01a\x01b";
    for piece in [&b""[..], field, &field.repeat(3000)] {
        use tokio::io::AsyncWriteExt;
        let mut stream = raw(&site).await;
        let begin = frame(HEADERS, 0, 1, b"\x82\x86\x84");
        stream.write_all(&begin).await.unwrap();
        let flood = frame(CONTINUATION, 0, 1, piece);
        assert!(
            is_cut_off(stream, &flood, 100_000).await,
            "{} bytes",
            piece.len()
        );
    }
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn heads_are_bounded_in_number_too() {
    let origin = Origin::start(|_| ok("")).await;
    let site = Site::before(origin.address).await;
    let client = Client::connect(site.address).await;
    let mut many = request(Method::GET, "/");
    for n in 0..101 {
        let name = http::HeaderName::try_from(format!("x-{n}")).unwrap();
        many.headers_mut().insert(name, 1.into());
    }
    let (response, _) = client.begin(many, true).await;
    assert!(response.await.unwrap_err().is_reset());
    assert_eq!(client.get("/").await.0, 200);
    assert_eq!(origin.requests().len(), 1);
}

/// CVE-2023-44487: streams that are opened and reset at once.
#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let origin = Origin::start(|_| Act::Hang).await;
    let site = Site::before(origin.address).await;
    let stream = TcpStream::connect(site.address).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let flood = async {
        loop {
            let Ok(mut send) = send.clone().ready().await else {
                return;
            };
            let Ok((_, mut stream)) = send.send_request(request(Method::GET, "/"), false) else {
                return;
            };
            stream.send_reset(h2::Reason::CANCEL);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, flood).await.expect("cut off");
    assert!(
        origin.connections() <= 200,
        "{} connections",
        origin.connections()
    );
    connection.abort();
    eventually("nothing stays behind", || {
        site.stats().downstream_rq_active.get() == 0
    })
    .await;
}
