//! The TCP proxy as its two sides see it, and its access log lines.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::mpsc,
    time::Duration,
};

use crate::support::{Bench, connect, dead_address, server};

/// `PROXY` holds the fields of the TCP proxy; both it and its listener log to one file.
const CONFIG: &str = r#"
static_resources:
  listeners:
  - name: tcp
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    access_log: [ACCESS]
    filter_chains:
    - name: chain
      MATCH
      filters:
      - name: tcp
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: x, access_log: [ACCESS], PROXY}
  clusters:
  - {name: up, connect_timeout: 5s, load_assignment: {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: up-port}}}}]}]}}
  - {name: dead, connect_timeout: 5s, load_assignment: {cluster_name: dead, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: dead-port}}}}]}]}}
  - {name: empty, connect_timeout: 5s, load_assignment: {cluster_name: empty}}
"#;

const ACCESS: &str = concat!(
    r#"{name: file, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: LOG_PATH, log_format: {text_format_source: {inline_string: "#,
    r#""%PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_HOST% %UPSTREAM_CLUSTER% %UPSTREAM_TRANSPORT_FAILURE_REASON% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %UPSTREAM_WIRE_BYTES_SENT% %FILTER_CHAIN_NAME%\n""#,
    "}}}}",
);

/// Room for what the kernel buffers on the way, on both connections.
const KERNEL_BUFFERS: usize = 32 << 20;

async fn start(proxy: &str, matches: &str, up: SocketAddr, dead: SocketAddr) -> Bench {
    let yaml = CONFIG
        .replace("PROXY", proxy)
        .replace("MATCH", matches)
        .replace("ACCESS", ACCESS)
        .replace("up-port", &up.port().to_string())
        .replace("dead-port", &dead.port().to_string());
    Bench::start(&yaml).await
}

async fn proxy_to(up: SocketAddr) -> Bench {
    start("cluster: up", "", up, dead_address()).await
}

/// Sends all back, until the end or a reset.
fn echo() -> SocketAddr {
    server(|mut stream| {
        let mut buffer = [0; 1 << 16];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(count) if stream.write_all(&buffer[..count]).is_err() => return,
                Ok(_) => {}
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_may_have_several_addresses() {
    let up = echo();
    let socket =
        |port: u16| format!("{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}");
    let (dead, alive) = (socket(dead_address().port()), socket(up.port()));
    let yaml = CONFIG
        .replace("PROXY", "cluster: both")
        .replace("MATCH", "")
        .replace("ACCESS", ACCESS)
        .replace("up-port", "1")
        .replace("dead-port", "1")
        + &format!(
            "  - {{name: both, load_assignment: {{cluster_name: both, endpoints: [{{lb_endpoints: \
             [{{endpoint: {{address: {dead}, additional_addresses: [{{address: {alive}}}]}}}}]}}]}}}}\n"
        );
    let bench = Bench::start(&yaml).await;
    let mut client = connect(bench.address("tcp"));
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client).unwrap(), b"hello");
}

/// What comes until the end; a reset is an error.
fn read_to_end(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).map(|_| all)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_and_its_listener_log_each_session() {
    let (up, dead) = (echo(), dead_address());
    let refused = "delayed_connect_error:_Connection_refused";
    for (proxy, matches, expected) in [
        (
            "cluster: up",
            "",
            format!("- 0 - - 5 5 {up} up - 1 5 chain"),
        ),
        (
            "cluster: dead, max_connect_attempts: 2",
            "",
            format!("- 0 UF,URX - 0 0 {dead} dead {refused} 2 0 chain"),
        ),
        ("cluster: none", "", "- 0 NC - 0 0 - - - 0 0 chain".into()),
        (
            "cluster: empty",
            "",
            "- 0 UH - 0 0 - empty - 0 0 chain".into(),
        ),
        (
            "cluster: up, idle_timeout: 0.9s",
            "",
            format!("- 0 - - 5 5 {up} up - 1 5 chain"),
        ),
        (
            "cluster: up, max_downstream_connection_duration: 0.9s",
            "",
            format!("- 0 DT - 5 5 {up} up - 1 5 chain"),
        ),
        (
            "cluster: up",
            "filter_chain_match: {server_names: [a.test]}",
            "- 0 NR filter_chain_not_found 0 0 - - - 0 0 -".into(),
        ),
    ] {
        let bench = start(proxy, matches, up, dead).await;
        let mut client = connect(bench.address("tcp"));
        client.write_all(b"hello").unwrap();
        if proxy == "cluster: up" {
            client.shutdown(Shutdown::Write).unwrap();
        }
        // It ends: by itself, by a time limit, or refused.
        let _ = read_to_end(&mut client);
        let count = if matches.is_empty() { 2 } else { 1 };
        for line in bench.lines(count).await {
            assert_eq!(line, expected, "{proxy}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_may_end_first_and_still_be_sent_to() {
    // The server answers only after the client's end.
    let up = server(|mut stream| {
        let all = read_to_end(&mut stream).expect("the client ends well");
        stream.write_all(&all).expect("the client reads");
    });
    let bench = proxy_to(up).await;
    let mut client = connect(bench.address("tcp"));
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client).unwrap(), b"question");

    // The server ends first, and goes on reading.
    let (sender, received) = mpsc::channel();
    let up = server(move |mut stream| {
        stream.write_all(b"greeting").expect("the client reads");
        stream.shutdown(Shutdown::Write).expect("it is open");
        let _ = sender.send(read_to_end(&mut stream).expect("the client ends well"));
    });
    let bench = proxy_to(up).await;
    let mut client = connect(bench.address("tcp"));
    assert_eq!(read_to_end(&mut client).unwrap(), b"greeting");
    client.write_all(b"farewell").unwrap();
    drop(client);
    assert_eq!(received.recv().unwrap(), b"farewell");
}

#[tokio::test(flavor = "multi_thread")]
async fn much_passes_both_ways_at_once_unchanged() {
    const SIZE: usize = 48 << 20;
    let bench = proxy_to(echo()).await;
    let mut client = connect(bench.address("tcp"));
    let sent: Vec<u8> = (0..SIZE).map(|i| (i / 251 + i) as u8).collect();
    let mut writer = client.try_clone().unwrap();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&copy).expect("the proxy reads");
        writer.shutdown(Shutdown::Write).expect("it is open");
    });
    let received = read_to_end(&mut client).unwrap();
    writing.join().unwrap();
    assert!(received == sent, "{} bytes came back", received.len());
    let expected = format!(" {SIZE} {SIZE} ");
    assert!(bench.lines(2).await[0].contains(&expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_the_server_back() {
    let (sender, written) = mpsc::channel();
    let up = server(move |mut stream| {
        stream
            .set_write_timeout(Some(Duration::from_millis(500)))
            .expect("a time");
        let chunk = [b'x'; 1 << 16];
        let mut total = 0;
        while total < 2 * KERNEL_BUFFERS {
            match stream.write(&chunk) {
                Ok(count) => total += count,
                Err(_) => break,
            }
        }
        let _ = sender.send(total);
    });
    let bench = proxy_to(up).await;
    let mut client = connect(bench.address("tcp"));
    client.write_all(b"go").unwrap();
    let total = written.recv().unwrap();
    assert!(total < KERNEL_BUFFERS, "{total} bytes went nowhere");
    // Another session is served meanwhile.
    let mut other = connect(bench.address("tcp"));
    let mut byte = [0];
    other.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_passed_on_as_a_reset() {
    let up = server(|mut stream| {
        let mut byte = [0; 2];
        let _ = stream.read_exact(&mut byte);
        // Unread bytes make the close a reset.
        drop(stream);
    });
    let bench = proxy_to(up).await;
    let mut client = connect(bench.address("tcp"));
    client.write_all(b"unread").unwrap();
    let error = read_to_end(&mut client).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(bench.lines(2).await[0].starts_with("- 0 UR - 6 0 "));

    let (sender, seen) = mpsc::channel();
    let up = server(move |mut stream| {
        stream.write_all(b"unread").expect("the proxy reads");
        let _ = sender.send(read_to_end(&mut stream));
    });
    let bench = proxy_to(up).await;
    let mut client = connect(bench.address("tcp"));
    let mut byte = [0];
    client.read_exact(&mut byte).unwrap();
    drop(client);
    let error = seen.recv().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(bench.lines(2).await[0].starts_with("- 0 - - 0 6 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_follow_the_weights() {
    let (one, other) = (mpsc::channel(), mpsc::channel());
    let counted = |sender: mpsc::Sender<()>| {
        server(move |stream| {
            let _ = sender.send(());
            drop(stream);
        })
    };
    let (first, second) = (counted(one.0), counted(other.0));
    // Together they are more than one of them can be.
    let clusters = "weighted_clusters: {clusters: [{name: up, weight: 4294967295}, {name: dead, weight: 4294967295}]}";
    let bench = start(clusters, "", first, second).await;
    for _ in 0..40 {
        let _ = read_to_end(&mut connect(bench.address("tcp")));
    }
    let (first, second) = (one.1.try_iter().count(), other.1.try_iter().count());
    // By chance it fails once in 10^11 times.
    assert!(first > 0 && second > 0, "{first} and {second}");
    assert_eq!(first + second, 40);
}
