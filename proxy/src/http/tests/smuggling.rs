//! What must never be forwarded: requests that two parsers read differently, in both directions.

use super::support::{Act, Origin, Site, manager, route, send, table, to};
use crate::testing;

/// Refused with this status, and nothing of it, nor what follows, reaches the origin.
async fn is_refused(site: &Site, origin: &Origin, text: &str, statuses: &[u16]) {
    let before = origin.requests().len();
    let mut client = site.client().await;
    client
        .send(format!("{text}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"))
        .await;
    let answer = client.answer().await;
    assert!(
        statuses.contains(&answer.status),
        "{text:?}: {}",
        answer.head
    );
    assert_eq!(answer.header("connection"), Some("close"), "{text:?}");
    assert!(client.is_closed().await, "{text:?}");
    assert_eq!(origin.requests().len(), before, "{text:?}");
}

#[tokio::test]
async fn ambiguous_heads_are_refused_and_the_connection_closed() {
    let origin = Origin::echo().await;
    let site = Site::before(origin.address).await;
    let fields = [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: 4\r\nContent-Length: 4\r\n",
        "Content-Length: 4, 4\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: -4\r\n",
        "Content-Length: 0x4\r\n",
        "Content-Length: 4 4\r\n",
        "Content-Length: 18446744073709551620\r\n",
        "Content-Length:\r\n",
        "Host: b\r\n",
        "X-A: b\r\n c: d\r\n",
        "X-A: b\r\n\tc: d\r\n",
        "Content-Length : 4\r\n",
        "Content-Length\t: 4\r\n",
        " Content-Length: 4\r\n",
        "X-A: b\0c\r\n",
        "X-A: b\rc\r\n",
        "X-A: b\nContent-Length: 4\r\n",
        "X-A: b\n\r\n",
        ": b\r\n",
        "X-A\r\n",
        "X A: b\r\n",
        "X-\u{e9}: b\r\n",
        "Connection: x-forwarded-for\r\n",
        "Connection: close, X-Forwarded-Proto\r\n",
        "Connection: :path\r\n",
        "Connection: a, b, c, d, e, f, g, h, i, j\r\n",
    ];
    for field in fields {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{field}\r\n");
        is_refused(&site, &origin, &text, &[400]).await;
    }
    for coding in [
        "gzip, chunked",
        "chunked, gzip",
        "xchunked",
        "chunkedx",
        "identity",
        "chunked, identity",
        "\"chunked\"",
        "chunked;q=1",
        "",
    ] {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n");
        is_refused(&site, &origin, &text, &[400, 501]).await;
    }
}

#[tokio::test]
async fn malformed_request_lines_are_refused() {
    let origin = Origin::echo().await;
    let site = Site::before(origin.address).await;
    for line in [
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /\u{b}HTTP/1.1",
        "GET / a HTTP/1.1",
        "GET /\r/ HTTP/1.1",
        "GET /#f HTTP/1.1",
        "GET a HTTP/1.1",
        "GET * HTTP/1.1",
        "GET ftp://a/ HTTP/1.1",
        "GET http:///a HTTP/1.1",
        "GET http://u@a/ HTTP/1.1",
        "GET http://a\\b/ HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "G(T / HTTP/1.1",
        "get / HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1.1\u{b}",
        "GET / HTTP/11",
        "GET",
    ] {
        is_refused(
            &site,
            &origin,
            &format!("{line}\r\nHost: a\r\n\r\n"),
            &[400],
        )
        .await;
    }
    for line in ["GET / HTTP/1.2", "GET / HTTP/2.0", "GET / HTTP/0.9"] {
        let text = format!("{line}\r\nHost: a\r\n\r\n");
        is_refused(&site, &origin, &text, &[400, 426, 505]).await;
    }
    for host in [
        "",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: u@a\r\n",
        "Host: a\\b\r\n",
    ] {
        let text = format!("GET / HTTP/1.1\r\n{host}\r\n");
        is_refused(&site, &origin, &text, &[400]).await;
    }
    let stats = site.stats();
    assert_eq!(
        stats.downstream_cx_protocol_error.get(),
        stats.downstream_cx_total.get()
    );
}

#[tokio::test]
async fn malformed_chunks_never_make_a_second_request() {
    let origin = Origin::echo().await;
    let site = Site::before(origin.address).await;
    let long = format!("2;{}\r\nab\r\n0\r\n\r\n", "x".repeat(20_000));
    for body in [
        "2\nab\r\n0\r\n\r\n",
        "0x2\r\nab\r\n0\r\n\r\n",
        "+2\r\nab\r\n0\r\n\r\n",
        "-2\r\nab\r\n0\r\n\r\n",
        " 2\r\nab\r\n0\r\n\r\n",
        "2 2\r\nab\r\n0\r\n\r\n",
        "\r\nab\r\n0\r\n\r\n",
        "2\r\nab0\r\n\r\n",
        "2\r\nab\n0\r\n\r\n",
        "2\r\nabc\r\n0\r\n\r\n",
        "10000000000000002\r\nab\r\n0\r\n\r\n",
        "2;\0\r\nab\r\n0\r\n\r\n",
        "2;a\nb\r\nab\r\n0\r\n\r\n",
        "0\r\nX A: b\r\n\r\n",
        "0\r\nX-A: b\n\r\n",
        "0\r\n\n",
        &long,
    ] {
        let mut client = site.client().await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client
            .send(format!(
                "{head}{body}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
            ))
            .await;
        if let Some(head) = client.head().await {
            assert!(head.starts_with("HTTP/1.1 400 "), "{body:?}: {head}");
            client.take(client.buffer.len()).await;
        }
        while client.take(1).await.is_some() {}
    }
    assert!(
        !origin
            .requests()
            .iter()
            .any(|it| it.contains("/smuggled HTTP"))
    );
    // Whatever was begun was never finished as if it were whole.
    assert!(origin.requests().is_empty(), "{:?}", origin.requests());
}

#[tokio::test]
async fn nothing_rides_along_in_trailers_or_connection() {
    let origin = Origin::echo().await;
    let site = Site::before(origin.address).await;
    let answer = site
        .ask(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
             Connection: host, transfer-encoding, content-length, x-envoy-foo, x-own\r\n\
             X-Own: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n\r\n\
             2\r\nab\r\n0\r\nContent-Length: 9\r\nHost: evil\r\nTransfer-Encoding: x\r\n\r\n",
        )
        .await;
    assert_eq!(answer.status, 200);
    let request = answer.body.to_ascii_lowercase();
    assert!(request.contains("\r\nhost: a\r\n"), "{request}");
    assert!(
        request.contains("\r\nx-forwarded-proto: http\r\n"),
        "{request}"
    );
    for gone in [
        "x-own",
        "keep-alive",
        "proxy-connection",
        "connection:",
        "evil",
        "content-length",
    ] {
        assert!(!request.contains(gone), "{gone} in {request}");
    }
}

#[tokio::test]
async fn an_absolute_target_decides_the_host() {
    let origin = Origin::echo().await;
    let site = Site::before(origin.address).await;
    let answer = site
        .ask("GET http://real.test/p?q HTTP/1.1\r\nHost: other\r\n\r\n")
        .await;
    assert!(
        answer
            .body
            .starts_with("GET /p?q HTTP/1.1\r\nhost: real.test\r\n"),
        "{}",
        answer.body
    );
    assert!(!answer.body.contains("other"));
}

/// Responses that cannot be believed become 502, and their connection carries nothing more.
#[tokio::test]
async fn responses_that_make_no_sense_are_not_passed_on() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX A: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: b\0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.1 99 Low\r\n\r\n",
        "HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\r\n\r\n",
    ] {
        let origin = Origin::start(move |_| send(text)).await;
        let site = Site::before(origin.address).await;
        let answer = site.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(answer.status, 502, "{text:?}: {}", answer.head);
        assert_eq!(
            answer.body,
            "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
        );
        site.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(origin.connections(), 2, "{text:?}");
    }
}

#[tokio::test]
async fn bytes_after_a_response_are_never_the_next_response() {
    let origin = Origin::start(|request| match request.contains("/first") {
        true => send(
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab\
             HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled",
        ),
        false => send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nreal"),
    })
    .await;
    let site = Site::before(origin.address).await;
    let mut client = site.client().await;
    client.send("GET /first HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.body, "ab");
    client.send("GET /second HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.body, "real");
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn a_response_that_breaks_off_is_broken_off() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
    ] {
        let origin = Origin::start(move |_| Act::SendAndClose(text.into())).await;
        let site = Site::before(origin.address).await;
        let mut client = site.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{text:?}");
        let mut rest = String::new();
        while let Some(byte) = client.take(1).await {
            rest += &byte;
        }
        // Neither ten bytes nor a last chunk: the client sees that something is missing.
        assert!(rest.contains("abc"), "{text:?}: {rest:?}");
        assert!(!rest.contains("\r\n0\r\n"), "{text:?}: {rest:?}");
    }
}

/// HTTP/1.0 knows a body's end by the end of the connection alone: a part must not look whole.
#[tokio::test]
async fn a_response_without_framing_that_breaks_off_is_reset() {
    for (text, is_whole) in [
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            true,
        ),
        ("HTTP/1.1 200 OK\r\n\r\nabc", true),
    ] {
        let origin = Origin::start(move |_| Act::SendAndClose(text.into())).await;
        let mut manager = manager(table(vec![route("/", to("origin"))]));
        manager.http1.accept_http_10 = true;
        let cluster = testing::cluster("origin", &[origin.address]);
        let site = Site::start(manager, vec![cluster]).await;
        let mut client = site.client().await;
        client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
        let mut answer = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut answer).await;
        assert_eq!(read.is_ok(), is_whole, "{text:?}: {read:?}");
    }
}
