//! A real Envoy as SDS consumer and ADS client, where `ENVOY_BIN` names one.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use ithildin_proto::{
    pack,
    pb::envoy::{
        config::{
            cluster::v3::{Cluster, cluster},
            core::v3::{
                Address, AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource,
                GrpcService, SocketAddress, TransportSocket, address,
                api_config_source::ApiType,
                config_source::ConfigSourceSpecifier,
                grpc_service::{EnvoyGrpc, TargetSpecifier},
                socket_address::PortSpecifier,
                transport_socket,
            },
            endpoint::v3::{
                ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
            },
            listener::v3::{Filter, FilterChain, Listener, filter},
            route::v3::{
                Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route,
                route_action, route_match,
            },
        },
        extensions::{
            filters::{
                http::router::v3::Router,
                network::http_connection_manager::v3::{
                    HttpConnectionManager, HttpFilter, Rds, http_connection_manager, http_filter,
                },
            },
            transport_sockets::tls::v3::{
                CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, common_tls_context,
            },
        },
    },
};
use ithildin_spiffe::{authority::WorkloadConfig, x509::certificates_to_pem};
use ithildin_xds::{AdsServer, NameMap, ResourceKind, ResourceSet, ads::AdsStatus, serve::Socket};
use tokio::sync::watch;
use tonic::service::Routes;

use crate::common::{LIMIT, Mesh, OTHER, OWN, WORKLOAD, domain, id};

const PEER: &str = "spiffe://otherdomain.test/peer";

/// Envoy, fed by us. Killed when dropped.
struct Lab {
    mesh: Mesh,
    resources: watch::Sender<Arc<ResourceSet>>,
    status: watch::Receiver<AdsStatus>,
    port: u16,
    admin: u16,
    envoy: Child,
    backends: BTreeMap<&'static str, u16>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.envoy.kill();
        let _ = self.envoy.wait();
    }
}

impl Lab {
    /// `None`, said by name, where there is no Envoy.
    async fn start(test: &str, api: &str) -> Option<Self> {
        let Some(binary) = std::env::var_os("ENVOY_BIN") else {
            println!("{test} ({api}): skipped, ENVOY_BIN is not set");
            return None;
        };
        let mesh = Mesh::start().await;
        mesh.authority
            .grant(OTHER, WorkloadConfig::new(id(PEER)))
            .unwrap();
        let (resources, receiver) = watch::channel(Arc::default());
        let ads = AdsServer::new(receiver);
        let status = ads.status();
        let path = mesh.folder.path().join("ads.sock");
        let socket = Socket::unix(&path, 0o600).unwrap();
        tokio::spawn(socket.serve(Routes::new(ads.into_service()), std::future::pending()));
        let (port, admin) = (free_port(), free_port());
        let backends = [("one", backend("one")), ("two", backend("two"))].into();
        let envoy = spawn(Path::new(&binary), &mesh, admin, api);
        let lab = Self {
            mesh,
            resources,
            status,
            port,
            admin,
            envoy,
            backends,
        };
        lab.route_to("one", "c0");
        Some(lab)
    }

    /// One listener, one route, one cluster at that backend.
    fn route_to(&self, backend: &str, cluster: &str) {
        let set = ResourceSet {
            clusters: one(cluster, eds_cluster(cluster)),
            endpoints: one(cluster, endpoints(cluster, self.backends[backend])),
            listeners: one("main", listener(self.port)),
            routes: one("routes", routes(cluster)),
            provenance: None,
        };
        self.resources.send_replace(Arc::new(set));
    }

    /// A GET with the SVID of `spiffe_id`; the body, or curl's complaint.
    fn get(&self, pem: &Path) -> Result<String, String> {
        let out = Command::new("curl")
            .args([
                "-ksS",
                "--noproxy",
                "*",
                "--max-time",
                "5",
                "--fail",
                "--cert",
            ])
            .arg(pem)
            .arg(format!("https://127.0.0.1:{}/", self.port))
            .output()
            .expect("curl runs");
        match out.status.success() {
            true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        }
    }

    /// The present SVID of a workload, in one PEM file.
    fn svid(&self, authority: &str, workload: &str) -> PathBuf {
        use ithildin_spiffe::Provider;
        let provider = self
            .mesh
            .authority
            .workload(authority, &id(workload))
            .unwrap();
        let state = provider.identities(&Default::default()).borrow().clone();
        let svid = Arc::clone(&state.snapshot().expect("an identity").svids[0]);
        let pem = certificates_to_pem(&svid.chain) + &svid.key.to_pem();
        let path = self.mesh.folder.path().join(format!("{authority}.pem"));
        fs::write(&path, pem).unwrap();
        path
    }

    /// Polls until the GET ends as wanted.
    async fn until(
        &self,
        pem: &Path,
        what: &str,
        wanted: impl Fn(&Result<String, String>) -> bool,
    ) {
        let end = Instant::now() + LIMIT;
        loop {
            let got = self.get(pem);
            if wanted(&got) {
                return;
            }
            assert!(
                Instant::now() < end,
                "{what}: {got:?}, {:?}",
                *self.status.borrow()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn admin(&self, path: &str) -> String {
        let url = format!("http://127.0.0.1:{}{path}", self.admin);
        let out = Command::new("curl")
            .args(["-sS", "--noproxy", "*", &url])
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

fn is(body: &str) -> impl Fn(&Result<String, String>) -> bool {
    move |got| got.as_ref().is_ok_and(|got| got == body)
}

async fn secrets_follow_the_identity(api: &str) {
    let Some(lab) = Lab::start("secrets_follow_the_identity", api).await else {
        return;
    };
    let own = lab.svid(OWN, WORKLOAD);
    let peer = lab.svid(OTHER, PEER);
    lab.until(&own, "own", is("one")).await;
    lab.until(&peer, "federated", is("one")).await;

    // The federation ends, and begins again: Envoy is not restarted.
    lab.mesh
        .authority
        .unfederate(&domain(OWN), &domain(OTHER))
        .unwrap();
    lab.mesh.sync().await;
    lab.until(&peer, "no federation", Result::is_err).await;
    lab.until(&own, "own", is("one")).await;
    lab.mesh
        .authority
        .federate(&domain(OWN), &domain(OTHER))
        .unwrap();
    lab.mesh.sync().await;
    lab.until(&peer, "federated again", is("one")).await;

    // A rotation reaches the wire.
    let before = lab.admin("/certs");
    lab.mesh
        .authority
        .rotate_leaf(OWN, Some(&id(WORKLOAD)))
        .unwrap();
    lab.mesh.sync().await;
    let end = Instant::now() + LIMIT;
    while lab.admin("/certs") == before {
        assert!(Instant::now() < end, "the new certificate does not arrive");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // A revoked peer is refused, others of its domain are not.
    let third = "spiffe://otherdomain.test/third";
    lab.mesh
        .authority
        .grant(OTHER, WorkloadConfig::new(id(third)))
        .unwrap();
    lab.mesh
        .authority
        .revoke_workload(OTHER, &id(PEER))
        .unwrap();
    lab.mesh.sync().await;
    lab.until(&peer, "revoked", Result::is_err).await;
    lab.until(&lab.svid(OTHER, third), "not revoked", is("one"))
        .await;
    lab.until(&own, "own domain", is("one")).await;

    // Without an identity Envoy trusts nobody and proves nothing.
    assert!(lab.admin("/certs").contains(WORKLOAD));
    lab.mesh.withdraw();
    lab.until(&own, "withdrawn", Result::is_err).await;
    // Its trust and its certificate come by two streams.
    let end = Instant::now() + LIMIT;
    while lab.admin("/certs").contains(WORKLOAD) {
        assert!(
            Instant::now() < end,
            "the withdrawn certificate stays in use"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    lab.mesh.sync().await;
    lab.until(&own, "granted again", is("one")).await;
    let stats = lab.admin("/stats?filter=sds.*rejected");
    assert!(
        !stats.is_empty() && stats.lines().all(|line| line.ends_with(": 0")),
        "{stats}"
    );
}

async fn updates_lose_no_request(api: &str) {
    let Some(lab) = Lab::start("updates_lose_no_request", api).await else {
        return;
    };
    let own = lab.svid(OWN, WORKLOAD);
    lab.until(&own, "start", is("one")).await;
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (pem, port) = (own.clone(), lab.port);
    let load = std::thread::spawn(move || {
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        // One curl for many requests: connections and the route lookups of each request.
        while stopped.try_recv().is_err() {
            let mut command = Command::new("curl");
            command.args(["-ksS", "--noproxy", "*", "--max-time", "20", "--cert"]);
            command.arg(&pem).args(["-w", "%{http_code} "]);
            for _ in 0..50 {
                command
                    .args(["-o", "/dev/null"])
                    .arg(format!("https://127.0.0.1:{port}/"));
            }
            let out = command.output().expect("curl runs");
            for code in String::from_utf8_lossy(&out.stdout).split_whitespace() {
                *seen.entry(code.to_owned()).or_default() += 1;
            }
        }
        seen
    });
    // Each update brings a cluster and takes one away.
    for i in 1..=30 {
        let backend = if i % 2 == 0 { "one" } else { "two" };
        lab.route_to(backend, &format!("c{i}"));
        lab.until(&own, "the update", is(backend)).await;
    }
    stop.send(()).unwrap();
    let seen = load.join().unwrap();
    println!("{api}: 30 updates under load, answers by status: {seen:?}");
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["200"], "{seen:?}");
    let end = Instant::now() + LIMIT;
    while lab.admin("/clusters").contains("c29::") {
        assert!(Instant::now() < end, "old clusters stay");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn a_refusal_is_kept_and_stops_nothing(api: &str) {
    let Some(mut lab) = Lab::start("a_refusal_is_kept_and_stops_nothing", api).await else {
        return;
    };
    let own = lab.svid(OWN, WORKLOAD);
    lab.until(&own, "start", is("one")).await;
    let serving = lab.status.wait_for(AdsStatus::is_serving);
    tokio::time::timeout(LIMIT, serving)
        .await
        .expect("an ACK")
        .unwrap();
    let good = Arc::clone(&lab.resources.borrow());
    let mut bad = ResourceSet::clone(&good);
    let mut broken = Listener::clone(&bad.listeners["main"]);
    broken.filter_chains[0].filters[0].name = "x".into();
    broken.filter_chains[0].filters[0].config_type = None;
    bad.listeners.insert("main".into(), Arc::new(broken));
    lab.resources.send_replace(Arc::new(bad));
    let refused = |status: &AdsStatus| {
        let listeners = status.kinds.get(&ResourceKind::Listener);
        listeners.is_some_and(|kind| kind.refusal.is_some())
    };
    let status = tokio::time::timeout(LIMIT, lab.status.wait_for(refused)).await;
    let status = status.expect("a NACK").unwrap().clone();
    let kind = &status.kinds[&ResourceKind::Listener];
    assert!(kind.refusal.as_ref().unwrap().contains("main"), "{kind:?}");
    assert_eq!(kind.refusals, 1);
    assert_eq!(lab.get(&own), Ok("one".into()));
    lab.resources.send_replace(good);
    let accepted = |status: &AdsStatus| !refused(status);
    tokio::time::timeout(LIMIT, lab.status.wait_for(accepted))
        .await
        .expect("an ACK")
        .unwrap();
    assert_eq!(
        lab.status.borrow().kinds[&ResourceKind::Listener].refusals,
        1
    );
}

/// Both variants of the protocol, one after the other: Envoys are heavy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_follow_the_identity_sotw() {
    secrets_follow_the_identity("GRPC").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_follow_the_identity_delta() {
    secrets_follow_the_identity("DELTA_GRPC").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_lose_no_request_sotw() {
    updates_lose_no_request("GRPC").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_lose_no_request_delta() {
    updates_lose_no_request("DELTA_GRPC").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_kept_and_stops_nothing_sotw() {
    a_refusal_is_kept_and_stops_nothing("GRPC").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_kept_and_stops_nothing_delta() {
    a_refusal_is_kept_and_stops_nothing("DELTA_GRPC").await;
}

fn one<T>(name: &str, resource: T) -> NameMap<T> {
    [(name.to_owned(), Arc::new(resource))].into()
}

fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        initial_fetch_timeout: Some(Default::default()),
        ..Default::default()
    }
}

fn address(port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: Ipv4Addr::LOCALHOST.to_string(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    }
}

fn eds_cluster(name: &str) -> Cluster {
    Cluster {
        name: name.into(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Eds.into(),
        )),
        eds_cluster_config: Some(cluster::EdsClusterConfig {
            eds_config: Some(ads()),
            ..Default::default()
        }),
        connect_timeout: Some(ithildin_proto::duration(Duration::from_secs(5))),
        ..Default::default()
    }
}

fn endpoints(cluster: &str, port: u16) -> ClusterLoadAssignment {
    let endpoint = LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
            address: Some(address(port)),
            ..Default::default()
        })),
        ..Default::default()
    };
    ClusterLoadAssignment {
        cluster_name: cluster.into(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![endpoint],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn routes(cluster: &str) -> RouteConfiguration {
    let to = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        action: Some(route::Action::Route(to)),
        ..Default::default()
    };
    RouteConfiguration {
        name: "routes".into(),
        virtual_hosts: vec![VirtualHost {
            name: "all".into(),
            domains: vec!["*".into()],
            routes: vec![route],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn listener(port: u16) -> Listener {
    let router = HttpFilter {
        name: "envoy.filters.http.router".into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(
            &Router::default(),
        ))),
        ..Default::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: "main".into(),
        route_specifier: Some(http_connection_manager::RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: "routes".into(),
        })),
        http_filters: vec![router],
        ..Default::default()
    };
    let filter = Filter {
        name: "envoy.filters.network.http_connection_manager".into(),
        config_type: Some(filter::ConfigType::TypedConfig(pack(&manager))),
    };
    Listener {
        name: "main".into(),
        address: Some(address(port)),
        filter_chains: vec![FilterChain {
            filters: vec![filter],
            transport_socket: Some(mtls()),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// As Istio writes it, without the SAN rules.
fn mtls() -> TransportSocket {
    let sds = |name: &str| {
        let grpc = EnvoyGrpc {
            cluster_name: "sds-grpc".into(),
            ..Default::default()
        };
        let api = ApiConfigSource {
            api_type: ApiType::Grpc.into(),
            transport_api_version: ApiVersion::V3.into(),
            grpc_services: vec![GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(grpc)),
                ..Default::default()
            }],
            set_node_on_first_message_only: true,
            ..Default::default()
        };
        SdsSecretConfig {
            name: name.into(),
            sds_config: Some(ConfigSource {
                resource_api_version: ApiVersion::V3.into(),
                initial_fetch_timeout: Some(Default::default()),
                config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(api)),
                ..Default::default()
            }),
        }
    };
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![sds("default")],
            validation_context_type: Some(
                common_tls_context::ValidationContextType::ValidationContextSdsSecretConfig(sds(
                    "ROOTCA",
                )),
            ),
            ..Default::default()
        }),
        ..Default::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(pack(&context))),
    }
}

fn spawn(binary: &Path, mesh: &Mesh, admin: u16, api: &str) -> Child {
    let folder = mesh.folder.path();
    let cluster = |name: &str, socket: &str| {
        let path = folder.join(socket);
        format!(
            r#"{{"name": "{name}", "type": "STATIC", "connect_timeout": "1s",
              "typed_extension_protocol_options": {{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {{
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {{"http2_protocol_options": {{}}}}}}}},
              "load_assignment": {{"cluster_name": "{name}", "endpoints": [{{"lb_endpoints": [{{
                "endpoint": {{"address": {{"pipe": {{"path": "{}"}}}}}}}}]}}]}}}}"#,
            path.display()
        )
    };
    let bootstrap = format!(
        r#"{{"node": {{"id": "router~127.0.0.1~test.test~test", "cluster": "test"}},
          "admin": {{"address": {{"socket_address": {{"address": "127.0.0.1", "port_value": {admin}}}}}}},
          "dynamic_resources": {{
            "cds_config": {{"ads": {{}}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}},
            "lds_config": {{"ads": {{}}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}},
            "ads_config": {{"api_type": "{api}", "transport_api_version": "V3",
              "set_node_on_first_message_only": true,
              "grpc_services": [{{"envoy_grpc": {{"cluster_name": "xds-grpc"}}}}]}}}},
          "static_resources": {{"clusters": [{}, {}]}}}}"#,
        cluster("xds-grpc", "ads.sock"),
        cluster("sds-grpc", "sds.sock"),
    );
    let path = folder.join("bootstrap.json");
    fs::write(&path, bootstrap).unwrap();
    let log = fs::File::create(folder.join("envoy.log")).unwrap();
    Command::new(binary)
        .arg("-c")
        .arg(path)
        .args([
            "--concurrency",
            "1",
            "--use-dynamic-base-id",
            "-l",
            "warning",
        ])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("Envoy starts")
}

fn free_port() -> u16 {
    ithildin_sys::port::unused().unwrap()
}

/// Answers every HTTP/1.1 request with `name`, as long as the test runs.
fn backend(name: &'static str) -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            std::thread::spawn(move || answer(stream, name));
        }
    });
    port
}

fn answer(mut stream: TcpStream, name: &str) {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..count]);
        while let Some(end) = seen.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            seen.drain(..end + 4);
            let length = name.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{name}");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}
