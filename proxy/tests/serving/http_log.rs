//! Access log lines of requests, and headers that routes make, as a user sees them.

use std::{
    io::{Read, Write},
    net::SocketAddr,
};

use crate::support::{Bench, connect, dead_address, exchange, read_head, server};

/// `FORMAT`, `ROUTES` and `MORE` are the test's; clusters `up` and `dead`.
const CONFIG: &str = r#"
static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - name: chain
      filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          request_headers_timeout: 0.9s
          upgrade_configs: [{upgrade_type: websocket}]
          MORE
          access_log:
          - name: file
            FILTER
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: LOG_PATH
              FORMAT
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            name: routes
            validate_clusters: false
            ROUTES
  clusters:
  - {name: up, connect_timeout: 5s, load_assignment: {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: UP_PORT}}}}]}]}}
  - {name: dead, connect_timeout: 5s, load_assignment: {cluster_name: dead, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: DEAD_PORT}}}}]}]}}
"#;

const ROUTES: &str = r#"virtual_hosts:
            - name: all
              domains: ["*"]
              response_headers_to_add: [{header: {key: x-made, value: "%REQ(:METHOD)%-%UPSTREAM_HOST%"}}]
              routes:
              - {match: {prefix: /direct}, name: direct, direct_response: {status: 200, body: {inline_string: hello}}}
              - {match: {prefix: /dead}, name: dead, route: {cluster: dead, retry_policy: {retry_on: connect-failure, num_retries: 1, retry_back_off: {base_interval: 0.001s}}}}
              - {match: {prefix: /none}, name: none, route: {cluster: none}}
              - {match: {prefix: /slow}, name: slow, route: {cluster: up, timeout: 0.9s}}
              - {match: {prefix: /up}, name: up, route: {cluster: up, prefix_rewrite: /new}}"#;

const TEXT: &str = concat!(
    "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL% %RESPONSE_CODE% ",
    "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% ",
    "%UPSTREAM_CLUSTER% %ROUTE_NAME% %UPSTREAM_TRANSPORT_FAILURE_REASON% ",
    "%UPSTREAM_REQUEST_ATTEMPT_COUNT% %RESP(X-MADE)% %TRAILER(X-LAST)%",
);

struct Config {
    format: String,
    filter: &'static str,
    routes: String,
    more: &'static str,
    up: SocketAddr,
    dead: SocketAddr,
}

impl Config {
    fn new(up: SocketAddr) -> Self {
        Self {
            format: format!("log_format: {{text_format_source: {{inline_string: \"{TEXT}\\n\"}}}}"),
            filter: "",
            routes: ROUTES.into(),
            more: "",
            up,
            dead: dead_address(),
        }
    }

    async fn start(&self) -> Bench {
        let yaml = CONFIG
            .replace("FORMAT", &self.format)
            .replace("FILTER", self.filter)
            .replace("ROUTES", &self.routes)
            .replace("MORE", self.more)
            .replace("UP_PORT", &self.up.port().to_string())
            .replace("DEAD_PORT", &self.dead.port().to_string());
        Bench::start(&yaml).await
    }
}

/// Answers one request of a connection, by the path that it gets: `/new/close`, `/new/cut`, ...
fn upstream() -> SocketAddr {
    server(|mut stream| {
        let head = read_head(&mut stream);
        let answer: &[u8] = match head.split(' ').nth(1).unwrap_or_default() {
            "/new/close" => return,
            "/new/garbage" => b"NOPE\r\n\r\n",
            "/new/cut" => b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc",
            "/new/trailers" => {
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
                  2\r\nok\r\n0\r\nx-last: end\r\n\r\n"
            }
            "/new/socket" => {
                b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\npong!"
            }
            path if path.starts_with("/slow") => {
                // Until the proxy gives up.
                read_head(&mut stream);
                return;
            }
            _ => {
                let mut body = vec![
                    0;
                    if head.contains("content-length: 5") {
                        5
                    } else {
                        0
                    }
                ];
                stream.read_exact(&mut body).expect("it is the test's own");
                b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
            }
        };
        stream.write_all(answer).expect("it is the test's own");
    })
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_one_line_with_envoys_words() {
    let up = upstream();
    let config = Config::new(up);
    let bench = config.start().await;
    let address = bench.address("http");
    let refused = "delayed_connect_error:_Connection_refused";
    let reset = "upstream_reset_before_response_started";
    let cases = [
        (get("/direct?q"), "GET /direct?q HTTP/1.1 200 - direct_response 0 5 - direct - 0 GET- -".to_owned()),
        (get("/nothing"), "GET /nothing HTTP/1.1 404 NR route_not_found 0 0 - - - 0 - -".into()),
        (get("/none"), "GET /none HTTP/1.1 503 NC cluster_not_found 0 0 - none - 0 GET- -".into()),
        (get("/dead"), format!("GET /dead HTTP/1.1 503 URX,UF {reset}{{remote_connection_failure|{refused}}} 0 BODY dead dead {refused} 2 GET-{} -", config.dead)),
        (get("/up/x"), format!("GET /up/x HTTP/1.1 200 - via_upstream 0 5 up up - 1 GET-{up} -")),
        ("POST /up/x HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\nconnection: close\r\n\r\nworld".into(), format!("POST /up/x HTTP/1.1 200 - via_upstream 5 5 up up - 1 POST-{up} -")),
        (get("/up/close"), format!("GET /up/close HTTP/1.1 503 UC {reset}{{connection_termination}} 0 95 up up - 1 GET-{up} -")),
        (get("/up/garbage"), format!("GET /up/garbage HTTP/1.1 502 UPE {reset}{{protocol_error}} 0 87 up up - 1 GET-{up} -")),
        (get("/up/cut"), format!("GET /up/cut HTTP/1.1 200 UPE upstream_reset_after_response_started{{protocol_error}} 0 3 up up - 1 GET-{up} -")),
        (get("/up/trailers"), format!("GET /up/trailers HTTP/1.1 200 - via_upstream 0 2 up up - 1 GET-{up} end")),
        (get("/slow"), format!("GET /slow HTTP/1.1 504 UT response_timeout 0 24 up slow - 1 GET-{up} -")),
        ("GET /up/socket HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".into(), format!("GET /up/socket HTTP/1.1 101 - via_upstream 0 5 up up - 1 GET-{up} -")),
        ("NONSENSE\r\n\r\n".into(), "- - HTTP/1.1 400 DPE http1.codec_error 0 BODY - - - 0 - -".into()),
        ("POST /up HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n".into(), "- - HTTP/1.1 400 DPE http1.content_length_and_chunked_not_allowed 0 BODY - - - 0 - -".into()),
        ("GET /up HTTP/1.1\r\nhost: h\r\n".into(), "- - HTTP/1.1 408 - request_header_timeout 0 22 - - - 0 - -".into()),
    ];
    for (count, (request, expected)) in cases.iter().enumerate() {
        let answer = exchange(address, request).await;
        let line = bench.lines(count + 1).await.pop().unwrap();
        let body = answer
            .split_once("\r\n\r\n")
            .map_or(0, |(_, body)| body.len());
        assert_eq!(
            line,
            expected.replace("BODY", &body.to_string()),
            "{request}\n{answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_is_logged() {
    let bench = Config::new(upstream()).start().await;
    let mut half = connect(bench.address("http"));
    half.write_all(b"GET /up HTTP/1.1\r\n").unwrap();
    drop(half);
    let line = bench.lines(1).await.pop().unwrap();
    assert!(
        line.starts_with("- - HTTP/1.1 0 DC downstream_remote_disconnect"),
        "{line}"
    );
    let mut waiting = connect(bench.address("http"));
    waiting
        .write_all(get("/up/never").replace("/up", "/slow").as_bytes())
        .unwrap();
    drop(waiting);
    let line = bench.lines(2).await.pop().unwrap();
    assert!(
        line.starts_with("GET /slow/never HTTP/1.1 0 DC downstream_remote_disconnect 0 0 up slow"),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_format_and_json_are_envoys() {
    let up = upstream();
    let mut config = Config::new(up);
    config.format = String::new();
    let bench = config.start().await;
    exchange(
        bench.address("http"),
        &get("/up/x").replace("host: h", "host: h\r\nuser-agent: me\r\nx-request-id: 7"),
    )
    .await;
    let line = bench.lines(1).await.pop().unwrap();
    let (time, rest) = line.split_once("] ").unwrap();
    assert_eq!(time.len(), "[2026-11-21T04:45:46.443Z".len(), "{line}");
    let (front, back) = rest.split_once(" 200 - 0 5 ").unwrap();
    assert_eq!(front, "\"GET /up/x HTTP/1.1\"");
    let (times, names) = back.split_once(" \"").unwrap();
    assert!(
        times.split(' ').all(|time| time.parse::<u32>().is_ok()),
        "{line}"
    );
    assert_eq!(names, format!("-\" \"me\" \"7\" \"h\" \"{up}\""));

    config.format = "log_format: {json_format: {code: '%RESPONSE_CODE%', flags: '%RESPONSE_FLAGS%', path: 'p %REQ(:PATH)%', none: '%REQ(x)%'}}".into();
    config.filter = "filter: {status_code_filter: {comparison: {op: GE, value: {default_value: 400, runtime_key: x}}}}";
    let bench = config.start().await;
    exchange(bench.address("http"), &get("/direct")).await;
    exchange(bench.address("http"), &get("/a\"b")).await;
    let line = bench.lines(1).await.pop().unwrap();
    assert_eq!(
        line,
        r#"{"code":404,"flags":"NR","none":null,"path":"p /a\"b"}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_writes_the_last_lines() {
    let bench = Config::new(upstream()).start().await;
    exchange(bench.address("http"), &get("/direct")).await;
    let mut half = connect(bench.address("http"));
    half.write_all(get("/slow").as_bytes()).unwrap();
    while bench.proxy.active_connections() == 0 {
        tokio::task::yield_now().await;
    }
    let text = bench.stop().await;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("GET /direct HTTP/1.1 200 "), "{text}");
    assert!(lines[1].starts_with("GET /slow HTTP/1.1 504 UT "), "{text}");
}
