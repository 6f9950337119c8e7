//! Services that stall, flood, or say what is no answer, where they authorize and where they limit rates: a
//! request that they are asked about is refused in time, and nothing else is harmed.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Reason, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Semaphore,
};

use crate::{
    authz_server,
    like_envoy::origin,
    limit_server,
    support::{Bench, exchange, read_head, server},
};

/// Of the services, in seconds.
const TIMEOUT: &str = "0.5";

/// Until when a request must be over that waits for a service no longer than [`TIMEOUT`].
const SOON: Duration = Duration::from_secs(10);

/// Far more than any service has to say.
const HUGE: usize = 100 << 20;

/// Requests at a time, each of which waits for a service that does not end its answer.
const WAITING: usize = 200;

/// What a service says before it stalls: as long as may be.
const HALF: usize = 1000 << 10;

async fn bench(timeout: &str, plain: SocketAddr, grpc: SocketAddr) -> Bench {
    let yaml = include_str!("authz_liars.yaml").replace("TIMEOUT", timeout);
    let ports = [("PLAIN", plain), ("GRPC", grpc), ("ORIGIN", origin())];
    let yaml = ports.iter().fold(yaml, |yaml, (name, address)| {
        yaml.replace(name, &address.port().to_string())
    });
    Bench::start(&yaml).await
}

fn get(say: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.test\r\nX-Say: {say}\r\nConnection: close\r\n\r\n")
}

/// What is said in plain HTTP, as long as the other side listens.
const PLAIN: &[(&str, &str, &str)] = &[
    ("nothing", "", ""),
    ("half a status line", "HTTP/1.1 20", ""),
    ("half a head", "HTTP/1.1 200 OK\r\nx-a: b\r\n", ""),
    (
        "a head without end",
        "HTTP/1.1 200 OK\r\n",
        "x-a: aaaaaaaaaaaaaaaaaaaaaa\r\n",
    ),
    (
        "a name without end",
        "HTTP/1.1 200 OK\r\nx-",
        "aaaaaaaaaaaaaaaaaaaaaaaaaa",
    ),
    (
        "interim answers without end",
        "",
        "HTTP/1.1 103 Early Hints\r\n\r\n",
    ),
    (
        "another protocol",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        "y",
    ),
    (
        "another protocol, unnamed",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "y",
    ),
    (
        "no status",
        "HTTP/1.1 000 X\r\ncontent-length: 0\r\n\r\n",
        "",
    ),
    (
        "a short status",
        "HTTP/1.1 20 X\r\ncontent-length: 0\r\n\r\n",
        "",
    ),
    (
        "a long status",
        "HTTP/1.1 2000 X\r\ncontent-length: 0\r\n\r\n",
        "",
    ),
    (
        "a negative status",
        "HTTP/1.1 -20 X\r\ncontent-length: 0\r\n\r\n",
        "",
    ),
    (
        "half a body",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
        "",
    ),
    (
        "a body without end",
        "HTTP/1.1 200 OK\r\n\r\n",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ),
    (
        "chunks without end",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "4\r\nabcd\r\n",
    ),
    (
        "a chunk without end",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        "a",
    ),
    (
        "two lengths",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "",
    ),
    (
        "two framings",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "",
    ),
    (
        "trailers without end",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
        "x-a: aaaaaaaaaaaaaaaaa\r\n",
    ),
    ("http/2", "\0\0\0\x04\0\0\0\0\0", ""),
];

/// A service of plain HTTP that says what `x-say` names of [`PLAIN`].
fn plain() -> SocketAddr {
    server(|mut stream| {
        let head = read_head(&mut stream);
        let say = head.lines().find_map(|line| line.strip_prefix("x-say: "));
        let Some((_, first, then)) = PLAIN.iter().find(|(name, ..)| Some(*name) == say) else {
            return;
        };
        let _ = talk(&mut stream, first, then);
    })
}

fn talk(stream: &mut TcpStream, first: &str, then: &str) -> std::io::Result<()> {
    stream.write_all(first.as_bytes())?;
    let then = then.repeat(1000);
    let mut sent = 0;
    while !then.is_empty() && sent < HUGE {
        stream.write_all(then.as_bytes())?;
        sent += then.len();
    }
    stream.read_to_end(&mut Vec::new()).map(drop)
}

/// What a service of gRPC says, by `x-say`.
const GRPC: &[&str] = &[
    "nothing",
    "reset",
    "goaway",
    "head",
    "half",
    "long",
    "huge",
    "interim",
    "trailers",
    "no-trailers",
    "compressed",
    "two",
    "short",
    "no-message",
    "garbage",
    "html",
    "http-500",
    "status:1",
    "status:-1",
    "status:x",
    "status:99999999999999999999",
    "status:",
    "header",
];

async fn grpc() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("it is the test's own");
    let address = listener.local_addr().expect("it is the test's own");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.ok()?;
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        let said = said(&request);
                        let mut body = request.into_body();
                        let mut question = Vec::new();
                        while let Some(Ok(data)) = body.data().await {
                            question.extend_from_slice(&data);
                        }
                        // Who gives up hears no end.
                        let _ = lie(&said(&question[5..]), respond).await;
                    });
                }
                Some(())
            });
        }
    });
    address
}

/// How it is found in a question what is to be said.
fn said<B>(request: &Request<B>) -> fn(&[u8]) -> String {
    match request.uri().path().contains("RateLimit") {
        true => limit_server::said,
        false => authz_server::said,
    }
}

async fn lie(say: &str, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let head = |status: StatusCode, kind: &'static str| {
        let head = Response::builder()
            .status(status)
            .header("content-type", kind);
        head.body(()).expect("it is the test's own")
    };
    let grpc = || head(StatusCode::OK, "application/grpc");
    let ok = HeaderMap::from_iter([(
        "grpc-status".parse().expect("a name"),
        HeaderValue::from_static("0"),
    )]);
    let message = |bytes: &'static [u8]| Bytes::from_static(bytes);
    let (body, trailers) = match say {
        "nothing" => return std::future::pending().await,
        "reset" => {
            respond.send_reset(Reason::INTERNAL_ERROR);
            return Ok(());
        }
        "goaway" => {
            respond.send_reset(Reason::ENHANCE_YOUR_CALM);
            return Ok(());
        }
        "head" => {
            let _stream = respond.send_response(grpc(), false)?;
            return std::future::pending().await;
        }
        "half" => {
            let mut stream = respond.send_response(grpc(), false)?;
            stream.send_data(message(b"\0\0\0\0\x09abc"), false)?;
            return std::future::pending().await;
        }
        "long" => (message(b"\0\xff\xff\xff\xffabc"), Some(ok)),
        "huge" => {
            let mut stream = respond.send_response(grpc(), false)?;
            return flood(&mut stream, HUGE).await;
        }
        "interim" => loop {
            let hints = Response::builder()
                .status(103)
                .body(())
                .expect("it is the test's own");
            respond.send_informational(hints)?;
            tokio::task::yield_now().await;
        },
        "trailers" => {
            let mut head = grpc();
            head.headers_mut().extend(ok);
            respond.send_response(head, true)?;
            return Ok(());
        }
        "no-trailers" => (message(b"\0\0\0\0\0"), None),
        "compressed" => (message(b"\x01\0\0\0\0"), Some(ok)),
        "two" => (message(b"\0\0\0\0\0\0\0\0\0\0"), Some(ok)),
        "short" => (message(b"\0\0\0"), Some(ok)),
        "no-message" => (Bytes::new(), Some(ok)),
        "garbage" => (message(b"\0\0\0\0\x04\xff\xff\xff\xff"), Some(ok)),
        "html" | "http-500" => {
            let head = match say {
                "html" => head(StatusCode::OK, "text/html"),
                _ => head(StatusCode::INTERNAL_SERVER_ERROR, "application/grpc"),
            };
            let mut stream = respond.send_response(head, false)?;
            stream.send_data(message(b"\0\0\0\0\0"), false)?;
            return stream.send_trailers(ok);
        }
        "header" => {
            let mut head = grpc();
            for _ in 0..20 {
                let value =
                    HeaderValue::from_str(&"a".repeat(8 << 10)).expect("it is the test's own");
                head.headers_mut().append("x-long", value);
            }
            let mut stream = respond.send_response(head, false)?;
            stream.send_data(message(b"\0\0\0\0\0"), false)?;
            return stream.send_trailers(ok);
        }
        status => {
            let status = status
                .strip_prefix("status:")
                .expect("it is one of the list");
            let status = HeaderValue::from_str(status).expect("it is the test's own");
            let trailers = [("grpc-status".parse().expect("a name"), status)];
            (message(b"\0\0\0\0\0"), Some(HeaderMap::from_iter(trailers)))
        }
    };
    let mut stream = respond.send_response(grpc(), false)?;
    stream.send_data(body, trailers.is_none())?;
    match trailers {
        Some(trailers) => stream.send_trailers(trailers),
        None => Ok(()),
    }
}

/// A message that is as long as may be, and of which `bytes` come.
async fn flood(stream: &mut h2::SendStream<Bytes>, bytes: usize) -> Result<(), h2::Error> {
    let mut rest = Bytes::from([&b"\0\x00\x0f\xff\x00"[..], &vec![0; bytes]].concat());
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(capacity) => stream.send_data(rest.split_to(capacity?.min(rest.len())), false)?,
            None => return Ok(()),
        }
    }
    std::future::pending().await
}

#[tokio::test]
async fn what_is_no_answer_is_none() {
    let bench = bench(TIMEOUT, plain(), grpc().await).await;
    let plain = PLAIN.iter().map(|(name, ..)| ("plain", *name));
    let grpc = ["grpc", "limits"];
    let grpc = grpc.map(|listener| GRPC.iter().map(move |name| (listener, *name)));
    let cases: Vec<_> = plain.chain(grpc.into_iter().flatten()).collect();
    let mut wrong = Vec::new();
    for (listener, say) in &cases {
        let begun = Instant::now();
        let answer = exchange(bench.address(listener), &get(say)).await;
        let took = begun.elapsed();
        let status = format!("HTTP/1.1 {} ", &refusal(listener)[..3]);
        let refused = answer.starts_with(&status) && answer.contains("content-length: 0\r\n");
        let is_denial = answer.ends_with("\r\n\r\n");
        if !refused || !is_denial || took > SOON {
            wrong.push(format!("{listener} {say}, after {took:?}: {answer:?}"));
        }
        // Nobody else waits for it.
        let other = exchange(bench.address("open"), &get("nothing")).await;
        assert!(
            other.starts_with("HTTP/1.1 200 "),
            "{listener} {say}: {other}"
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let lines = bench.lines(2 * cases.len()).await;
    for (lines, (listener, _)) in lines.chunks(2).zip(&cases) {
        assert_eq!(lines, [refusal(listener), "200 - via_upstream"]);
    }
}

/// What the log says of a request that a service did not answer.
fn refusal(listener: &str) -> &'static str {
    match listener {
        "limits" => "500 RLSE rate_limiter_error",
        _ => "403 UAEX ext_authz_error",
    }
}

/// What all requests together hold of answers that do not end is bounded: who finds no room is refused at
/// once, the others may wait, and their memory can be used again.
#[tokio::test]
async fn answers_that_do_not_end_share_what_there_is() {
    let stop = Arc::new(Semaphore::new(0));
    let plain = half_plain().await;
    let grpc = half_grpc().await;
    let bench = bench("60", plain, grpc).await;
    for listener in ["plain", "grpc", "limits"] {
        let status = format!("HTTP/1.1 {} ", &refusal(listener)[..3]);
        let address = bench.address(listener);
        let refused = Arc::new(Semaphore::new(0));
        let clients: Vec<_> = (0..WAITING)
            .map(|_| {
                let (refused, stop) = (Arc::clone(&refused), Arc::clone(&stop));
                let status = status.clone();
                tokio::spawn(async move {
                    let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
                    stream.write_all(get("half").as_bytes()).await.expect("it reads");
                    let mut answer = String::new();
                    tokio::select! {
                        read = stream.read_to_string(&mut answer) => drop(read.expect("it answers")),
                        _ = stop.acquire() => return,
                    }
                    assert!(answer.starts_with(&status), "{answer}");
                    refused.add_permits(1);
                })
            })
            .collect();
        let most = u32::try_from(WAITING / 2).expect("a few");
        let enough = tokio::time::timeout(SOON * 2, refused.acquire_many(most)).await;
        assert!(
            enough.is_ok(),
            "{listener}: {} were refused",
            refused.available_permits()
        );
        let other = exchange(bench.address("open"), &get("half")).await;
        assert!(other.starts_with("HTTP/1.1 200 "), "{other}");
        for client in clients {
            client.abort();
        }
        // Their places are free once they are gone.
        let begun = Instant::now();
        loop {
            let answer = exchange(bench.address(listener), &get("fine")).await;
            if answer.starts_with("HTTP/1.1 200 ") {
                break;
            }
            assert!(begun.elapsed() < SOON, "{listener}: {answer}");
        }
    }
}

/// Says half an answer to who says `half`, and a whole one to others.
async fn half_plain() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("it is the test's own");
    let address = listener.local_addr().expect("it is the test's own");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.is_ok_and(|it| it == 0) {
                        return;
                    }
                }
                let is_half = String::from_utf8_lossy(&head).contains("x-say: half");
                let length = if is_half { HALF + 1 } else { 0 };
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                let body = "a".repeat(length.saturating_sub(1));
                let _ = stream.write_all((answer + &body).as_bytes()).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    address
}

async fn half_grpc() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("it is the test's own");
    let address = listener.local_addr().expect("it is the test's own");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.ok()?;
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        let said = said(&request);
                        let mut body = request.into_body();
                        let mut question = Vec::new();
                        while let Some(Ok(data)) = body.data().await {
                            question.extend_from_slice(&data);
                        }
                        let head = Response::builder().header("content-type", "application/grpc");
                        let head = head.body(()).expect("it is the test's own");
                        let mut stream = respond.send_response(head, false)?;
                        if said(&question[5..]) == "half" {
                            return flood(&mut stream, HALF).await;
                        }
                        stream.send_data(Bytes::from_static(b"\0\0\0\0\0"), false)?;
                        let ok = (
                            "grpc-status".parse().expect("a name"),
                            HeaderValue::from_static("0"),
                        );
                        stream.send_trailers(HeaderMap::from_iter([ok]))
                    });
                }
                Some(())
            });
        }
    });
    address
}
