//! The PROXY protocol, read and written, by this proxy and by a real Envoy with the same file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
};

use crate::{
    envoy::Envoy,
    like_envoy::normal,
    support::{Bench, connect, exchange, read_head, server},
};

const GET: &str =
    "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 8.8.8.8\r\nConnection: close\r\n\r\n";
const V1: &str = "PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n";
const V1_V6: &str = "PROXY TCP6 2001:db8::1 2001:db8::2 9 10\r\n";
/// 1.2.3.4:9 to 5.6.7.8:10.
const V2: &str = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x09\0\x0a";
const V2_LOCAL: &str = "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn yaml() -> String {
    include_str!("proxy_protocol.yaml").replace("ORIGIN_PORT", &origin().port().to_string())
}

#[tokio::test]
async fn headers_are_read_like_envoys() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED headers_are_read_like_envoys: ENVOY_BIN is not set");
        return;
    };
    let yaml = yaml();
    let ours = Bench::start(&yaml).await;
    let envoy = Envoy::start(&binary, &yaml, 6).await;
    let mut differences = Vec::new();
    for (listener, sent) in cases() {
        let (a, b) = (ours.address(listener), envoy.address(listener));
        let expected = seen(&exchange(b, &sent).await, b);
        let found = seen(&exchange(a, &sent).await, a);
        if expected != found {
            differences.push(format!("{sent:?}\nEnvoy: {expected:#?}\nours: {found:#?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
    let ours = ours.stop().await;
    let envoy = envoy.lines(ours.lines().count()).await;
    let known = |line: &str| line.starts_with("1.") || line.starts_with("[2001:");
    let ours: Vec<_> = ours.lines().filter(|line| known(line)).collect();
    let envoy: Vec<_> = envoy.iter().filter(|line| known(line)).collect();
    assert!(ours.len() > 10, "{ours:?}");
    assert_eq!(ours, envoy, "access logs");
}

/// Without which request on its upstream connection it was.
fn seen(answer: &str, proxy: SocketAddr) -> Vec<String> {
    let lines = normal(answer, proxy).into_iter();
    let without = |line: String| match line.split_once(" request ") {
        Some((header, _)) => header.to_owned(),
        None => line,
    };
    lines.map(without).collect()
}

fn cases() -> Vec<(&'static str, String)> {
    let mut cases = Vec::new();
    for header in HEADERS {
        for listener in ["strict", "optional", "only2"] {
            cases.push((listener, format!("{header}{GET}")));
        }
    }
    // The client's ends, as policies, chains and clusters see them.
    for ip in ["9.9.9.9", "9.9.9.8", "9.9.9.7"] {
        cases.push(("strict", format!("PROXY TCP4 {ip} 5.6.7.8 9 10\r\n{GET}")));
    }
    cases.push((
        "strict",
        format!("PROXY TCP4 1.1.1.1 9.9.9.6 9 10\r\n{GET}"),
    ));
    for ends in [
        "1.2.3.4 5.6.7.8 9 11",
        "1.2.4.4 5.6.7.8 9 10",
        "1.2.4.4 5.6.7.8 9 11",
    ] {
        cases.push(("matching", format!("PROXY TCP4 {ends}\r\n{GET}")));
    }
    for path in ["/v1", "/v2"] {
        let get = GET.replacen('/', path, 1);
        for header in [V1, V1_V6, V2] {
            cases.push(("strict", format!("{header}{get}")));
        }
    }
    for header in [V1, V1_V6, V2] {
        cases.push(("tcp", format!("{header}{GET}")));
    }
    let port = origin().port();
    let original = GET.replacen('/', "/original", 1);
    cases.push((
        "strict",
        format!("PROXY TCP4 1.2.3.4 127.0.0.1 9 {port}\r\n{original}"),
    ));
    cases.push(("plain", original));
    // Half a header, and then nothing.
    cases.push(("strict", "PROXY TCP4 1.2".into()));
    cases.push(("strict", V2[..20].into()));
    cases
}

const HEADERS: &[&str] = &[
    V1,
    V1_V6,
    V2,
    V2_LOCAL,
    "",
    "PROXY UNKNOWN\r\n",
    "PROXY UNKNOWN 1.2.3.4 5.6.7.8 9 10\r\n",
    "PROXY UNKNOWN a b\r\n",
    "PROXY\r\n",
    "PROXY \r\n",
    "PROXY TCP4\r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 9\r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 9 10 11\r\n",
    "PROXY TCP4  1.2.3.4 5.6.7.8 9 10\r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 9 10 \r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 9 65536\r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 9 x\r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 0 0\r\n",
    "PROXY TCP4 1.2.3.256 5.6.7.8 9 10\r\n",
    "PROXY TCP4 1.2.3 5.6.7.8 9 10\r\n",
    "PROXY TCP4 ::1 ::2 9 10\r\n",
    "PROXY TCP6 1.2.3.4 5.6.7.8 9 10\r\n",
    "PROXY TCP6 ::ffff:1.2.3.4 ::ffff:5.6.7.8 9 10\r\n",
    "PROXY TCP4 0.0.0.0 5.6.7.8 9 10\r\n",
    "PROXY TCP4 1.2.3.4 255.255.255.255 9 10\r\n",
    "PROXY TCP4 224.0.0.1 5.6.7.8 9 10\r\n",
    "PROXY TCP6 ff02::1 ::1 9 10\r\n",
    "PROXY UDP4 1.2.3.4 5.6.7.8 9 10\r\n",
    "proxy TCP4 1.2.3.4 5.6.7.8 9 10\r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 9 10\n",
    "PROXYx TCP4 1.2.3.4 5.6.7.8 9 10\r\n",
    "\r\n",
    // With what is skipped: three bytes, and an address besides.
    "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\x01\x02\x03\x04\x05\x06\x07\x08\0\x09\0\x0a\x04\0\x01x",
    "\r\n\r\n\0\r\nQUIT\n\x20\x11\0\x03abc",
    // Too short, too far a version, an unknown command, no family, no transport, Unix.
    "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x08\x01\x02\x03\x04\x05\x06\x07\x08",
    "\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x09\0\x0a",
    "\r\n\r\n\0\r\nQUIT\n\x22\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x09\0\x0a",
    "\r\n\r\n\0\r\nQUIT\n\x21\0\0\0",
    "\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x09\0\x0a",
    "\r\n\r\n\0\r\nQUIT\n\x21\x31\0\x04abcd",
    "\r\n\r\n\0\r\nQUIT\n\x21\x10\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x09\0\x0a",
];

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let bench = Bench::start(&yaml()).await;
    for header in [V1, V2] {
        let mut stream = connect(bench.address("strict"));
        stream.set_nodelay(true).unwrap();
        for byte in format!("{header}{GET}").as_bytes() {
            stream.write_all(&[*byte]).unwrap();
            tokio::task::yield_now().await;
        }
        let answer = to_end(stream).await;
        assert!(
            answer.contains("x-forwarded-for: 8.8.8.8,1.2.3.4\r\n"),
            "{answer}"
        );
        assert!(answer.contains("x-local: 5.6.7.8:10\r\n"), "{answer}");
    }
}

/// Whoever reads the header believes it for all that follows on the connection.
#[tokio::test]
async fn clients_do_not_share_an_upstream_connection() {
    let bench = Bench::start(&yaml()).await;
    let get = "GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n";
    let ask = |header: &'static str| {
        let address = bench.address("strict");
        move || {
            let mut stream = connect(address);
            stream.write_all(header.as_bytes()).unwrap();
            let mut ask = || {
                stream.write_all(get.as_bytes()).unwrap();
                let head = read_head(&mut stream);
                assert!(head.starts_with("HTTP/1.1 200"), "{head}");
                let length = head
                    .lines()
                    .find_map(|it| it.strip_prefix("content-length: "));
                let mut body = vec![0; length.unwrap().parse().unwrap()];
                stream.read_exact(&mut body).unwrap();
                String::from_utf8(body).unwrap()
            };
            [ask(), ask()]
        }
    };
    for header in [V1, V1_V6] {
        let answers = tokio::task::spawn_blocking(ask(header)).await.unwrap();
        let told = header.trim_end();
        // The second request came on the first one's connection, and on no other.
        for (answer, number) in answers.iter().zip(1..) {
            assert!(
                answer.starts_with(&format!("{told:?} request {number}\r\n")),
                "{answer}"
            );
        }
    }
}

async fn to_end(mut stream: TcpStream) -> String {
    let read = move || {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

/// A server that answers with the PROXY header of the connection, the number of the request on it,
/// and the request.
fn origin() -> SocketAddr {
    server(|mut stream| {
        let header = proxy_header(&mut stream);
        for number in 1.. {
            let head = read_head(&mut stream);
            if head.is_empty() {
                return;
            }
            let body = format!("{header:?} request {number}\r\n{head}");
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let sent = stream.write_all(answer.as_bytes());
            if sent.is_err() || head.to_lowercase().contains("connection: close") {
                return;
            }
        }
    })
}

fn proxy_header(stream: &mut TcpStream) -> String {
    let mut first = [0; 6];
    match stream.peek(&mut first) {
        Ok(6) if &first == b"PROXY " => {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                line.push(byte[0]);
            }
            String::from_utf8_lossy(&line).trim_end().to_owned()
        }
        Ok(_) if first.starts_with(b"\r\n") => {
            let mut head = [0; 16];
            stream.read_exact(&mut head).unwrap();
            let mut rest = vec![0; usize::from(u16::from_be_bytes([head[14], head[15]]))];
            stream.read_exact(&mut rest).unwrap();
            format!("{head:?} {rest:?}")
        }
        _ => String::new(),
    }
}
