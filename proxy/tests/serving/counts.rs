//! The same requests to this proxy and to a real Envoy with the same file: what they count must be the
//! same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use crate::{
    envoy::Envoy,
    like_envoy::origin,
    support::{Bench, connect, dead_address, exchange, read_head},
};

/// Where the two differ, and why.
const DIFFERENT: [(&str, &str); 5] = [
    (
        "downstream_rq_rx_reset",
        "Envoy counts the resets that it sends, too",
    ),
    (
        "downstream_cx_delayed_close_timeout",
        "we end our direction at once, by which most clients end theirs",
    ),
    (
        "_open",
        "Envoy looks at a limit when something is counted: nothing is under a limit of none",
    ),
    ("upstream_cx_rx_bytes_buffered", "not counted"),
    ("connections_accepted_per_socket_event", "not counted"),
];

/// Paths, and what else the head of the request says. Each has a connection of its own, which the
/// proxy closes.
const REQUESTS: [(&str, &str); 25] = [
    ("/ok", ""),
    ("/codes", "X-Act: 201\r\n"),
    ("/codes", "X-Act: 301\r\n"),
    ("/codes", "X-Act: 404\r\n"),
    ("/codes", "X-Act: 404\r\n"),
    ("/codes", "X-Act: 503\r\n"),
    ("/codes", "X-Act: break off\r\n"),
    // On a connection that is new: on one that was used before we try again.
    ("/codes", "X-Act: close\r\n"),
    ("/codes", "X-Act: nonsense\r\n"),
    ("/dead", ""),
    ("/none", ""),
    ("/missing", ""),
    ("/full", ""),
    ("/busy", ""),
    ("/slow", "X-Act: hang\r\n"),
    ("/slow", "X-Act: stall\r\n"),
    ("/long", "X-Act: hang\r\n"),
    ("/try", "X-Act: once 503\r\nX-Key: once <proxy>\r\n"),
    ("/try", "X-Act: 503\r\n"),
    ("/try", "X-Act: hang\r\n"),
    ("/no-ws", "Upgrade: websocket\r\n"),
    ("/direct", ""),
    ("/redirect", ""),
    ("/nowhere", ""),
    ("/ok%2fa", ""),
];

#[tokio::test]
async fn counts_are_envoys() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED counts_are_envoys: ENVOY_BIN is not set");
        return;
    };
    let yaml = include_str!("counts.yaml")
        .replace("ORIGIN", &origin().port().to_string())
        .replace("DEAD", &dead_address().port().to_string());
    let ours = Bench::start(&yaml).await;
    let envoy = Envoy::start(&binary, &yaml, 3).await;
    let nothing = BTreeMap::new();
    let before = greeted(envoy.admin).await;
    drive(|name| envoy.address(name), "envoy").await;
    drive(|name| ours.address(name), "proxy").await;
    let mut differences = Vec::new();
    for _ in 0..250 {
        let expected = settled(envoy.admin, &before).await;
        let found = settled(ours.proxy.admin_address().unwrap(), &nothing).await;
        differences = compared(&expected, &found);
        if differences.is_empty() {
            return;
        }
        // The last connections to the origin may end a little later.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{differences:#?}");
}

fn compared(expected: &BTreeMap<String, i64>, found: &BTreeMap<String, i64>) -> Vec<String> {
    let mut differences = Vec::new();
    for (name, expected) in expected {
        let found = found.get(name).unwrap_or(&0);
        if found != expected && !DIFFERENT.iter().any(|(it, _)| name.ends_with(it)) {
            differences.push(format!("{name}: Envoy {expected}, ours {found}"));
        }
    }
    differences
}

async fn drive(address: impl Fn(&str) -> SocketAddr, who: &str) {
    let front = address("front");
    for (path, fields) in REQUESTS {
        let fields = fields.replace("<proxy>", who);
        let connection = match fields.contains("Upgrade") {
            true => "upgrade",
            false => "close",
        };
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n{fields}\r\n");
        exchange(front, &request).await;
    }
    exchange(front, "nonsense\r\n\r\n").await;
    let tcp = (address("tcp"), address("tcp-dead"));
    let talk = move || {
        // The client is first to close.
        let mut client = connect(front);
        for _ in 0..2 {
            get(&mut client, "/brief", "");
        }
        drop(client);
        // The connection has carried its share.
        let mut client = connect(front);
        for _ in 0..3 {
            get(&mut client, "/brief", "");
        }
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        // The client goes in the middle.
        let mut client = connect(front);
        client.write_all(&head("/ok", "X-Act: hang\r\n")).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        drop(client);
        // A tunnel, which the client ends.
        let mut client = connect(front);
        let upgrade = "Upgrade: websocket\r\nConnection: upgrade\r\nX-Act: 101\r\n";
        client.write_all(&head("/ws", upgrade)).unwrap();
        read_head(&mut client);
        drop(client);

        let mut client = connect(tcp.0);
        client.write_all(&head("/tcp", "")).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        let mut client = connect(tcp.0);
        client.write_all(&head("/tcp", "x-act: close\r\n")).unwrap();
        client.read_to_end(&mut answer).unwrap();
        let mut client = connect(tcp.1);
        let _ = client.read_to_end(&mut answer);
    };
    tokio::task::spawn_blocking(talk).await.unwrap();
}

fn head(path: &str, fields: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n{fields}\r\n").into()
}

fn get(client: &mut std::net::TcpStream, path: &str, fields: &str) {
    client.write_all(&head(path, fields)).unwrap();
    let answer = read_head(client);
    let length = answer
        .lines()
        .find_map(|it| it.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    client.read_exact(&mut body).unwrap();
}

/// What is counted once the connections of whoever looked for the listeners are all over: each
/// listener has one or more, and no new one comes.
async fn greeted(admin: SocketAddr) -> BTreeMap<String, i64> {
    let mut before = BTreeMap::new();
    let mut same = 0;
    while same < 10 {
        let counts = settled(admin, &BTreeMap::new()).await;
        let are_greeted = ["front", "tcp", "tcp_dead"]
            .iter()
            .all(|it| counts[&format!("listener.{it}.downstream_cx_total")] > 0);
        same = match are_greeted && counts == before {
            true => same + 1,
            false => 0,
        };
        before = counts;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    before
}

/// What is counted once no client's connection is left, without what was there before.
async fn settled(admin: SocketAddr, before: &BTreeMap<String, i64>) -> BTreeMap<String, i64> {
    for _ in 0..1000 {
        let mut counts = counts(admin).await;
        let active = counts
            .iter()
            .filter(|(name, _)| name.contains("downstream") && name.ends_with("cx_active"));
        if active.map(|(_, count)| count).sum::<i64>() == 0 {
            // Of a histogram it is not a number: what Envoy merges late would be taken away, too.
            let numbers = before.iter().filter(|(name, _)| !is_histogram(name));
            for (name, before) in numbers {
                counts.entry(name.clone()).and_modify(|it| *it -= before);
            }
            return counts;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("connections do not end");
}

/// What is counted of the traffic.
async fn counts(admin: SocketAddr) -> BTreeMap<String, i64> {
    let ask = "GET /stats HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let text = exchange(admin, ask).await;
    text.lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| is_of_traffic(name))
        .map(|(name, value)| {
            // Of a histogram: whether it has values.
            let has_values = !value.starts_with("No recorded");
            (name.to_owned(), value.parse().unwrap_or(has_values.into()))
        })
        .collect()
}

fn is_histogram(name: &str) -> bool {
    name.ends_with("_ms") || name.ends_with("_time")
}

fn is_of_traffic(name: &str) -> bool {
    let scope = name.split('.').next();
    matches!(scope, Some("cluster" | "http" | "tcp" | "listener"))
        && !name.starts_with("http.admin.")
        && !name.starts_with("listener.admin.")
        // They do not follow traffic.
        && !name.contains(".membership_")
}
