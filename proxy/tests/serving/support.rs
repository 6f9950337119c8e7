//! A whole proxy from a static file, in process, and plain sockets around it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ithildin_proto::{from_yaml, pb::envoy::config::bootstrap::v3::Bootstrap};
use ithildin_proxy::{Proxy, ProxyOptions, Readiness};
use ithildin_xds::{ResourceSet, SecretRef, SecretState, SecretSubscriber};
use tokio::sync::watch;

/// Far more than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);
/// No session of a test is as long, on a busy machine either.
const DRAIN: Duration = Duration::from_secs(10);

/// A proxy whose configuration names `LOG_PATH` for its access log, and the folder of that log.
pub(crate) struct Bench {
    pub(crate) proxy: Proxy,
    folder: tempfile::TempDir,
}

struct NoSecrets;

impl SecretSubscriber for NoSecrets {
    fn subscribe(&self, _: &SecretRef) -> watch::Receiver<SecretState> {
        watch::channel(SecretState::Pending("test".into())).1
    }
}

impl Bench {
    /// Starts a proxy on a bootstrap; it is ready when this returns.
    pub(crate) async fn start(yaml: &str) -> Self {
        let folder = tempfile::tempdir().expect("it is the test's own");
        let log = log_path(folder.path());
        let yaml = yaml.replace("LOG_PATH", log.to_str().expect("it is the test's own"));
        let bootstrap = from_yaml(&yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
        let resources = watch::channel(Arc::new(ResourceSet::default())).1;
        Self::run(bootstrap, resources, folder).await
    }

    /// Starts a proxy on what a control plane sends; it is ready when this returns.
    pub(crate) async fn dynamic(resources: watch::Receiver<Arc<ResourceSet>>) -> Self {
        let folder = tempfile::tempdir().expect("it is the test's own");
        let yaml = "dynamic_resources: {cds_config: {ads: {}}, lds_config: {ads: {}}}";
        let bootstrap = from_yaml(yaml).expect("it is the test's own");
        Self::run(bootstrap, resources, folder).await
    }

    async fn run(
        bootstrap: Bootstrap,
        resources: watch::Receiver<Arc<ResourceSet>>,
        folder: tempfile::TempDir,
    ) -> Self {
        let options = ProxyOptions {
            bootstrap,
            resources,
            secrets: Arc::new(NoSecrets),
            concurrency: 1,
            drain_time: DRAIN,
        };
        let proxy = match Proxy::start(options).await {
            Ok(proxy) => proxy,
            Err(error) => panic!("{error}"),
        };
        let mut ready = proxy.ready();
        let ready = ready.wait_for(|state| *state == Readiness::Ready);
        tokio::time::timeout(LIMIT, ready)
            .await
            .expect("it is the test's own")
            .expect("it is the test's own");
        Self { proxy, folder }
    }

    /// Shuts down; what the access log holds then.
    pub(crate) async fn stop(self) -> String {
        self.proxy.shutdown(LIMIT).await;
        std::fs::read_to_string(log_path(self.folder.path())).unwrap_or_default()
    }

    /// Where the listener accepts.
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        let report = self.proxy.listeners();
        let report = report.borrow();
        let status = report.listeners.iter().find(|it| &*it.name == listener);
        status
            .expect("it is the test's own")
            .bound
            .as_ref()
            .expect("it is the test's own")[0]
    }

    /// The access log's lines, once there are `count`.
    pub(crate) async fn lines(&self, count: usize) -> Vec<String> {
        let path = log_path(self.folder.path());
        for _ in 0..3000 {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<_> = text.lines().map(str::to_owned).collect();
            if lines.len() >= count {
                assert_eq!(lines.len(), count, "{text}");
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {count} lines: {:?}", std::fs::read_to_string(&path));
    }
}

fn log_path(folder: &Path) -> PathBuf {
    folder.join("access.log")
}

/// Sends `request` and reads to the end of the connection.
pub(crate) async fn exchange(address: SocketAddr, request: &str) -> String {
    let request = request.to_owned();
    let talk = move || {
        let mut stream = connect(address);
        stream
            .write_all(request.as_bytes())
            .expect("it is the test's own");
        let mut answer = Vec::new();
        // A reset ends it, too.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::task::spawn_blocking(talk)
        .await
        .expect("it is the test's own")
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it is the test's own");
    stream
        .set_read_timeout(Some(LIMIT))
        .expect("it is the test's own");
    stream
}

/// A server that hands each connection to `serve`, on a thread of its own.
pub(crate) fn server(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("it is the test's own");
    let address = listener.local_addr().expect("it is the test's own");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (serve, stream) = (serve.clone(), stream.expect("it is the test's own"));
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Reads a head; empty at the end of the connection.
pub(crate) fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return String::new(),
        }
    }
    String::from_utf8(head).expect("it is the test's own")
}

/// An address that refuses connections.
pub(crate) fn dead_address() -> SocketAddr {
    ithildin_sys::port::refusing().expect("loopback has free ports")
}
