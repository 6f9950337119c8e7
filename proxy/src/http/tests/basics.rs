//! Requests and responses of every framing, over HTTP/1 on both sides.

use super::support::{Act, Origin, Site, header_values, manager, ok, route, send, table, to};
use crate::testing::{self, eventually};

#[tokio::test]
async fn a_request_passes_and_its_connections_are_used_again() {
    let origin = Origin::echo().await;
    let site = Site::before(origin.address).await;
    let mut client = site.client().await;
    for n in 0..3 {
        client
            .send(format!("GET /{n} HTTP/1.1\r\nHost: a.test\r\n\r\n"))
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200);
        assert!(
            answer
                .body
                .starts_with(&format!("GET /{n} HTTP/1.1\r\nhost: a.test\r\n"))
        );
    }
    assert_eq!(origin.connections(), 1);
    let stats = site.stats();
    // The last one is counted just after its client has it.
    eventually("it is over", || stats.downstream_rq_active.get() == 0).await;
    assert_eq!(stats.downstream_cx_total.get(), 1);
    assert_eq!(stats.downstream_rq_total.get(), 3);
    assert_eq!(stats.downstream_rq_2xx.get(), 3);
}

#[tokio::test]
async fn bodies_keep_their_framing() {
    let origin = Origin::echo().await;
    let site = Site::before(origin.address).await;
    let mut client = site.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    let answer = client.answer().await;
    assert!(answer.body.ends_with("\r\n\r\nhello"), "{}", answer.body);
    assert_eq!(header_values(&answer.body, "content-length"), ["5"]);

    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.send("3;ext=1\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(
        header_values(&answer.body, "transfer-encoding"),
        ["chunked"]
    );
    assert!(header_values(&answer.body, "content-length").is_empty());
    assert!(!answer.body.contains("ext"), "{}", answer.body);
    let chunks = answer.body.split_once("\r\n\r\n").unwrap().1;
    let data: String = chunks.split("\r\n").skip(1).step_by(2).collect();
    assert_eq!(data, "hello", "{chunks:?}");
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn responses_of_every_framing() {
    let origin = Origin::start(|request| {
        let path = request.split(' ').nth(1).unwrap();
        match path {
            "/chunked" => {
                send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
            }
            "/empty" => send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
            "/204" => send("HTTP/1.1 204 No Content\r\n\r\n"),
            "/304" => send("HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n"),
            "/close" => Act::SendAndClose(b"HTTP/1.1 200 OK\r\n\r\nuntil the end".to_vec()),
            "/1.0" => {
                Act::SendAndClose(b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold".to_vec())
            }
            _ => send("HTTP/1.1 299 My Own\r\ncontent-length: 1\r\n\r\nx"),
        }
    })
    .await;
    let site = Site::before(origin.address).await;
    let mut client = site.client().await;
    for (path, status, framing, body) in [
        (
            "/chunked",
            200,
            Some(("transfer-encoding", "chunked")),
            "abc",
        ),
        ("/empty", 200, Some(("content-length", "0")), ""),
        ("/204", 204, None, ""),
        ("/304", 304, Some(("content-length", "7")), ""),
        (
            "/close",
            200,
            Some(("transfer-encoding", "chunked")),
            "until the end",
        ),
        ("/1.0", 200, Some(("content-length", "3")), "old"),
        ("/own", 299, Some(("content-length", "1")), "x"),
    ] {
        client
            .send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.status, &*answer.body), (status, body), "{path}");
        for name in ["content-length", "transfer-encoding"] {
            let expected = framing.filter(|it| it.0 == name).map(|it| it.1);
            assert_eq!(answer.header(name), expected, "{path}");
        }
        assert_eq!(answer.header("connection"), None, "{path}");
    }
}

#[tokio::test]
async fn head_has_the_length_and_not_the_body() {
    let origin = Origin::start(|request| {
        let length = if request.starts_with("HEAD /none") {
            0
        } else {
            12
        };
        send(&format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"
        ))
    })
    .await;
    let site = Site::before(origin.address).await;
    let mut client = site.client().await;
    for (path, length) in [("/", "12"), ("/", "12"), ("/none", "0")] {
        client
            .send(&format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        let answer = client.answer_to_head().await;
        assert_eq!(answer.header("content-length"), Some(length));
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start(|request| ok(request.split(' ').nth(1).unwrap())).await;
    let site = Site::before(origin.address).await;
    let mut client = site.client().await;
    let text: String = (0..10)
        .map(|n| format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"))
        .collect();
    client.send(&text).await;
    for n in 0..10 {
        assert_eq!(client.answer().await.body, format!("/{n}"));
    }
    assert_eq!(origin.requests().len(), 10);
}

#[tokio::test]
async fn a_client_that_wants_to_close_is_closed() {
    let origin = Origin::echo().await;
    let site = Site::before(origin.address).await;
    let mut client = site.client().await;
    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.is_closed().await);
    // What the client asked of its connection is no business of the origin's.
    assert!(header_values(&origin.requests()[0], "connection").is_empty());
}

#[tokio::test]
async fn an_origin_that_closes_is_not_used_again() {
    let origin = Origin::start(|_| {
        send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    })
    .await;
    let site = Site::before(origin.address).await;
    let mut client = site.client().await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (200, None));
    }
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn interim_responses_pass_and_continue_is_ours() {
    let origin = Origin::start(|_| {
        send("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    })
    .await;
    let site = Site::before(origin.address).await;
    let mut client = site.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .await;
    assert_eq!(
        client.head().await.unwrap(),
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    client.send("ab").await;
    let hints = client.head().await.unwrap();
    assert!(hints.starts_with("HTTP/1.1 103 Early Hints\r\n"), "{hints}");
    assert_eq!(header_values(&hints, "link"), ["x"]);
    assert_eq!(client.answer().await.status, 200);
    // The expectation is met: the origin need not see it.
    assert!(header_values(&origin.requests()[0], "expect").is_empty());
}

#[tokio::test]
async fn http_10_is_refused_unless_it_is_configured() {
    let origin = Origin::echo().await;
    let site = Site::before(origin.address).await;
    let answer = site.ask("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert_eq!((answer.status, &*answer.body), (426, "Upgrade Required"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn an_early_answer_ends_the_connection_of_a_body_that_still_comes() {
    let origin = Origin::start(|_| ok("")).await;
    let site = Site::before(origin.address).await;
    // The origin reads no body that is not announced: answer at once, and read on.
    let early = tokio::net::TcpListener::bind(testing::ANY).await.unwrap();
    let address = early.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = early.accept().await.unwrap();
        let mut peer = super::support::Peer::new(stream);
        peer.head().await.unwrap();
        peer.send("HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
            .await;
        std::future::pending::<()>().await;
    });
    drop(site);
    let site = Site::before(address).await;
    let mut client = site.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nsome")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (413, "big"));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn trailers_pass_where_the_configuration_says_so() {
    let origin = Origin::start(|request| match request.starts_with("POST") {
        true => ok(request),
        false => send(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n",
        ),
    })
    .await;
    let post = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                2\r\nab\r\n0\r\nX-Up: 1\r\n\r\n";
    for enabled in [false, true] {
        let mut manager = manager(table(vec![route("/", to("origin"))]));
        manager.http1.enable_trailers = enabled;
        let cluster = testing::cluster("origin", &[origin.address]);
        let site = Site::start(manager, vec![cluster]).await;
        let expected = if enabled { "x-t: 1" } else { "" };
        for says in ["", "TE: trailers\r\n"] {
            let get = format!("GET / HTTP/1.1\r\nHost: a\r\n{says}\r\n");
            let answer = site.ask(&get).await;
            assert_eq!((&*answer.body, answer.trailers.trim()), ("ok", expected));
        }
        let arrived = site.ask(post).await.body;
        assert_eq!(arrived.contains("x-up: 1"), enabled, "{arrived}");
    }
}
