//! Configuration changes under load, in the order in which istiod sends them: no request fails.

use std::{
    collections::HashMap,
    io::Write,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use ithildin_proto::from_yaml;
use ithildin_xds::{NameMap, ResourceSet};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::support::{Bench, connect, read_head, server};

/// Far more than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

/// How many requests clients send on one connection: one that opens a connection for each, and some
/// that keep theirs.
const KEEPING: [usize; 3] = [1, 7, usize::MAX];

/// Requests between two changes: enough for all connections, idle ones too.
const BETWEEN: u64 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_goes_before_its_routes_serves_them_until_they_move_on() {
    let mut mesh = Mesh::new();
    let (a, b) = (upstream("a"), upstream("b"));
    mesh.cluster("a");
    mesh.endpoints("a", &[a]);
    mesh.routes("a");
    mesh.listener("0.001s");
    let bench = mesh.start().await;
    let load = Load::start(bench.address("l"), &KEEPING);
    load.until_served_by("a").await;

    // CDS: the old one is gone, the new one has no endpoints yet.
    mesh.set.clusters.remove("a");
    mesh.set.endpoints.remove("a");
    mesh.cluster("b");
    mesh.send();
    load.goes_on().await;
    // RDS comes before EDS.
    mesh.routes("b");
    mesh.send();
    load.goes_on().await;
    assert_eq!(load.served_by("b"), 0, "it has no endpoints yet");
    mesh.endpoints("b", &[b]);
    mesh.send();
    load.until_served_by("b").await;
    load.goes_on().await;
    load.ends_well();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_goes_before_its_listeners_serves_them_until_they_change() {
    let mut mesh = Mesh::new();
    let (a, b) = (upstream("a"), upstream("b"));
    mesh.cluster("a");
    mesh.endpoints("a", &[a]);
    mesh.tcp_listener("a");
    mesh.inline_listener("a");
    let bench = mesh.start().await;
    // A session that outlives its listener is closed at the end of the drain: none is that long.
    let loads = [
        Load::start(bench.address("tcp"), &[1, 7]),
        Load::start(bench.address("inline"), &KEEPING),
    ];
    for load in &loads {
        load.until_served_by("a").await;
    }

    mesh.set.clusters.remove("a");
    mesh.set.endpoints.remove("a");
    mesh.cluster("b");
    mesh.send();
    for load in &loads {
        load.goes_on().await;
    }
    // LDS comes before EDS.
    mesh.tcp_listener("b");
    mesh.inline_listener("b");
    mesh.send();
    for load in &loads {
        load.goes_on().await;
        assert_eq!(load.served_by("b"), 0, "it has no endpoints yet");
    }
    mesh.endpoints("b", &[b]);
    mesh.send();
    for load in &loads {
        load.until_served_by("b").await;
    }
    loads.into_iter().for_each(Load::ends_well);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_come_and_go_under_pooled_connections() {
    let mut mesh = Mesh::new();
    let (a, b) = (upstream("a"), upstream("b"));
    mesh.cluster("c");
    mesh.endpoints("c", &[a, b]);
    mesh.routes("c");
    mesh.listener("1s");
    let bench = mesh.start().await;
    let load = Load::start(bench.address("l"), &KEEPING);
    load.until_served_by("a").await;
    load.until_served_by("b").await;
    // Every second time the cluster changes with them, and is asked for endpoints anew.
    let sets = [(a, "a", 5), (b, "b", 5), (a, "a", 6), (b, "b", 6)].map(|(now, name, timeout)| {
        mesh.endpoints("c", &[now]);
        mesh.timeout = timeout;
        mesh.cluster("c");
        (mesh.set.clone(), name)
    });
    for (set, name) in sets.iter().cycle().take(40) {
        mesh.set = set.clone();
        mesh.send();
        load.until_served_by(name).await;
    }
    load.ends_well();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_comes_back_was_never_away() {
    let mut mesh = Mesh::new();
    let a = upstream("a");
    mesh.cluster("a");
    mesh.endpoints("a", &[a]);
    mesh.routes("a");
    mesh.listener("1s");
    let bench = mesh.start().await;
    let load = Load::start(bench.address("l"), &KEEPING);
    let whole = mesh.set.clone();
    for _ in 0..10 {
        mesh.set.clusters.clear();
        mesh.set.endpoints.clear();
        mesh.send();
        load.goes_on().await;
        // Its endpoints come later.
        mesh.set.clusters.clone_from(&whole.clusters);
        mesh.send();
        load.goes_on().await;
        mesh.set = whole.clone();
        mesh.send();
        load.goes_on().await;
    }
    load.ends_well();
}

/// What a control plane has.
struct Mesh {
    set: ResourceSet,
    sender: watch::Sender<Arc<ResourceSet>>,
    /// `connect_timeout` of clusters, in seconds.
    timeout: u64,
}

impl Mesh {
    fn new() -> Self {
        Self {
            set: ResourceSet::default(),
            sender: watch::Sender::new(Arc::default()),
            timeout: 5,
        }
    }

    async fn start(&self) -> Bench {
        self.send();
        Bench::dynamic(self.sender.subscribe()).await
    }

    fn send(&self) {
        self.sender.send_replace(Arc::new(self.set.clone()));
    }

    fn cluster(&mut self, name: &str) {
        let timeout = self.timeout;
        let eds = "{eds_config: {ads: {}, initial_fetch_timeout: 0s}}";
        let yaml = format!(
            "{{name: {name}, type: EDS, connect_timeout: {timeout}s, eds_cluster_config: {eds}}}"
        );
        put(&mut self.set.clusters, name, &yaml);
    }

    fn endpoints(&mut self, name: &str, addresses: &[SocketAddr]) {
        let hosts: Vec<_> = addresses
            .iter()
            .map(|it| format!("{{endpoint: {{address: {}}}}}", socket(it.port())))
            .collect();
        let hosts = hosts.join(", ");
        let yaml = format!("{{cluster_name: {name}, endpoints: [{{lb_endpoints: [{hosts}]}}]}}");
        put(&mut self.set.endpoints, name, &yaml);
    }

    fn routes(&mut self, cluster: &str) {
        put(&mut self.set.routes, "r", &table(cluster));
    }

    fn listener(&mut self, timeout: &str) {
        let rds = format!(
            "rds: {{route_config_name: r, config_source: {{ads: {{}}, initial_fetch_timeout: {timeout}}}}}"
        );
        self.http_listener("l", &rds);
    }

    fn inline_listener(&mut self, cluster: &str) {
        let routes = format!("route_config: {}", table(cluster));
        self.http_listener("inline", &routes);
    }

    fn http_listener(&mut self, name: &str, routes: &str) {
        let kind =
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
        let router = "envoy.extensions.filters.http.router.v3.Router";
        let router =
            format!("{{name: router, typed_config: {{\"@type\": type.googleapis.com/{router}}}}}");
        self.put_listener(name, &format!("\"@type\": type.googleapis.com/{kind}, stat_prefix: s, {routes}, http_filters: [{router}]"));
    }

    fn tcp_listener(&mut self, cluster: &str) {
        let kind = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
        self.put_listener(
            "tcp",
            &format!("\"@type\": type.googleapis.com/{kind}, stat_prefix: s, cluster: {cluster}"),
        );
    }

    fn put_listener(&mut self, name: &str, config: &str) {
        let filter = format!("{{name: f, typed_config: {{{config}}}}}");
        let yaml = format!(
            "{{name: {name}, address: {}, filter_chains: [{{filters: [{filter}]}}]}}",
            socket(0)
        );
        put(&mut self.set.listeners, name, &yaml);
    }
}

fn put<M>(all: &mut NameMap<M>, name: &str, yaml: &str)
where
    M: prost::Message + prost::Name + Default,
{
    let message = from_yaml(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    all.insert(name.to_owned(), Arc::new(message));
}

fn socket(port: u16) -> String {
    format!("{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}")
}

fn table(cluster: &str) -> String {
    format!(
        "{{name: r, virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]}}"
    )
}

/// Answers each request with its name.
fn upstream(name: &'static str) -> SocketAddr {
    server(move |mut stream| {
        while !read_head(&mut stream).is_empty() {
            let answer =
                format!("HTTP/1.1 200 OK\r\nserved-by: {name}\r\ncontent-length: 0\r\n\r\n");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// Clients that ask without a pause, each on a connection that it keeps for a while.
struct Load {
    told: Arc<Told>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Told {
    stop: AtomicBool,
    done: AtomicU64,
    served: Mutex<HashMap<String, u64>>,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// One client for each of `patience`.
    fn start(address: SocketAddr, patience: &[usize]) -> Self {
        let told = Arc::new(Told::default());
        let client = |patience: usize| {
            let told = Arc::clone(&told);
            std::thread::spawn(move || ask(address, &told, patience))
        };
        let clients = patience.iter().copied().map(client).collect();
        Self { told, clients }
    }

    fn served_by(&self, name: &str) -> u64 {
        self.told.served.lock().get(name).copied().unwrap_or(0)
    }

    async fn goes_on(&self) {
        let now = self.told.done.load(Relaxed);
        self.until("requests", || self.told.done.load(Relaxed) >= now + BETWEEN)
            .await;
    }

    async fn until_served_by(&self, name: &str) {
        let now = self.served_by(name);
        self.until(name, || self.served_by(name) >= now + BETWEEN)
            .await;
    }

    async fn until(&self, what: &str, reached: impl Fn() -> bool) {
        let wait = async {
            while !reached() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(LIMIT, wait).await.is_err() {
            panic!("{what}: {:?}", self.told.failures.lock());
        }
    }

    fn ends_well(self) {
        self.told.stop.store(true, Relaxed);
        for client in self.clients {
            client.join().expect("a client does not panic");
        }
        let failures = self.told.failures.lock();
        assert!(failures.is_empty(), "{failures:?}");
    }
}

/// `patience`: requests on one connection.
fn ask(address: SocketAddr, told: &Told, patience: usize) {
    let mut connection: Option<(TcpStream, usize)> = None;
    while !told.stop.load(Relaxed) {
        let (mut stream, asked) = connection.take().unwrap_or_else(|| (connect(address), 0));
        let sent = stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        let head = read_head(&mut stream);
        told.done.fetch_add(1, Relaxed);
        let value = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().to_owned()
        };
        if sent.is_err() || !head.starts_with("HTTP/1.1 200 ") {
            told.failures
                .lock()
                .push(format!("after {asked}: {head:?}"));
            continue;
        }
        *told.served.lock().entry(value("served-by: ")).or_default() += 1;
        if value("connection: ") != "close" && asked + 1 < patience {
            connection = Some((stream, asked + 1));
        }
    }
}
