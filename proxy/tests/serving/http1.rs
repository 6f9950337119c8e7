//! The case of header names, HTTP/1.0, and limits of connections and streams, by this proxy and by a real Envoy with the same file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{io::Write, net::SocketAddr, path::PathBuf, time::Duration};

use crate::{
    envoy::Envoy,
    support::{Bench, exchange, read_head, server},
};

#[tokio::test]
async fn http1_is_spoken_like_envoy_does() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED http1_is_spoken_like_envoy_does: ENVOY_BIN is not set");
        return;
    };
    let yaml = include_str!("http1.yaml").replace("ORIGIN_PORT", &origin().port().to_string());
    let ours = Bench::start(&yaml).await;
    let envoy = Envoy::start(&binary, &yaml, 7).await;
    let mut differences = Vec::new();
    for (listener, request) in cases() {
        let expected = seen(&exchange(envoy.address(listener), &request).await);
        let found = seen(&exchange(ours.address(listener), &request).await);
        if expected != found {
            let missing: Vec<_> = expected.iter().filter(|it| !found.contains(it)).collect();
            let more: Vec<_> = found.iter().filter(|it| !expected.contains(it)).collect();
            differences.push(format!(
                "{listener} {request:?}\nEnvoy's: {missing:#?}\nours: {more:#?}"
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

fn cases() -> Vec<(&'static str, String)> {
    let mut cases = Vec::new();
    for listener in ["lower", "preserve", "words", "proper"] {
        for path in [
            "/",
            "/preserve",
            "/proper",
            "/direct",
            "/chunked",
            "/preserve/chunked",
        ] {
            for (method, fields) in [
                ("GET", ""),
                (
                    "GET",
                    "X-One: 1\r\nx-ONE: 2\r\nTE: trailers\r\nx-forwarded-FOR: 1.2.3.4\r\n",
                ),
                (
                    "POST",
                    "CONTENT-length: 0\r\nX-REQUEST-ID: a\r\nX-New-name: 2\r\n",
                ),
                ("GET", "Via: me\r\nx_y: 1\r\nDNT: 1\r\nX-a.b~c: 1\r\n"),
            ] {
                let head = format!("{method} {path} HTTP/1.1\r\nHOST: a\r\n{fields}");
                cases.push((listener, format!("{head}Connection: close\r\n\r\n")));
            }
        }
    }
    for listener in ["lower", "old", "hosted"] {
        for request in [
            "GET / HTTP/1.0\n\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
            "GET /chunked HTTP/1.0\r\nHost: a\r\n\r\n",
            "GET /direct HTTP/1.0\r\nHost: a\r\n\r\n",
            "HEAD / HTTP/1.0\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\n\r\nab",
            "GET http://c/d HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n\
             GET / HTTP/1.0\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        ] {
            // Who takes old versions takes their line ends, and so do we not.
            if listener == "lower" || !request.ends_with("\n\n") {
                cases.push((listener, request.to_owned()));
            }
        }
    }
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    cases.push(("limited", get.repeat(3)));
    for path in ["/late", "/late/unlimited", "/late/brief", "/direct"] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        cases.push(("limited", head));
    }
    cases
}

/// The lines in one order, without what differs from one answer to the next.
fn seen(answer: &str) -> Vec<String> {
    let line = |line: &str| match line.split_once(": ") {
        Some((name, value)) => {
            let varies = [
                "date",
                "x-envoy-upstream-service-time",
                "x-request-id",
                "x-forwarded-for",
                "x-envoy-external-address",
                "content-length",
            ];
            let is_it = |it: &&str| it.eq_ignore_ascii_case(name);
            let is_fixed = value == "0" && !is_it(&"x-envoy-upstream-service-time");
            match varies.iter().any(is_it) && !is_fixed {
                true => format!("{name}: ..."),
                false => format!("{name}: {value}"),
            }
        }
        None => line.to_owned(),
    };
    let mut lines: Vec<String> = answer.split("\r\n").map(line).collect();
    lines.sort();
    lines
}

/// A server that answers with the request as it came, under names of its own case.
fn origin() -> SocketAddr {
    server(|mut stream| {
        loop {
            let head = read_head(&mut stream);
            if head.is_empty() {
                return;
            }
            if head
                .split(' ')
                .nth(1)
                .is_some_and(|path| path.starts_with("/late"))
            {
                std::thread::sleep(Duration::from_secs(2));
            }
            let own = "X-Of-Origin: 1\r\nSERVER: me\r\nx-ENVOY-upstream-SERVICE-time: 7\r\n";
            let answer = match head.split(' ').nth(1) {
                Some(path) if path.ends_with("/chunked") => {
                    let length = head.len();
                    format!(
                        "{own}Transfer-ENCODING: chunked\r\n\r\n{length:x}\r\n{head}\r\n0\r\n\r\n"
                    )
                }
                _ if head.starts_with("HEAD") => format!("{own}Content-LENGTH: 12\r\n\r\n"),
                _ => format!("{own}Content-LENGTH: {}\r\n\r\n{head}", head.len()),
            };
            let body = head.to_lowercase().contains("content-length: 2");
            if body && std::io::Read::read_exact(&mut stream, &mut [0; 2]).is_err() {
                return;
            }
            if stream
                .write_all(format!("HTTP/1.1 200 OK\r\n{answer}").as_bytes())
                .is_err()
            {
                return;
            }
        }
    })
}
