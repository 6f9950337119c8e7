//! The old serves until the new is warm; timeouts, removal, rotation and expiry.

use std::{sync::Arc, time::Duration};

use ithildin_proto::{
    duration, from_yaml, pack,
    pb::{
        envoy::{
            config::{
                cluster::v3::{
                    Cluster,
                    cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig},
                },
                core::v3::{
                    Address, AggregatedConfigSource, ApiConfigSource, ConfigSource, DataSource,
                    SocketAddress, TransportSocket, address, config_source::ConfigSourceSpecifier,
                    data_source::Specifier, socket_address::PortSpecifier, transport_socket,
                },
                endpoint::v3::{
                    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
                    lb_endpoint::HostIdentifier,
                },
                listener::v3::{Filter, FilterChain, Listener, filter},
                route::v3::{
                    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route,
                    route_action::ClusterSpecifier, route_match::PathSpecifier,
                },
            },
            extensions::{
                filters::{
                    http::router::v3::Router,
                    network::http_connection_manager::v3::{
                        HttpConnectionManager, HttpFilter, Rds,
                        http_connection_manager::RouteSpecifier, http_filter,
                    },
                },
                transport_sockets::tls::v3::{
                    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext,
                    SdsSecretConfig, Secret, TlsCertificate, UpstreamTlsContext,
                    common_tls_context::ValidationContextType, secret,
                },
            },
        },
        google::protobuf::BoolValue,
    },
};
use ithildin_xds::{KindProvenance, ResourceKind, ResourceSet, SecretState};

use super::support::Bench;
use crate::{config::listener::Terminal, testing::eventually};

/// `initial_fetch_timeout` of secrets; long enough for a test to set one first.
const SECRET_TIMEOUT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_cluster_waits_for_its_endpoints_and_the_old_one_serves_meanwhile() {
    let mut set = ResourceSet::default();
    add_cluster(&mut set, eds_cluster("a", "first", None));
    let bench = Bench::start(set.clone());
    let state = bench
        .until("waits", |state| !state.waiting.is_empty())
        .await;
    assert_eq!(&*state.waiting[0], "cluster \"a\": endpoints \"first\"");
    assert!(bench.snapshot().clusters.is_empty());

    add_endpoints(&mut set, "first", &["127.0.0.1", "127.0.0.2"]);
    bench.send(set.clone());
    bench.until("is warm", |state| state.version == 1).await;
    let first = Arc::clone(&bench.snapshot().clusters["a"]);
    assert_eq!(first.endpoints.load().priorities[0].len(), 2);

    add_cluster(&mut set, eds_cluster("a", "second", None));
    bench.send(set.clone());
    bench
        .until("warms anew", |state| !state.waiting.is_empty())
        .await;
    assert!(Arc::ptr_eq(&first, &bench.snapshot().clusters["a"]));

    add_endpoints(&mut set, "second", &["127.0.0.3"]);
    bench.send(set);
    bench.until("is replaced", |state| state.version == 2).await;
    let second = Arc::clone(&bench.snapshot().clusters["a"]);
    assert!(second.generation > first.generation);
    assert_eq!(second.endpoints.load().priorities[0].len(), 1);
    assert!(Arc::ptr_eq(&first.stats, &second.stats), "counters go on");
}

#[tokio::test]
async fn endpoints_are_swapped_in_place_and_unchanged_ones_kept() {
    let mut set = ResourceSet::default();
    add_cluster(&mut set, eds_cluster("a", "", None));
    add_endpoints(&mut set, "a", &["127.0.0.1"]);
    let bench = Bench::start(set.clone());
    bench.until("is warm", |state| state.version == 1).await;
    let cluster = Arc::clone(&bench.snapshot().clusters["a"]);
    let before = Arc::clone(&cluster.endpoints.load().priorities[0][0]);

    add_endpoints(&mut set, "a", &["127.0.0.1", "127.0.0.2"]);
    // The same message anew, as state-of-the-world sends it: nothing is compiled.
    add_cluster(&mut set, eds_cluster("a", "", None));
    bench.send(set);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(Arc::ptr_eq(&cluster, &bench.snapshot().clusters["a"]));
    let after = cluster.endpoints.load_full();
    assert_eq!(after.priorities[0].len(), 2);
    assert!(Arc::ptr_eq(&before, &after.priorities[0][0]));
}

#[tokio::test]
async fn waiting_ends_after_initial_fetch_timeout_and_never_with_zero() {
    let mut set = ResourceSet::default();
    let timeout = Duration::from_millis(200);
    add_cluster(&mut set, eds_cluster("bounded", "", Some(timeout)));
    let bench = Bench::start(set.clone());
    let start = tokio::time::Instant::now();
    bench.until("gives up", |state| state.version == 1).await;
    assert!(start.elapsed() >= timeout);
    assert!(
        bench.snapshot().clusters["bounded"]
            .endpoints
            .load()
            .priorities
            .is_empty()
    );

    add_cluster(&mut set, eds_cluster("patient", "", None));
    bench.send(set);
    bench
        .until("waits", |state| !state.waiting.is_empty())
        .await;
    tokio::time::sleep(2 * timeout).await;
    assert!(!bench.snapshot().clusters.contains_key("patient"));
}

#[tokio::test]
async fn a_listener_waits_for_its_routes() {
    let mut set = ResourceSet::default();
    add_listener(&mut set, http_listener("l", "r", None));
    let bench = Bench::start(set.clone());
    let state = bench
        .until("waits", |state| !state.waiting.is_empty())
        .await;
    assert_eq!(&*state.waiting[0], "listener \"l\": routes \"r\"");
    assert!(bench.snapshot().listeners.is_empty());

    add_routes(&mut set, "r", "/");
    bench.send(set.clone());
    bench.until("is warm", |state| state.version == 1).await;
    let listener = Arc::clone(&bench.snapshot().listeners[0]);

    // New routes are read in place.
    add_routes(&mut set, "r", "/v2");
    bench.send(set.clone());
    let Terminal::Http(manager) = &listener.chains.chains()[0].terminal else {
        panic!("an HTTP connection manager");
    };
    let mut now = String::new();
    for _ in 0..100 {
        tokio::task::yield_now().await;
        let table = manager.routes.load_full().expect("routes");
        now = format!("{:?}", table.hosts[0].routes[0].matches.path);
    }
    assert!(now.contains("/v2"), "{now}");
    assert!(Arc::ptr_eq(&listener, &bench.snapshot().listeners[0]));

    // Refused routes change nothing, and are told of.
    add_routes(&mut set, "r", "");
    set.routes.insert(
        "r".into(),
        Arc::new(RouteConfiguration {
            name: "r".into(),
            vhds: Some(Default::default()),
            ..Default::default()
        }),
    );
    bench.send(set);
    let state = bench
        .until("is refused", |state| !state.rejected.is_empty())
        .await;
    assert_eq!(
        &*state.rejected[0].reason,
        "route configuration \"r\".vhds: is not supported"
    );
    assert!(manager.routes.load().is_some());
}

#[tokio::test]
async fn a_listener_without_its_certificate_serves_after_the_timeout_with_an_empty_slot() {
    let mut set = ResourceSet::default();
    add_listener(&mut set, http_listener("l", "r", Some("cert")));
    add_routes(&mut set, "r", "/");
    let bench = Bench::start(set);
    let start = tokio::time::Instant::now();
    bench.until("gives up", |state| state.version == 1).await;
    assert!(start.elapsed() >= SECRET_TIMEOUT);
    let listener = Arc::clone(&bench.snapshot().listeners[0]);
    let tls = listener.chains.chains()[0].tls.as_ref().expect("a context");
    assert!(tls.params().identity.load().is_none());

    // It comes late, is taken away, and comes back; nothing is compiled.
    let (secret, _) = certificate("cert", 3600);
    bench.secrets.ready("cert", secret.clone());
    bench.until("comes", |state| state.secrets[0].ready).await;
    assert!(tls.params().identity.load().is_some());
    bench
        .secrets
        .set("cert", SecretState::Unavailable("withdrawn".into()));
    let state = bench.until("goes", |state| !state.secrets[0].ready).await;
    assert_eq!(state.secrets[0].error.as_deref(), Some("withdrawn"));
    assert!(tls.params().identity.load().is_none());
    bench.secrets.ready("cert", secret);
    bench
        .until("comes back", |state| state.secrets[0].ready)
        .await;
    assert!(tls.params().identity.load().is_some());
    assert_eq!(bench.snapshot().version, 1);
}

#[tokio::test]
async fn a_malformed_secret_is_refused_and_the_previous_one_kept() {
    let (bench, slot) = tls_listener().await;
    let before = slot.load().expect("an identity");
    let mut broken = certificate("cert", 3600).0;
    let Some(secret::Type::TlsCertificate(certificate)) = &mut broken.r#type else {
        panic!("a certificate");
    };
    certificate.private_key = Some(inline(b"no key"));
    bench.secrets.ready("cert", broken);
    let state = bench
        .until("is refused", |state| state.secrets[0].rejected == 1)
        .await;
    let error = state.secrets[0].error.as_deref().unwrap_or_default();
    assert!(
        error.starts_with("secret \"cert\".tls_certificate: "),
        "{error}"
    );
    assert!(Arc::ptr_eq(
        &before,
        &slot.load().expect("the previous one")
    ));
}

#[tokio::test]
async fn an_identity_leaves_its_slot_when_it_expires() {
    let (bench, slot) = tls_listener().await;
    bench.secrets.ready("cert", certificate("cert", 4).0);
    bench
        .until("is taken", |state| state.secrets[0].updates == 2)
        .await;
    assert!(slot.load().is_some());
    bench
        .until("expires", |state| !state.secrets[0].ready)
        .await;
    assert!(slot.load().is_none());
}

#[tokio::test]
async fn secrets_are_shared_and_let_go() {
    let mut set = ResourceSet::default();
    for name in ["a", "b"] {
        add_cluster(&mut set, tls_cluster(name));
    }
    let bench = Bench::start(set.clone());
    let (secret, ca) = certificate("cert", 3600);
    bench.secrets.ready("cert", secret);
    bench.secrets.ready("ca", roots("ca", &ca));
    bench.until("is warm", |state| state.version == 1).await;
    assert_eq!(bench.snapshot().clusters.len(), 2);
    assert_eq!(bench.secrets.subscribers("cert"), 1);

    set.clusters.remove("a");
    bench.send(set.clone());
    bench.until("one goes", |state| state.version == 2).await;
    assert_eq!(bench.secrets.subscribers("ca"), 1);
    set.clusters.clear();
    bench.send(set);
    bench.until("both go", |state| state.version == 3).await;
    bench
        .until("secrets go", |state| state.secrets.is_empty())
        .await;
    let gone = || bench.secrets.subscribers("ca") == 0;
    eventually("the subscription ends", gone).await;
    // Coming and going leaves nothing behind.
    for version in [4, 6, 8] {
        let mut set = ResourceSet::default();
        add_cluster(&mut set, tls_cluster("a"));
        bench.send(set);
        bench
            .until("it comes", |state| state.version == version)
            .await;
        assert_eq!(bench.secrets.subscribers("ca"), 1);
        bench.send(ResourceSet::default());
        bench
            .until("it goes", |state| state.version == version + 1)
            .await;
    }
    eventually("all subscriptions end", gone).await;
}

#[tokio::test]
async fn a_served_context_without_roots_trusts_nobody() {
    let mut set = ResourceSet::default();
    add_cluster(&mut set, tls_cluster("a"));
    let bench = Bench::start(set);
    bench.secrets.ready("cert", certificate("cert", 3600).0);
    bench.secrets.ready(
        "ca",
        Secret {
            name: "ca".into(),
            r#type: Some(secret::Type::ValidationContext(
                CertificateValidationContext::default(),
            )),
        },
    );
    let refused = |state: &Arc<crate::control::ControlState>| {
        state.secrets.iter().any(|secret| secret.rejected == 1)
    };
    let state = bench.until("is refused", refused).await;
    let ca = state
        .secrets
        .iter()
        .find(|secret| &*secret.name == "ca")
        .expect("a secret");
    assert_eq!(
        ca.error.as_deref(),
        Some(
            "secret \"ca\".validation_context: has neither trusted_ca nor \
             custom_validator_config: it trusts nobody"
        )
    );
    // A first answer was there, so the cluster is live; its handshakes fail.
    bench.until("is live", |state| state.version == 1).await;
    let cluster = Arc::clone(&bench.snapshot().clusters["a"]);
    let (context, _) = cluster.transport.tls(0).expect("it has TLS");
    assert!(context.params().validation.load().is_none());
}

/// A listener that serves with the secret `cert`, and that slot.
async fn tls_listener() -> (Bench, Arc<ithildin_tls::Slot<ithildin_tls::Identity>>) {
    let mut set = ResourceSet::default();
    add_listener(&mut set, http_listener("l", "r", Some("cert")));
    add_routes(&mut set, "r", "/");
    let bench = Bench::start(set);
    bench.secrets.ready("cert", certificate("cert", 3600).0);
    bench.until("is warm", |state| state.version == 1).await;
    let snapshot = bench.snapshot();
    let tls = snapshot.listeners[0].chains.chains()[0]
        .tls
        .as_ref()
        .expect("a context");
    let slot = Arc::clone(&tls.params().identity);
    (bench, slot)
}

pub(super) fn add_cluster(set: &mut ResourceSet, cluster: Cluster) {
    set.clusters.insert(cluster.name.clone(), Arc::new(cluster));
}

pub(super) fn add_listener(set: &mut ResourceSet, listener: Listener) {
    set.listeners
        .insert(listener.name.clone(), Arc::new(listener));
}

/// `None`: they are waited for as long as it takes.
fn ads(timeout: Option<Duration>) -> ConfigSource {
    ConfigSource {
        initial_fetch_timeout: Some(duration(timeout.unwrap_or_default())),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

pub(super) fn eds_cluster(name: &str, service_name: &str, timeout: Option<Duration>) -> Cluster {
    Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads(timeout)),
            service_name: service_name.into(),
        }),
        ..Default::default()
    }
}

fn tls_cluster(name: &str) -> Cluster {
    let context = UpstreamTlsContext {
        common_tls_context: Some(common("cert", Some("ca"))),
        ..Default::default()
    };
    Cluster {
        name: name.into(),
        transport_socket: Some(socket(pack(&context))),
        ..Default::default()
    }
}

fn socket(config: ithildin_proto::pb::google::protobuf::Any) -> TransportSocket {
    TransportSocket {
        name: "tls".into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(config)),
    }
}

fn common(certificate: &str, ca: Option<&str>) -> CommonTlsContext {
    CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![sds(certificate)],
        validation_context_type: ca
            .map(|ca| ValidationContextType::ValidationContextSdsSecretConfig(sds(ca))),
        ..Default::default()
    }
}

fn sds(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.into(),
        sds_config: Some(ConfigSource {
            initial_fetch_timeout: Some(duration(SECRET_TIMEOUT)),
            config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(
                ApiConfigSource::default(),
            )),
            ..Default::default()
        }),
    }
}

fn socket_address(host: &str, port: u32) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: host.into(),
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..Default::default()
        })),
    }
}

pub(super) fn add_endpoints(set: &mut ResourceSet, name: &str, hosts: &[&str]) {
    let endpoints = hosts.iter().map(|host| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(socket_address(host, 80)),
            ..Default::default()
        })),
        ..Default::default()
    });
    let assignment = ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: endpoints.collect(),
            ..Default::default()
        }],
        ..Default::default()
    };
    set.endpoints.insert(name.into(), Arc::new(assignment));
}

pub(super) fn add_routes(set: &mut ResourceSet, name: &str, prefix: &str) {
    let table = RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![VirtualHost {
            name: "v".into(),
            domains: vec!["*".into()],
            routes: vec![Route {
                r#match: Some(RouteMatch {
                    path_specifier: Some(PathSpecifier::Prefix(prefix.into())),
                    ..Default::default()
                }),
                action: Some(route::Action::Route(RouteAction {
                    cluster_specifier: Some(ClusterSpecifier::Cluster("c".into())),
                    ..Default::default()
                })),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    set.routes.insert(name.into(), Arc::new(table));
}

pub(super) fn http_listener(name: &str, routes: &str, certificate: Option<&str>) -> Listener {
    let router = HttpFilter {
        name: "router".into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(
            &Router::default(),
        ))),
        ..Default::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: "test".into(),
        http_filters: vec![router],
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads(None)),
            route_config_name: routes.into(),
        })),
        ..Default::default()
    };
    let transport_socket = certificate.map(|certificate| {
        socket(pack(&DownstreamTlsContext {
            common_tls_context: Some(common(certificate, None)),
            require_client_certificate: Some(BoolValue { value: false }),
            ..Default::default()
        }))
    });
    Listener {
        name: name.into(),
        address: Some(socket_address("127.0.0.1", 0)),
        filter_chains: vec![FilterChain {
            transport_socket,
            filters: vec![Filter {
                name: "http".into(),
                config_type: Some(filter::ConfigType::TypedConfig(pack(&manager))),
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn inline(bytes: &[u8]) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(bytes.to_vec())),
        ..Default::default()
    }
}

/// A self-signed certificate for `seconds`, and its PEM.
fn certificate(name: &str, seconds: i64) -> (Secret, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["test".into()]).expect("names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let end = std::time::SystemTime::now() + Duration::from_secs(seconds.unsigned_abs());
    params.not_after = end.into();
    let certificate = params.self_signed(&key).expect("a certificate");
    let secret = Secret {
        name: name.into(),
        r#type: Some(secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline(certificate.pem().as_bytes())),
            private_key: Some(inline(key.serialize_pem().as_bytes())),
            ..Default::default()
        })),
    };
    (secret, certificate.pem())
}

fn roots(name: &str, pem: &str) -> Secret {
    Secret {
        name: name.into(),
        r#type: Some(secret::Type::ValidationContext(
            CertificateValidationContext {
                trusted_ca: Some(inline(pem.as_bytes())),
                ..Default::default()
            },
        )),
    }
}

#[tokio::test]
async fn what_serves_already_is_not_compiled_again_after_a_mistake() {
    let mut set = ResourceSet::default();
    add_cluster(&mut set, eds_cluster("a", "e", None));
    add_endpoints(&mut set, "e", &["127.0.0.1"]);
    let bench = Bench::start(set.clone());
    bench.until("is warm", |state| state.version == 1).await;
    let served = Arc::clone(&bench.snapshot().clusters["a"]);

    let mut broken = eds_cluster("a", "e", None);
    broken.lb_subset_config = Some(Default::default());
    add_cluster(&mut set, broken);
    bench.send(set.clone());
    bench
        .until("is refused", |state| !state.rejected.is_empty())
        .await;
    add_cluster(&mut set, eds_cluster("a", "e", None));
    bench.send(set);
    bench
        .until("is good again", |state| state.rejected.is_empty())
        .await;
    assert!(Arc::ptr_eq(&served, &bench.snapshot().clusters["a"]));
}

/// A control plane tells of clusters first, and of listeners a moment later.
#[tokio::test]
async fn nothing_is_whole_before_a_control_plane_has_told_of_listeners() {
    let told = |kinds: &[ResourceKind]| {
        let mut set = ResourceSet::default();
        let cluster = from_yaml("{name: c, type: STATIC}").unwrap();
        set.clusters.insert("c".into(), Arc::new(cluster));
        let of = |kind: &ResourceKind| (*kind, KindProvenance::default());
        set.provenance = Some(Arc::new(kinds.iter().map(of).collect()));
        set
    };
    let bootstrap = "{dynamic_resources: {cds_config: {ads: {}}, lds_config: {ads: {}}}}";
    let bootstrap = from_yaml(bootstrap).unwrap();
    let bench = Bench::with(bootstrap, told(&[ResourceKind::Cluster]));
    let state = bench
        .until("the cluster serves", |state| state.version == 1)
        .await;
    assert!(!state.started, "{:?}", state.waiting);
    assert_eq!(
        state.waiting,
        ["resources of the control plane".into()].into()
    );
    bench.send(told(&[ResourceKind::Cluster, ResourceKind::Listener]));
    bench
        .until("it starts", |state| {
            state.started && state.waiting.is_empty()
        })
        .await;
}
