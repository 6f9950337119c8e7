//! What one changed resource costs beside thousands that stay: from the response of a control plane, over the
//! client that checks it, to what the workers serve.
//!
//! `cargo bench -p ithildin-proxy --bench updates`

#![expect(clippy::unwrap_used, reason = "a benchmark ends where something fails")]

use std::{
    fs,
    future::pending,
    net::Ipv4Addr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use ithildin_proto::{
    duration, from_yaml, pack,
    pb::{
        envoy::{
            config::{
                bootstrap::v3::Bootstrap,
                cluster::v3::Cluster,
                core::v3::{Address, Node, SocketAddress, address, socket_address::PortSpecifier},
                endpoint::v3::{
                    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
                    lb_endpoint::HostIdentifier,
                },
                listener::v3::{Listener, filter::ConfigType},
                route::v3::RouteConfiguration,
            },
            extensions::filters::network::http_connection_manager::v3::{
                HttpConnectionManager, http_connection_manager::RouteSpecifier,
            },
        },
        google::protobuf::Duration as ProtoDuration,
    },
};
use ithildin_proxy::{
    control::{self, Control, ControlState},
    stats::Registry,
};
use ithildin_xds::{
    AdsClient, ResourceKind, SecretRef, SecretState, SecretSubscriber, ServerAddress,
    ads::{AdsClientOptions, AdsProtocol, Follower, ResourceFollower, Upstream, Want},
    subscription::{Incoming, Receipt, Update, Verdict},
};
use prost::{Message, Name};
use tokio::sync::watch;

/// Clusters, each with its endpoints; and listeners, each with its routes.
const SIZES: [(usize, usize); 3] = [(500, 200), (5_000, 2_000), (20_000, 20_000)];
/// Updates of each kind, each with one resource.
const UPDATES: usize = 1_000;

fn main() {
    // `cargo test --all-targets` runs benchmarks too, without this.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.unwrap();
    for (clusters, listeners) in SIZES {
        runtime.block_on(measure(clusters, listeners));
    }
}

async fn measure(clusters: usize, listeners: usize) {
    println!("{clusters} clusters with endpoints, {listeners} listeners with routes");
    let mut mesh = Mesh::start();
    let begun = cpu();
    mesh.send((0..clusters).map(|n| cluster(n, 1))).await;
    mesh.send((0..clusters).map(|n| endpoints(n, 1))).await;
    mesh.send((0..listeners).map(|n| listener(n, 1))).await;
    mesh.send((0..listeners).map(|n| routes(n, 1))).await;
    assert!(mesh.is_warm(), "{:?}", mesh.state.borrow());
    println!("  all of them: {:?} of processor time", cpu() - begun);
    mesh.change(clusters, endpoints).await;
    mesh.change(listeners, routes).await;
    mesh.change(clusters, cluster).await;
    mesh.change(listeners, listener).await;
}

/// A control plane's client and the control task behind it.
struct Mesh {
    follower: ResourceFollower,
    control: Control,
    state: watch::Receiver<Arc<ControlState>>,
    _client: AdsClient,
}

impl Mesh {
    fn start() -> Self {
        let options = AdsClientOptions {
            server: Upstream::plain(&ServerAddress::Pipe("/nowhere".into())),
            node: Node::default(),
            protocol: AdsProtocol::Delta,
            endpoints: Vec::new(),
            check: Arc::new(control::check_resource),
        };
        let mut follower = None;
        let client = AdsClient::start_with(options, |of_client| {
            follower = Some(of_client);
            Nobody
        });
        let control = Control::start(
            Bootstrap::default(),
            client.resources(),
            Arc::new(NoSecrets),
            Arc::new(Registry::new(2)),
            None,
        );
        let control = control.unwrap();
        Self {
            follower: follower.unwrap(),
            state: control.state(),
            control,
            _client: client,
        }
    }

    /// Sends one response, and waits until the control task has done with it.
    async fn send<M: Message + Name>(&mut self, resources: impl Iterator<Item = (String, M)>) {
        self.state.mark_unchanged();
        let incoming = |(name, message)| Incoming {
            name,
            version: "".into(),
            body: Some(pack(&message)),
        };
        let verdict = self.follower.take(Update {
            url: ResourceKind::from_url(&M::type_url()).unwrap().into(),
            resources: resources.map(incoming).collect(),
            removed: Vec::new(),
            full: false,
            receipt: Receipt::default(),
        });
        assert_eq!(verdict, Some(Verdict::default()));
        self.state.changed().await.unwrap();
    }

    /// Sends one resource after the other, in forms that it did not have before.
    async fn change<M: Message + Name>(
        &mut self,
        count: usize,
        resource: impl Fn(usize, usize) -> (String, M),
    ) {
        let resources: Vec<_> = (0..UPDATES)
            .map(|update| resource(update * 7 % count, 2 + update))
            .collect();
        let version = self.control.published().current.load().version;
        let begun = cpu();
        for resource in resources {
            self.send([resource].into_iter()).await;
        }
        let each = (cpu() - begun) / u32::try_from(UPDATES).unwrap();
        assert!(self.is_warm(), "{:?}", self.state.borrow());
        let published = self.control.published().current.load().version - version;
        println!("  one {}: {each:?}, {published} snapshots", M::NAME);
    }

    fn is_warm(&self) -> bool {
        let state = self.state.borrow();
        state.waiting.is_empty() && state.rejected.is_empty()
    }
}

fn cluster(n: usize, form: usize) -> (String, Cluster) {
    static LIKE: LazyLock<Cluster> = LazyLock::new(|| {
        let eds = "{eds_config: {ads: {}, initial_fetch_timeout: 0s}}";
        from_yaml(&format!("{{type: EDS, eds_cluster_config: {eds}}}")).unwrap()
    });
    let cluster = Cluster {
        name: service(n),
        connect_timeout: Some(seconds(form)),
        ..LIKE.clone()
    };
    (cluster.name.clone(), cluster)
}

fn endpoints(n: usize, form: usize) -> (String, ClusterLoadAssignment) {
    let endpoint = Endpoint {
        address: Some(address(10, form)),
        ..Endpoint::default()
    };
    let host = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
        ..LbEndpoint::default()
    };
    let locality = LocalityLbEndpoints {
        lb_endpoints: vec![host],
        ..LocalityLbEndpoints::default()
    };
    let assignment = ClusterLoadAssignment {
        cluster_name: service(n),
        endpoints: vec![locality],
        ..ClusterLoadAssignment::default()
    };
    (assignment.cluster_name.clone(), assignment)
}

fn listener(n: usize, form: usize) -> (String, Listener) {
    static LIKE: LazyLock<(Listener, HttpConnectionManager)> = LazyLock::new(|| {
        let listener = "{bind_to_port: false, filter_chains: [{filters: [{name: http}]}]}";
        let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
        let router = format!("{{name: router, typed_config: {{'@type': {router}}}}}");
        let rds = "{config_source: {ads: {}, initial_fetch_timeout: 0s}}";
        let manager = format!("{{stat_prefix: s, rds: {rds}, http_filters: [{router}]}}");
        (from_yaml(listener).unwrap(), from_yaml(&manager).unwrap())
    });
    let (mut listener, mut manager) = LIKE.clone();
    if let Some(RouteSpecifier::Rds(rds)) = &mut manager.route_specifier {
        rds.route_config_name = route_name(n);
    }
    manager.stream_idle_timeout = Some(seconds(form));
    listener.filter_chains[0].filters[0].config_type =
        Some(ConfigType::TypedConfig(pack(&manager)));
    listener.name = format!("listener-{n}");
    listener.address = Some(address(11, n));
    (listener.name.clone(), listener)
}

fn routes(n: usize, form: usize) -> (String, RouteConfiguration) {
    static LIKE: LazyLock<RouteConfiguration> = LazyLock::new(|| {
        let route = format!(
            "{{match: {{prefix: /}}, route: {{cluster: {}}}}}",
            service(0)
        );
        let host = format!("{{name: all, domains: ['*'], routes: [{route}]}}");
        from_yaml(&format!("{{virtual_hosts: [{host}]}}")).unwrap()
    });
    let mut routes = LIKE.clone();
    routes.name = route_name(n);
    routes.virtual_hosts[0].name = format!("host-{form}");
    (routes.name.clone(), routes)
}

fn service(n: usize) -> String {
    format!("outbound|80||service-{n}.shop.svc.cluster.local")
}

fn route_name(n: usize) -> String {
    format!("routes-{n}")
}

fn seconds(n: usize) -> ProtoDuration {
    duration(Duration::from_secs(n as u64))
}

fn address(net: u8, n: usize) -> Address {
    let [.., a, b, c] = n.to_be_bytes();
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: Ipv4Addr::new(net, a, b, c).to_string(),
            port_specifier: Some(PortSpecifier::PortValue(80)),
            ..SocketAddress::default()
        })),
    }
}

/// Asks a server for nothing.
struct Nobody;

impl Follower for Nobody {
    fn node(&self) -> Option<Node> {
        None
    }

    fn wanted(&mut self) -> Vec<Want> {
        Vec::new()
    }

    fn take(&mut self, _: Update) -> Option<Verdict> {
        None
    }

    fn changed(&mut self) -> impl Future<Output = ()> + Send {
        pending()
    }
}

struct NoSecrets;

impl SecretSubscriber for NoSecrets {
    fn subscribe(&self, _: &SecretRef) -> watch::Receiver<SecretState> {
        watch::channel(SecretState::Pending("none here".into())).1
    }
}

/// Processor time of this process.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields = fields.split(' ').skip(11).take(2);
    let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}
