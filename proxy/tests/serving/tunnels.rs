//! CONNECT on both of its ends, and WebSockets over HTTP/2: sessions go through chains of this proxy
//! and a real Envoy in any order, and each asks and answers as the other does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use crate::{
    envoy::Envoy,
    support::{Bench, connect, dead_address, exchange, read_head, server},
};

/// A running proxy of either make.
enum Running {
    Ours(Bench),
    Envoy(Envoy),
}

impl Running {
    async fn start(envoy: bool, yaml: &str) -> Option<Self> {
        if !envoy {
            return Some(Self::Ours(Bench::start(yaml).await));
        }
        let binary = std::env::var_os("ENVOY_BIN").map(PathBuf::from)?;
        let listeners = yaml.matches("filter_chains").count();
        Some(Self::Envoy(Envoy::start(&binary, yaml, listeners).await))
    }

    fn address(&self, listener: &str) -> SocketAddr {
        match self {
            Self::Ours(bench) => bench.address(listener),
            Self::Envoy(envoy) => envoy.address(listener),
        }
    }
}

/// Whether the test can compare; otherwise it says that it does not.
fn has_envoy(test: &str) -> bool {
    let found = std::env::var_os("ENVOY_BIN").is_some();
    if !found {
        eprintln!("SKIPPED {test} with Envoy: ENVOY_BIN is not set");
    }
    found
}

/// The far end: what ends tunnels, and what passes them on to such.
fn back(echo: SocketAddr, ends: [SocketAddr; 2]) -> String {
    include_str!("tunnels_back.yaml")
        .replace("ECHO_PORT", &echo.port().to_string())
        .replace("DEAD_PORT", &dead_address().port().to_string())
        .replace("END1_PORT", &ends[0].port().to_string())
        .replace("END2_PORT", &ends[1].port().to_string())
}

/// What all TCP proxies have.
const TCP_PROXY: &str = concat!(
    r#""@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: x, "#,
    r#"access_log: [{name: file, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, "#,
    r#"path: LOG_PATH, log_format: {text_format_source: {inline_string: "%RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% "#,
    r#"%UPSTREAM_CLUSTER% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %UPSTREAM_TRANSPORT_FAILURE_REASON%\n"}}}}]"#,
);

/// `headers_to_add` of one of them.
const HEADERS: &str = r#"
    {header: {key: X-Literal, value: one}}, {header: {key: x-literal, value: two}},
    {header: {key: x-client, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}},
    {header: {key: x-set, value: a}, append_action: OVERWRITE_IF_EXISTS_OR_ADD},
    {header: {key: x-set, value: b}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}"#;

/// The near end: TCP proxies that ask for tunnels.
fn front(proxies: [SocketAddr; 2]) -> String {
    include_str!("tunnels_front.yaml")
        .replace("TCP_PROXY", TCP_PROXY)
        .replace("HEADERS", HEADERS)
        .replace("PROXY1_PORT", &proxies[0].port().to_string())
        .replace("PROXY2_PORT", &proxies[1].port().to_string())
}

fn echo() -> SocketAddr {
    server(|mut stream| {
        let mut all = [0; 7];
        if stream.read_exact(&mut all).is_ok() {
            let _ = stream.write_all(&all);
        }
    })
}

/// Answers once the client has ended.
fn late_echo() -> SocketAddr {
    server(|mut stream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = stream.write_all(&all);
    })
}

/// Sends, ends if told so, and reads to the end.
async fn talk(address: SocketAddr, text: &'static [u8], ends: bool) -> Vec<u8> {
    let talk = move || {
        let mut stream = connect(address);
        // A refusal may come first.
        let _ = stream.write_all(text);
        if ends {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    };
    tokio::task::spawn_blocking(talk).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_go_through_proxies_of_either_make() {
    let envoy = has_envoy("sessions_go_through_proxies_of_either_make");
    let dead = dead_address();
    for (far, near) in [(false, false), (true, false), (false, true)] {
        if (far || near) && !envoy {
            continue;
        }
        let ends = Running::start(far, &back(echo(), [dead, dead]))
            .await
            .unwrap();
        let addresses = [ends.address("end1"), ends.address("end2")];
        let middle = Running::start(far, &back(echo(), addresses)).await.unwrap();
        let (pass1, pass2) = (middle.address("pass1"), middle.address("pass2"));
        for proxies in [addresses, [pass1, pass1], [pass2, pass2]] {
            let near = Running::start(near, &front(proxies)).await.unwrap();
            for listener in ["connect1", "connect2"] {
                let answer = talk(near.address(listener), b"through", false).await;
                let text = String::from_utf8_lossy(&answer);
                assert_eq!(text, "through", "{far} {} {listener}", proxies[0]);
            }
        }
    }
}

/// Envoy closes an HTTP/1 connection whose client has ended; we do not.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_one_direction_leaves_the_other_open() {
    let dead = dead_address();
    let ends = Bench::start(&back(late_echo(), [dead, dead])).await;
    let near = Bench::start(&front([ends.address("end1"), ends.address("end2")])).await;
    for listener in ["connect1", "connect2"] {
        let answer = talk(near.address(listener), b"question", true).await;
        assert_eq!(String::from_utf8_lossy(&answer), "question", "{listener}");
    }
}

/// A proxy that gives each connection the same answer, once it is open; what it was asked is told, and
/// what comes behind it where that answer `opens` a tunnel.
fn scripted(
    answer: &'static str,
    opens: bool,
) -> (SocketAddr, mpsc::Receiver<String>, Arc<AtomicBool>) {
    let (sender, asked) = mpsc::channel();
    let open = Arc::new(AtomicBool::new(false));
    let is_open = Arc::clone(&open);
    let address = server(move |mut stream: TcpStream| {
        if !is_open.load(Ordering::Relaxed) {
            return;
        }
        let head = read_head(&mut stream);
        if head.is_empty() {
            return;
        }
        let _ = sender.send(head.clone());
        let _ = stream.write_all(answer.as_bytes());
        if opens {
            let mut body = Vec::new();
            let mut buffer = [0; 100];
            let came = |body: &[u8]| body.windows(4).any(|part| part == b"ping");
            while !came(&body) {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => return,
                    Ok(count) => body.extend_from_slice(&buffer[..count]),
                }
            }
            let _ = sender.send("ping".to_owned());
        }
    });
    (address, asked, open)
}

/// The lines of a head, sorted: their order says nothing. Ids and versions of their own are left out.
fn lines(head: &str) -> Vec<String> {
    let (first, rest) = head.split_once("\r\n").unwrap_or((head, ""));
    let known = [
        "server: ",
        "date: ",
        "x-request-id: ",
        "x-envoy-upstream-service-time: ",
    ];
    let rest = rest.lines().filter(|line| !line.is_empty());
    let rest = rest.filter(|line| !known.iter().any(|name| line.starts_with(name)));
    let mut rest: Vec<_> = rest.map(str::to_owned).collect();
    rest.sort();
    rest.insert(0, first.to_owned());
    rest
}

/// The lines are what Envoy logs, too, but for the order of the flags.
#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_asked_and_understood_as_by_envoy() {
    let envoy = has_envoy("proxies_are_asked_and_understood_as_by_envoy");
    let bad = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    for (listener, answer, says, line) in [
        (
            "connect1",
            "HTTP/1.1 200 OK\r\n\r\npong",
            "pong",
            "- 4 4 proxy1 1 -",
        ),
        (
            "connect1",
            "HTTP/1.1 204 Fine\r\nX: y\r\n\r\npong",
            "pong",
            "- 4 4 proxy1 1 -",
        ),
        (
            "headers",
            "HTTP/1.1 200 OK\r\n\r\npong",
            "pong",
            "- 4 4 proxy1 1 -",
        ),
        (
            "connect1",
            bad,
            "",
            "UF,URX 0 0 proxy1 1 tunnel_response:403",
        ),
        ("twice", bad, "", "UF,URX 0 0 proxy1 2 tunnel_response:403"),
        ("connect1", "", "", "UF,URX 0 0 proxy1 1 -"),
        ("connect1", "no HTTP\r\n\r\n", "", "UF,URX 0 0 proxy1 1 -"),
        (
            "post1",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npong\r\n0\r\n\r\n",
            "pong",
            "- 4 4 proxy1 1 -",
        ),
        (
            "post1",
            "HTTP/1.1 204 No\r\n\r\n",
            "",
            "UF,URX 0 0 proxy1 1 tunnel_response:204",
        ),
    ] {
        let (proxy, asked, open) = scripted(answer, !says.is_empty());
        open.store(true, Ordering::Relaxed);
        let ours = Bench::start(&front([proxy, dead_address()])).await;
        let said = talk(ours.address(listener), b"ping", false).await;
        assert_eq!(
            String::from_utf8_lossy(&said),
            says,
            "{listener} {answer:?}"
        );
        assert_eq!(ours.lines(1).await, [line], "{listener} {answer:?}");
        let mut expected: Vec<_> = asked.try_iter().map(|head| lines(&head)).collect();
        assert!(!expected.is_empty(), "{listener} {answer:?}");
        if !envoy {
            continue;
        }
        let (proxy, asked, open) = scripted(answer, !says.is_empty());
        let theirs = Running::start(true, &front([proxy, dead_address()]))
            .await
            .unwrap();
        open.store(true, Ordering::Relaxed);
        let said = talk(theirs.address(listener), b"ping", false).await;
        if listener == "post1" {
            // Envoy may cut a POST off whose answer is whole before it is.
            expected.truncate(1);
        } else {
            let said = String::from_utf8_lossy(&said);
            assert_eq!(said, says, "{listener} {answer:?}");
        }
        // It may also have asked for those who looked whether it accepts.
        while !expected.is_empty() {
            let told = asked.recv_timeout(Duration::from_secs(20));
            let told = told.unwrap_or_else(|_| panic!("Envoy does not ask: {expected:?}"));
            let told = lines(&told);
            if let Some(at) = expected.iter().position(|it| *it == told) {
                expected.remove(at);
            }
        }
    }
}

/// What a proxy answers to a request, and to whom.
#[tokio::test(flavor = "multi_thread")]
async fn requests_for_tunnels_are_answered_as_by_envoy() {
    if !has_envoy("requests_for_tunnels_are_answered_as_by_envoy") {
        return;
    }
    let dead = dead_address();
    let mut differences = Vec::new();
    let proxies = [
        Running::start(true, &back(echo(), [dead, dead]))
            .await
            .unwrap(),
        Running::start(false, &back(echo(), [dead, dead]))
            .await
            .unwrap(),
    ];
    for (listener, target, method) in [
        ("end1", "any.test:443", "CONNECT"),
        ("end1", "dead.test:443", "CONNECT"),
        ("end1", "plain.test:443", "CONNECT"),
        ("pass1", "any.test:443", "CONNECT"),
        ("end1", "/", "GET"),
    ] {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: any.test:443\r\nConnection: close\r\n\r\n"
        );
        let mut answers = Vec::new();
        for proxy in &proxies {
            let talk = {
                let (address, request) = (proxy.address(listener), request.clone());
                move || {
                    let mut stream = connect(address);
                    stream.write_all(request.as_bytes()).unwrap();
                    read_head(&mut stream)
                }
            };
            let head = tokio::task::spawn_blocking(talk).await.unwrap();
            answers.push(lines(&head));
        }
        if answers[0] != answers[1] {
            differences.push((listener, target, answers));
        }
    }
    assert!(differences.is_empty(), "Envoy, ours: {differences:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_pass_over_http2_between_proxies_of_either_make() {
    let test = "websockets_pass_over_http2_between_proxies_of_either_make";
    let envoy = has_envoy(test);
    let origin = server(|mut stream: TcpStream| {
        let head = read_head(&mut stream).to_ascii_lowercase();
        let asks = head.starts_with("get /chat ") && head.contains("\r\nupgrade: websocket\r\n");
        if !asks || !head.contains("\r\nsec-websocket-key: x\r\n") {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        if head.contains("x-decline: yes") {
            let _ = stream.write_all(b"HTTP/1.1 409 No\r\nContent-Length: 2\r\n\r\nno");
            return;
        }
        let _ = stream.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
              Upgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\nhello",
        );
        let mut said = [0; 4];
        if stream.read_exact(&mut said).is_ok() {
            let _ = stream.write_all(&said);
        }
    });
    let yaml = include_str!("websockets.yaml").replace("ORIGIN_PORT", &origin.port().to_string());
    for (far, near) in [(false, false), (true, false), (false, true)] {
        if (far || near) && !envoy {
            continue;
        }
        let unused = dead_address().port().to_string();
        let far = Running::start(far, &yaml.replace("FAR_PORT", &unused))
            .await
            .unwrap();
        let port = far.address("far").port().to_string();
        let near_yaml = yaml.replace("FAR_PORT", &port);
        let proxy = Running::start(near, &near_yaml).await.unwrap();
        let address = proxy.address("near");
        let talk = move || {
            let mut stream = connect(address);
            stream
                .write_all(
                    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
                      Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
                )
                .unwrap();
            let head = read_head(&mut stream);
            let mut hello = [0; 5];
            stream.read_exact(&mut hello).unwrap();
            stream.write_all(b"ping").unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            (head, hello, rest)
        };
        let (head, hello, rest) = tokio::task::spawn_blocking(talk).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{near} {head}");
        let head = head.to_ascii_lowercase();
        assert!(head.contains("upgrade: websocket"), "{near} {head}");
        assert!(head.contains("sec-websocket-accept: y"), "{near} {head}");
        assert_eq!((&hello, &rest[..]), (b"hello", &b"ping"[..]), "{near}");
        let declined = exchange(
            address,
            "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: x\r\nX-Decline: yes\r\n\r\n",
        )
        .await;
        assert!(declined.starts_with("HTTP/1.1 409 "), "{near} {declined}");
        assert!(declined.ends_with("\r\n\r\nno"), "{near} {declined}");
    }
}
