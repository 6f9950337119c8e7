//! The status and health ports under a hostile neighbour.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use crate::{
    lab::{LIMIT, http},
    status::sidecar,
};

/// More than the servers have places, by far; a test that may open more opens more.
const CONNECTIONS: usize = 2000;
/// Within this the kubelet must have its answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// The kubelet's failure threshold: the container is given up when so many in a row are late.
const PROBES: usize = 3;

/// Sends bytes and reads all that comes back.
fn raw(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // A server that has heard enough may close while we write.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// An address of this host that is not loopback, if it has one.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent; the address is of a range for documentation.
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().unwrap().ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

#[test]
fn a_neighbour_changes_nothing() {
    let Some(ip) = outer_address() else {
        println!("a_neighbour_changes_nothing: skipped, this host has loopback alone");
        return;
    };
    let (_lab, mut agent) = sidecar("builtin", &[("METRICS_LOCALHOST_ACCESS_ONLY", "true")]);
    let addr = SocketAddr::new(ip, agent.ports.status);
    for request in [
        "POST /quitquitquit HTTP/1.1\r\nhost: localhost\r\n",
        "POST /quitquitquit HTTP/1.0\r\n",
        "POST /drain HTTP/1.1\r\nhost: 127.0.0.1:15020\r\nx-forwarded-for: 127.0.0.1\r\n",
        "POST /drain HTTP/1.1\r\nhost: localhost\r\nforwarded: for=127.0.0.1\r\n",
        "POST /quitquitquit HTTP/1.1\r\nhost: localhost\r\nx-real-ip: 127.0.0.1\r\n",
        "POST http://localhost/quitquitquit HTTP/1.1\r\nhost: localhost\r\n",
        "POST http://127.0.0.1:15020/drain HTTP/1.1\r\nhost: 127.0.0.1:15020\r\n",
        "GET /debug/status HTTP/1.1\r\nhost: localhost\r\n",
        "GET /debug/ndsz HTTP/1.1\r\nhost: localhost\r\n",
        "GET /debug/pprof/cmdline HTTP/1.1\r\nhost: localhost\r\n",
        "GET /stats/prometheus HTTP/1.1\r\nhost: localhost\r\n",
        "GET /metrics HTTP/1.1\r\nhost: localhost\r\n",
    ] {
        let answer = raw(
            addr,
            format!("{request}connection: close\r\n\r\n").as_bytes(),
        );
        assert_eq!(answer.split(' ').nth(1), Some("403"), "{request}: {answer}");
    }
    let scrape = b"GET /stats/prometheus HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = raw(SocketAddr::new(ip, agent.ports.prometheus), scrape);
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    // The second of two requests is judged like the first.
    let two = "GET /healthz/ready HTTP/1.1\r\nhost: a\r\n\r\nPOST /quitquitquit HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let answer = raw(addr, two.as_bytes());
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("HTTP/1.1 403"),
        "{answer}"
    );
    // What a neighbour may know.
    let ready = raw(
        addr,
        b"GET /healthz/ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    );
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    assert!(agent.process.is_alive());
    assert_eq!(http(agent.ports.status, "GET", "/metrics").unwrap().0, 200);
}

#[test]
fn who_was_lured_or_carried_here_changes_nothing() {
    let (_lab, mut agent) = sidecar("builtin", &[]);
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, agent.ports.status));
    for request in [
        "POST /quitquitquit HTTP/1.1\r\nhost: rebound.example.com\r\n",
        "POST /drain HTTP/1.1\r\nhost: localhost\r\norigin: http://example.com\r\n",
        "POST /drain HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: 10.0.0.9\r\n",
        "POST http://example.com/quitquitquit HTTP/1.1\r\nhost: localhost\r\n",
        "GET /debug/status HTTP/1.1\r\nhost: rebound.example.com\r\n",
    ] {
        let answer = raw(
            addr,
            format!("{request}connection: close\r\n\r\n").as_bytes(),
        );
        assert_eq!(answer.split(' ').nth(1), Some("403"), "{request}: {answer}");
    }
    assert!(agent.process.is_alive());
    assert_eq!(http(agent.ports.status, "POST", "/drain").unwrap().0, 200);
}

#[test]
fn what_is_no_request_is_refused() {
    let (_lab, mut agent) = sidecar("builtin", &[]);
    let huge = format!(
        "GET /healthz/ready HTTP/1.1\r\na: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let many = format!(
        "GET /healthz/ready HTTP/1.1\r\n{}\r\n",
        "a: b\r\n".repeat(10_000)
    );
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    for port in [agent.ports.status, agent.ports.health] {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        for (bytes, expected) in [
            (huge.as_bytes(), &["431", ""][..]),
            (many.as_bytes(), &["431", ""]),
            (long.as_bytes(), &["414", "431", ""]),
            (b"\x16\x03\x01\x02\x00\x01", &["400", ""]),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &["400", "505", ""]),
            (
                b"GET / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
                &["400"],
            ),
            (
                b"CONNECT localhost:15000 HTTP/1.1\r\nhost: localhost:15000\r\n\r\n",
                &["400", "404"],
            ),
            (
                b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n",
                &["400", "404"],
            ),
            (
                b"POST /../quitquitquit HTTP/1.1\r\nhost: localhost\r\n\r\n",
                &["307", "404"],
            ),
            (
                b"POST //quitquitquit HTTP/1.1\r\nhost: localhost\r\n\r\n",
                &["307", "404"],
            ),
            (
                b"POST /quitquitquit%00 HTTP/1.1\r\nhost: localhost\r\n\r\n",
                &["404"],
            ),
        ] {
            let answer = raw(addr, bytes);
            let status = answer.split(' ').nth(1).unwrap_or_default();
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
            assert!(expected.contains(&status), "{shown}: {answer}");
        }
        assert_eq!(http(port, "GET", "/healthz/ready").unwrap().0, 200);
    }
    assert!(agent.process.is_alive());
}

/// Each of these holds a connection open and says nothing useful on it.
#[test]
fn silent_connections_do_not_keep_the_kubelet_waiting() {
    let (_lab, agent) = sidecar("builtin", &[]);
    for port in [agent.ports.health, agent.ports.status] {
        let mut open = Vec::with_capacity(CONNECTIONS);
        for number in 0..CONNECTIONS {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            // Some never begin, some stop in their head, some ask for much and do not read it.
            let begun = match number % 3 {
                0 => "",
                1 => "GET /healthz/ready HTTP/1.1\r\nhost: ",
                _ => "GET /stats/prometheus HTTP/1.1\r\nhost: a\r\n\r\n",
            };
            let _ = stream.write_all(begun.as_bytes());
            open.push(stream);
            if number % 200 == 0 {
                let fastest = (0..PROBES).map(|_| {
                    let asked = Instant::now();
                    assert_eq!(http(port, "GET", "/healthz/ready").unwrap().0, 200);
                    asked.elapsed()
                });
                let fastest = fastest.min().unwrap();
                assert!(fastest < PROBE_TIMEOUT, "{number} connections: {fastest:?}");
            }
        }
    }
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", agent.process.id()))
        .unwrap()
        .count();
    assert!(descriptors < 1000, "{descriptors}");
}
