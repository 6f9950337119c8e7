//! Requests with the same hash go to the same host, the one that a real Envoy chooses; a cookie
//! that a policy makes leads to the same host again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{io::Write, net::SocketAddr, path::PathBuf};

use crate::{
    envoy::Envoy,
    support::{Bench, exchange, read_head, server},
};

/// Header fields and path of one request.
type Case = (String, String);

#[tokio::test]
async fn requests_go_where_envoy_sends_them() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED requests_go_where_envoy_sends_them: ENVOY_BIN is not set");
        return;
    };
    let yaml = yaml();
    let ours = Bench::start(&yaml).await;
    let envoy = Envoy::start(&binary, &yaml, 2).await;
    let sides = [envoy.address("front"), ours.address("front")];
    let mut differences = Vec::new();
    let mut chosen = std::collections::BTreeSet::new();
    for (fields, path) in cases() {
        let mut hosts = Vec::new();
        for front in sides {
            hosts.push(host(&get(front, &path, &fields).await));
        }
        chosen.insert(hosts[1].clone());
        if hosts[0] != hosts[1] {
            differences.push((path, fields, hosts));
        }
    }
    assert!(
        differences.is_empty(),
        "Envoy's host, ours: {differences:#?}"
    );
    assert_eq!(chosen.len(), 3, "all hosts are used");
}

/// Sessions of a TCP proxy, by their client's address.
#[tokio::test]
async fn sessions_of_one_address_go_where_envoy_sends_them() {
    let yaml = yaml();
    let ours = Bench::start(&yaml).await;
    let envoy = match std::env::var_os("ENVOY_BIN").map(PathBuf::from) {
        Some(binary) => Some(Envoy::start(&binary, &yaml, 2).await),
        None => {
            eprintln!("SKIPPED sessions_of_one_address with Envoy: ENVOY_BIN is not set");
            None
        }
    };
    let mut chosen = std::collections::BTreeSet::new();
    // Enough for three hosts, wherever their ports put them on the ring.
    for last in 1..100 {
        let client = [127, 0, 0, last];
        let host = session(client, ours.address("tcp")).await;
        assert_eq!(host, session(client, ours.address("tcp")).await, "{last}");
        if let Some(envoy) = &envoy {
            assert_eq!(host, session(client, envoy.address("tcp")).await, "{last}");
        }
        chosen.insert(host);
    }
    assert_eq!(chosen.len(), 3, "all hosts are used");
}

/// The host that answers a client at this address.
async fn session(client: [u8; 4], front: SocketAddr) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((client, 0).into()).unwrap();
    let mut stream = socket.connect(front).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let count = stream.read_buf(&mut answer).await.unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&answer));
    }
    host(&String::from_utf8_lossy(&answer))
}

#[tokio::test]
async fn a_cookie_leads_to_the_same_host_again() {
    let yaml = yaml();
    let proxy = Bench::start(&yaml).await;
    let front = proxy.address("front");
    for path in ["/ring-new", "/maglev-new"] {
        let answer = get(front, path, "").await;
        let cookie = field(&answer, "set-cookie: ");
        let (value, attributes) = cookie.split_once("; ").unwrap();
        assert!(value.starts_with("s=\""), "{cookie}");
        assert_eq!(attributes, "Max-Age=60; Path=/p; HttpOnly");
        for _ in 0..4 {
            let again = get(front, path, &format!("Cookie: x=y; {value}\r\n")).await;
            assert_eq!(host(&again), host(&answer));
            assert_eq!(field(&again, "set-cookie: "), "", "it has one");
        }
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for i in 0..12 {
        cases.push((format!("X-Key: value {i}\r\n"), "/ring".to_owned()));
        cases.push((format!("X-Key: value {i}\r\n"), "/weighted".to_owned()));
        cases.push((format!("X-Key: value {i}\r\n"), "/located".to_owned()));
        cases.push((format!("Cookie: a=b; s={i}; c=d\r\n"), "/cookie".to_owned()));
        cases.push((String::new(), format!("/query?a=b&q={i}")));
        cases.push((format!("X-Key: {i}\r\nCookie: s=1\r\n"), "/both".to_owned()));
        cases.push((
            format!("X-Key: {i}\r\nCookie: s={i}\r\n"),
            "/first".to_owned(),
        ));
        cases.push((format!("X-Key: value {i}\r\n"), "/maglev".to_owned()));
    }
    cases.push((String::new(), "/address".to_owned()));
    cases
}

async fn get(front: SocketAddr, path: &str, fields: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n");
    exchange(front, &request).await
}

fn host(answer: &str) -> String {
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    field(answer, "x-host: ")
}

fn field(answer: &str, name: &str) -> String {
    let mut lines = answer.lines();
    let line = lines.find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().to_owned()
}

fn yaml() -> String {
    let answer = |name: &'static str| {
        let address = server(move |mut stream| {
            while !read_head(&mut stream).is_empty() {
                let head =
                    format!("HTTP/1.1 200 OK\r\nx-host: {name}\r\nContent-Length: 0\r\n\r\n");
                if stream.write_all(head.as_bytes()).is_err() {
                    return;
                }
            }
        });
        address.port().to_string()
    };
    include_str!("hashing.yaml")
        .replace("HOST_A", &answer("a"))
        .replace("HOST_B", &answer("b"))
        .replace("HOST_C", &answer("c"))
}
