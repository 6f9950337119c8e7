//! What the tests are made of: a proxy in process, origins that say what they are told, clients
//! that see every byte.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    access_log::AccessLogs,
    config::{
        Cluster, FilterChain, HttpManager, Listener,
        http::{
            ClientCertDetails, Codec, EscapedSlashes, ForwardClientCert, HeaderFormat,
            Http1Options, Http2Options, HttpTimeouts, ServerHeader, UnderscoreAction,
        },
        listener::Terminal,
        route::{
            Clusters, Forward, HeaderMutations, PathMatch, RetryOn, RetryPolicy, Route,
            RouteAction, RouteMatch, RouteTable, VirtualHost,
        },
    },
    runtime::{Runtime, RuntimeOptions},
    stats::{ClusterBlock, HttpBlock, HttpStats},
    testing::{self, WORKERS, snapshot},
    worker::Published,
};

/// No test waits longer for anything.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// Envoy's defaults.
pub(super) fn manager(table: RouteTable) -> HttpManager {
    HttpManager {
        filters: Vec::new(),
        codec: Codec::Auto,
        stat_prefix: "test".into(),
        routes: Arc::new(ArcSwapOption::from_pointee(table)),
        server_name: "envoy".into(),
        server_header: ServerHeader::Overwrite,
        use_remote_address: false,
        internal_addresses: Box::default(),
        skip_xff_append: false,
        xff_num_trusted_hops: 0,
        append_x_forwarded_port: false,
        generate_request_id: true,
        preserve_external_request_id: false,
        always_set_request_id_in_response: false,
        proxy_100_continue: false,
        via: None,
        forward_client_cert: ForwardClientCert::Sanitize,
        client_cert_details: ClientCertDetails::default(),
        normalize_path: false,
        merge_slashes: false,
        escaped_slashes: EscapedSlashes::Keep,
        strips_fragment: false,
        strip_any_host_port: false,
        suppress_envoy_headers: false,
        upgrades: Vec::new(),
        timeouts: HttpTimeouts {
            idle: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            stream_idle: Some(Duration::from_secs(300)),
            request: None,
            request_headers: None,
            max_stream_duration: None,
            drain: Duration::from_secs(5),
            delayed_close: Some(Duration::from_secs(1)),
        },
        http1: Http1Options {
            accept_http_10: false,
            custom_methods: false,
            allow_absolute_url: true,
            enable_trailers: false,
            default_host: None,
            header_format: HeaderFormat::Lower,
        },
        http2: Http2Options {
            allow_connect: false,
            max_concurrent_streams: 100,
            initial_stream_window: 65_535,
            initial_connection_window: 1 << 20,
            keepalive: None,
        },
        max_request_headers_kb: 60,
        max_requests_per_connection: None,
        max_headers_count: 100,
        headers_with_underscores: UnderscoreAction::Allow,
        access_log: AccessLogs::default(),
        tracing: None,
        stats: Arc::new(HttpStats::new("test".into(), "l".into(), WORKERS)),
    }
}

/// One virtual host for any domain.
pub(super) fn table(routes: Vec<Route>) -> RouteTable {
    RouteTable {
        name: "routes".into(),
        ignore_port_in_host_matching: false,
        exact: Default::default(),
        suffixes: Default::default(),
        prefixes: Default::default(),
        any: Some(0),
        hosts: vec![VirtualHost {
            name: "any".into(),
            require_tls: false,
            include_request_attempt_count: false,
            include_attempt_count_in_response: false,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            filters: Default::default(),
            limits: Default::default(),
            routes: routes.into_iter().map(Arc::new).collect(),
        }],
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        filters: Default::default(),
    }
}

pub(super) fn route(prefix: &str, action: RouteAction) -> Route {
    Route {
        name: prefix.into(),
        matches: RouteMatch {
            path: PathMatch::Prefix(prefix.into()),
            case_sensitive: true,
            headers: Vec::new(),
            query: Vec::new(),
            grpc_only: false,
            metadata: Vec::new(),
        },
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        filters: Default::default(),
        metadata: None,
        decorator: None,
        tracing: None,
        action,
    }
}

/// Envoy's defaults, without a time limit.
pub(super) fn forward(cluster: &str) -> Forward {
    Forward {
        hash: Vec::new(),
        clusters: Clusters::One(cluster.into()),
        cluster_not_found: StatusCode::SERVICE_UNAVAILABLE,
        timeout: None,
        idle_timeout: None,
        max_stream_duration: None,
        prefix_rewrite: None,
        regex_rewrite: None,
        host_rewrite: None,
        auto_host_rewrite: false,
        append_x_forwarded_host: false,
        retry: None,
        limits: Default::default(),
        includes_host_limits: false,
        mirrors: Vec::new(),
        upgrades: Vec::new(),
        terminates_connect: false,
        grpc_timeout_max: None,
        max_grpc_timeout: None,
    }
}

pub(super) fn to(cluster: &str) -> RouteAction {
    RouteAction::Forward(Box::new(forward(cluster)))
}

/// Tries `attempts` times more, without much waiting.
pub(super) fn retry(on: RetryOn, attempts: u32) -> RetryPolicy {
    RetryPolicy {
        on,
        statuses: Vec::new(),
        attempts,
        per_try_timeout: None,
        base_interval: Duration::from_millis(5),
        max_interval: Duration::from_millis(50),
        avoid_previous_hosts: false,
        host_selection_attempts: 1,
        avoid_priorities_every: 0,
    }
}

/// A proxy with one worker and one listener.
pub(super) struct Site {
    pub(super) runtime: Runtime,
    pub(super) address: SocketAddr,
    manager: Arc<HttpManager>,
    clusters: Vec<Arc<crate::stats::ClusterStats>>,
}

impl Site {
    /// Serves `manager` in plaintext.
    pub(super) async fn start(manager: HttpManager, clusters: Vec<Cluster>) -> Self {
        Self::start_on(manager, clusters, |chain| chain).await
    }

    /// Serves `manager` on what `finish` makes of the filter chain.
    pub(super) async fn start_on(
        manager: HttpManager,
        clusters: Vec<Cluster>,
        finish: impl FnOnce(FilterChain) -> FilterChain,
    ) -> Self {
        let manager = Arc::new(manager);
        let terminal = Terminal::Http(Arc::clone(&manager));
        let chain = finish(testing::chain("http", terminal));
        let listener: Listener = testing::listener("l", testing::ANY, chain);
        let stats = clusters.iter().map(|it| Arc::clone(&it.stats)).collect();
        let snapshot = snapshot(vec![Arc::new(listener)], clusters);
        let version = snapshot.version;
        let options = RuntimeOptions {
            workers: 1,
            drain_time: Duration::from_secs(600),
            max_connections: None,
        };
        let runtime = Runtime::start(options, Published::new(snapshot)).unwrap();
        let mut report = runtime.listeners();
        let applied = report.wait_for(|report| report.version == Some(version));
        let applied = tokio::time::timeout(SOON, applied).await.unwrap().unwrap();
        let address = applied.listeners[0].bound.clone().unwrap()[0];
        drop(applied);
        Self {
            runtime,
            address,
            manager,
            clusters: stats,
        }
    }

    /// One route, `/`, to one plaintext HTTP/1 cluster.
    pub(super) async fn before(origin: SocketAddr) -> Self {
        let table = table(vec![route("/", to("origin"))]);
        let cluster = testing::cluster("origin", &[origin]);
        Self::start(manager(table), vec![cluster]).await
    }

    pub(super) fn stats(&self) -> &HttpBlock {
        self.manager.stats.worker(0)
    }

    /// Of the first cluster.
    pub(super) fn cluster_stats(&self) -> &ClusterBlock {
        self.clusters[0].worker(0)
    }

    pub(super) fn stats_of(&self, cluster: usize) -> &ClusterBlock {
        self.clusters[cluster].worker(0)
    }

    pub(super) async fn client(&self) -> Peer<TcpStream> {
        Peer::connect(self.address).await
    }

    /// The answer to `text` on a connection of its own.
    pub(super) async fn ask(&self, text: &str) -> Answer {
        let mut client = self.client().await;
        client.send(text).await;
        client.answer().await
    }
}

/// What an origin does with one request.
pub(super) enum Act {
    Send(Vec<u8>),
    /// The answer, then the end of the connection.
    SendAndClose(Vec<u8>),
    Close,
    /// Nothing, for ever.
    Hang,
}

/// `200 OK` with this body.
pub(super) fn ok(body: &str) -> Act {
    Act::Send(
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into(),
    )
}

pub(super) fn send(text: &str) -> Act {
    Act::Send(text.into())
}

/// An HTTP/1 server that keeps every request as it came over the wire.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Origin {
    pub(super) async fn start(act: impl Fn(&str) -> Act + Clone + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(testing::ANY).await.unwrap();
        let origin = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            connections: Arc::default(),
        };
        let ours = origin.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                ours.connections.fetch_add(1, SeqCst);
                tokio::spawn(ours.clone().serve(stream, act.clone()));
            }
        });
        origin
    }

    /// Answers 200 with the request, as it came, as its body.
    pub(super) async fn echo() -> Self {
        Self::start(ok).await
    }

    async fn serve(self, stream: TcpStream, act: impl Fn(&str) -> Act) {
        let mut peer = Peer::new(stream);
        while let Some(request) = peer.message().await {
            self.requests.lock().push(request.clone());
            match act(&request) {
                Act::Send(answer) => peer.send(&answer).await,
                Act::SendAndClose(answer) => {
                    peer.send(&answer).await;
                    return;
                }
                Act::Close => return,
                Act::Hang => std::future::pending().await,
            }
        }
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

/// One end of a connection that speaks HTTP/1, and sees the bytes.
pub(super) struct Peer<S> {
    pub(super) stream: S,
    pub(super) buffer: Vec<u8>,
}

/// A response.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Status line and headers.
    pub(super) head: String,
    /// As framed: chunks are taken apart, trailers stay behind the last one's data.
    pub(super) body: String,
    pub(super) trailers: String,
}

impl Answer {
    /// The one value of a header; `None` if there is none.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let values = header_values(&self.head, name);
        assert!(values.len() < 2, "{name} twice in {}", self.head);
        values.first().copied()
    }
}

/// All values of a header in a head.
pub(super) fn header_values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    head.split("\r\n")
        .filter_map(|line| line.split_once(": "))
        .filter(|(it, _)| it.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

impl Peer<TcpStream> {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::new(stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Errors show when the answer is read.
    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
        let _ = self.stream.flush().await;
    }

    /// The final response; interim ones are passed over.
    pub(super) async fn answer(&mut self) -> Answer {
        self.answer_to(false).await
    }

    /// The response to HEAD: no body, whatever it says.
    pub(super) async fn answer_to_head(&mut self) -> Answer {
        self.answer_to(true).await
    }

    async fn answer_to(&mut self, head_request: bool) -> Answer {
        loop {
            let head = self.head().await.expect("a response");
            let status: u16 = head[9..12].parse().expect("a status");
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let bodyless = head_request || matches!(status, 101 | 204 | 304);
            let (body, trailers) = match bodyless {
                true => (String::new(), String::new()),
                false => self.body(&head, true).await.expect("a whole body"),
            };
            return Answer {
                status,
                head,
                body,
                trailers,
            };
        }
    }

    /// Head and body of a request as they came; `None` at the end of the connection.
    async fn message(&mut self) -> Option<String> {
        let head = self.head().await?;
        if header_values(&head, "transfer-encoding") == ["chunked"] {
            let mut body = String::new();
            loop {
                let size = self.line().await?;
                body += &size;
                let length = usize::from_str_radix(size.trim_end(), 16).unwrap();
                if length == 0 {
                    break;
                }
                body += &self.take(length + 2).await?;
            }
            loop {
                let line = self.line().await?;
                body += &line;
                if line == "\r\n" {
                    return Some(head + &body);
                }
            }
        }
        let (body, _) = self.body(&head, false).await?;
        Some(head + &body)
    }

    /// Up to and with the empty line; `None` at the end of the connection.
    pub(super) async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|it| it == b"\r\n\r\n") {
                let head = self.buffer.drain(..end + 4).collect();
                return Some(String::from_utf8(head).unwrap());
            }
            self.fill().await?;
        }
    }

    async fn body(&mut self, head: &str, response: bool) -> Option<(String, String)> {
        if header_values(head, "transfer-encoding") == ["chunked"] {
            return self.chunks().await;
        }
        match header_values(head, "content-length").first() {
            Some(length) => {
                let body = self.take(length.parse().unwrap()).await?;
                Some((body, String::new()))
            }
            None if response => {
                while self.fill().await.is_some() {}
                let body = String::from_utf8(std::mem::take(&mut self.buffer)).unwrap();
                Some((body, String::new()))
            }
            None => Some((String::new(), String::new())),
        }
    }

    async fn chunks(&mut self) -> Option<(String, String)> {
        let mut body = String::new();
        loop {
            let size = self.line().await?;
            let length = usize::from_str_radix(size.trim_end(), 16).unwrap();
            if length == 0 {
                break;
            }
            body += &self.take(length).await?;
            assert_eq!(self.take(2).await?, "\r\n");
        }
        let mut trailers = String::new();
        loop {
            let line = self.line().await?;
            if line == "\r\n" {
                return Some((body, trailers));
            }
            trailers += &line;
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap());
            }
            self.fill().await?;
        }
    }

    pub(super) async fn take(&mut self, length: usize) -> Option<String> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        let bytes = self.buffer.drain(..length).collect();
        Some(String::from_utf8(bytes).unwrap())
    }

    async fn fill(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.buffer);
        match tokio::time::timeout(SOON, read)
            .await
            .expect("bytes, or an end")
        {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }

    /// Whether the proxy ends the connection, without another byte.
    pub(super) async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && self.fill().await.is_none()
    }
}
