//! Outbound clusters: one for each port of each service, and for each subset of it.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use ithildin_proto::{
    pack,
    pb::{
        envoy::{
            config::{
                cluster::v3::{
                    CircuitBreakers, Cluster, OutlierDetection, UpstreamConnectionOptions,
                    circuit_breakers::Thresholds,
                    cluster::{
                        ClusterDiscoveryType, CommonLbConfig, DiscoveryType, DnsLookupFamily,
                        EdsClusterConfig, LbPolicy, TransportSocketMatch,
                    },
                },
                core::v3::{
                    Http1ProtocolOptions, Http2ProtocolOptions,
                    HttpProtocolOptions as CommonHttpOptions, TcpKeepalive, TypedExtensionConfig,
                    UpstreamHttpProtocolOptions,
                },
            },
            extensions::{
                network::dns_resolver::cares::v3::CaresDnsResolverConfig,
                upstreams::http::v3::{
                    HttpProtocolOptions,
                    http_protocol_options::{
                        ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
                        explicit_http_config::ProtocolConfig,
                    },
                },
            },
            r#type::v3::Percent,
        },
        google::protobuf::{Any, ListValue, Struct, Value, value::Kind},
    },
};

use super::{
    Build, tls,
    wire::{ads, bool_value, config_path, istio_metadata, number, structure, text, time},
};
use crate::{
    model::{self, ClientTlsMode, ClientTlsSettings, ConnectionPool, H2Upgrade, SimpleLb, Subset},
    mtls::MtlsMode,
    node::NodeKind,
    protocol::Protocol,
    registry::{Discovery, Port, Service},
    rules::{MergedRule, Settings},
};

pub(super) const PASSTHROUGH: &str = "PassthroughCluster";
pub(super) const BLACK_HOLE: &str = "BlackHoleCluster";

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Idle time of connections to wherever the workload dialled.
const PASSTHROUGH_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How often names are resolved again where the answer has no TTL.
const DNS_REFRESH: Duration = Duration::from_secs(60);
const DNS_JITTER: Duration = Duration::from_millis(100);
/// Queries on one UDP socket of the resolver.
const DNS_MAX_QUERIES: u32 = 100;

/// Name of the cluster for a port of a host; empty `subset` for the whole service.
pub(super) fn outbound_name(port: u16, subset: &str, host: &str) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// What a cluster is built from.
struct Target<'a> {
    service: &'a Service,
    port: &'a Port,
    rule: Option<&'a MergedRule<'a>>,
    subset: Option<&'a Subset>,
    settings: Settings<'a>,
}

/// What decides the transport sockets.
pub(super) enum UpstreamTls<'a> {
    Plaintext,
    /// What a rule says.
    Rule(&'a ClientTlsSettings),
    /// mTLS where the endpoint can do it.
    Auto,
    /// mTLS always, as every endpoint can do it and the destination is not chosen by us.
    AutoEverywhere,
}

impl<'a> Build<'a> {
    /// All outbound clusters with their endpoints.
    pub(super) fn clusters(&mut self) {
        for service in self.services() {
            let rule = self.rules.find(service);
            for port in &service.ports {
                if port.protocol == Protocol::Udp {
                    continue;
                }
                self.service_clusters(service, port, rule.as_ref());
            }
        }
        let black_hole = self.bare(BLACK_HOLE, DiscoveryType::Static);
        self.add_cluster(black_hole);
        if self.node.captures() {
            let passthrough = self.passthrough(PASSTHROUGH, PASSTHROUGH);
            self.add_cluster(passthrough);
        }
    }

    /// To the address that the connection was made to.
    pub(super) fn passthrough(&self, name: &str, stat_name: &str) -> Cluster {
        let options = HttpProtocolOptions {
            common_http_protocol_options: Some(CommonHttpOptions {
                idle_timeout: time(PASSTHROUGH_IDLE_TIMEOUT),
                ..CommonHttpOptions::default()
            }),
            upstream_protocol_options: Some(downstream_protocol()),
            ..HttpProtocolOptions::default()
        };
        Cluster {
            alt_stat_name: format!("{stat_name};"),
            lb_policy: LbPolicy::ClusterProvided.into(),
            circuit_breakers: Some(circuit_breakers(None)),
            typed_extension_protocol_options: [(HTTP_OPTIONS.to_owned(), pack(&options))].into(),
            ..self.bare(name, DiscoveryType::OriginalDst)
        }
    }

    /// A cluster with only what all have.
    pub(super) fn bare(&self, name: &str, discovery: DiscoveryType) -> Cluster {
        Cluster {
            name: name.to_owned(),
            alt_stat_name: format!("{name};"),
            connect_timeout: time(self.mesh.connect_timeout()),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery.into())),
            ..Cluster::default()
        }
    }

    fn service_clusters(
        &mut self,
        service: &'a Service,
        port: &Port,
        rule: Option<&MergedRule<'a>>,
    ) {
        let subsets = rule.iter().flat_map(|rule| rule.subsets.iter());
        let subsets = std::iter::once(None).chain(subsets.map(|(_, subset)| Some(*subset)));
        for subset in subsets {
            let settings = rule
                .map(|rule| rule.settings(port.number, subset))
                .unwrap_or_default();
            let target = Target {
                service,
                port,
                rule,
                subset,
                settings,
            };
            let cluster = self.outbound_cluster(&target);
            if cluster.eds_cluster_config.is_some() {
                let endpoints = self.target_endpoints(&target, &cluster.name);
                self.add_endpoints(endpoints);
            }
            self.add_cluster(cluster);
        }
    }

    fn outbound_cluster(&self, target: &Target<'_>) -> Cluster {
        let subset = target.subset.map_or("", |subset| subset.name.as_str());
        let name = outbound_name(target.port.number, subset, &target.service.host);
        let discovery = self.discovery(target);
        let mut cluster = self.bare(&name, discovery);
        cluster.lb_policy = lb_policy(discovery, &target.settings).into();
        cluster.circuit_breakers = Some(circuit_breakers(target.settings.connection_pool));
        cluster.common_lb_config = Some(panic_threshold(&target.settings));
        cluster.outlier_detection = target.settings.outlier_detection.map(outlier_detection);
        if let Some(pool) = target.settings.connection_pool {
            apply_tcp(&mut cluster, pool);
        }
        self.apply_discovery(&mut cluster, target, discovery);
        let tls = self.upstream_tls(target, discovery);
        self.apply_tls(&mut cluster, target, &tls);
        if let Some(options) = self.http_options(target, &tls) {
            cluster
                .typed_extension_protocol_options
                .insert(HTTP_OPTIONS.to_owned(), pack(&options));
        }
        cluster.metadata = Some(istio_metadata(cluster_metadata(target, &tls)));
        cluster
    }

    /// Where no connection is captured, there is no original destination to go to.
    fn discovery(&self, target: &Target<'_>) -> DiscoveryType {
        let passthrough = target
            .settings
            .load_balancer
            .is_some_and(|lb| lb.simple == SimpleLb::Passthrough);
        let original = passthrough
            || target.service.headless
            || target.service.discovery == Discovery::OriginalDestination;
        match target.service.discovery {
            _ if original && self.node.captures() => DiscoveryType::OriginalDst,
            Discovery::Dns => DiscoveryType::StrictDns,
            Discovery::Endpoints | Discovery::OriginalDestination => DiscoveryType::Eds,
        }
    }

    #[expect(deprecated, reason = "istiod sends these fields, not their successors")]
    fn apply_discovery(&self, cluster: &mut Cluster, target: &Target<'_>, kind: DiscoveryType) {
        if kind == DiscoveryType::Eds {
            cluster.eds_cluster_config = Some(EdsClusterConfig {
                eds_config: Some(ads()),
                service_name: cluster.name.clone(),
            });
        }
        if kind == DiscoveryType::StrictDns {
            cluster.load_assignment = Some(self.target_endpoints(target, &cluster.name));
            cluster.dns_refresh_rate = time(DNS_REFRESH);
            cluster.dns_jitter = time(DNS_JITTER);
            cluster.respect_dns_ttl = true;
            cluster.dns_lookup_family = dns_family(&self.node.ips).into();
            cluster.typed_dns_resolver_config = Some(TypedExtensionConfig {
                name: "envoy.network.dns_resolver.cares".to_owned(),
                typed_config: Some(pack(&CaresDnsResolverConfig {
                    udp_max_queries: number(DNS_MAX_QUERIES),
                    ..CaresDnsResolverConfig::default()
                })),
            });
        }
    }

    fn target_endpoints(
        &self,
        target: &Target<'_>,
        cluster: &str,
    ) -> ithildin_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment {
        let everything = BTreeMap::new();
        let labels = target.subset.map_or(&everything, |subset| &subset.labels);
        let rule_mode = target.settings.tls.map(|tls| tls.mode);
        self.load_assignment(
            cluster,
            target.service,
            target.port.number,
            labels,
            rule_mode,
            target.settings.outlier_detection.is_some(),
        )
    }

    fn upstream_tls<'t>(&self, target: &Target<'t>, discovery: DiscoveryType) -> UpstreamTls<'t> {
        if let Some(tls) = target.settings.tls {
            return match tls.mode {
                ClientTlsMode::Disable => UpstreamTls::Plaintext,
                _ => UpstreamTls::Rule(tls),
            };
        }
        let service = target.service;
        let disabled = self.mtls.of_namespace(&service.namespace) == MtlsMode::Disable;
        if service.external || !self.mesh.auto_mtls() || disabled {
            UpstreamTls::Plaintext
        } else if discovery == DiscoveryType::OriginalDst {
            let everywhere =
                !service.endpoints.is_empty() && service.endpoints.iter().all(|e| e.mesh_tls);
            if everywhere {
                UpstreamTls::AutoEverywhere
            } else {
                UpstreamTls::Plaintext
            }
        } else {
            UpstreamTls::Auto
        }
    }

    fn apply_tls(&self, cluster: &mut Cluster, target: &Target<'_>, tls: &UpstreamTls<'_>) {
        match tls {
            UpstreamTls::Plaintext => {}
            UpstreamTls::Auto => {
                let mutual = self.mesh_socket(target, None);
                cluster.transport_socket_matches = by_endpoint(mutual);
            }
            UpstreamTls::AutoEverywhere => {
                cluster.transport_socket = Some(self.mesh_socket(target, None));
            }
            UpstreamTls::Rule(rule) if rule.mode == ClientTlsMode::IstioMutual => {
                cluster.transport_socket = Some(self.mesh_socket(target, Some(rule)));
            }
            UpstreamTls::Rule(rule) => {
                let certificate = rule
                    .client_certificate
                    .as_deref()
                    .zip(rule.private_key.as_deref());
                let files = tls::ClientFiles {
                    certificate,
                    roots: rule.ca_certificates.as_deref(),
                };
                cluster.transport_socket = Some(tls::from_files(
                    &self.node.sds_cluster,
                    &files,
                    rule.sni.clone().unwrap_or_default(),
                    file_sans(rule, target.service).iter().cloned(),
                    http2(target),
                ));
            }
        }
    }

    fn mesh_socket(
        &self,
        target: &Target<'_>,
        rule: Option<&ClientTlsSettings>,
    ) -> ithildin_proto::pb::envoy::config::core::v3::TransportSocket {
        let subset = target.subset.map_or("", |subset| subset.name.as_str());
        let own_sni = format!(
            "outbound_.{}_.{subset}_.{}",
            target.port.number, target.service.host
        );
        let sni = rule.and_then(|rule| rule.sni.clone()).unwrap_or(own_sni);
        let sans: Vec<String> = match rule {
            Some(rule) if !rule.subject_alt_names.is_empty() => rule.subject_alt_names.clone(),
            _ => target
                .service
                .identities(&self.trust_domains())
                .into_iter()
                .collect(),
        };
        tls::istio_mutual(&self.node.sds_cluster, sni, sans, http2(target))
    }

    fn http_options(
        &self,
        target: &Target<'_>,
        tls: &UpstreamTls<'_>,
    ) -> Option<HttpProtocolOptions> {
        let pool = target.settings.connection_pool;
        let common = pool.and_then(common_http);
        let names = match tls {
            UpstreamTls::Rule(rule) if rule.mode != ClientTlsMode::IstioMutual => {
                automatic_names(rule, target.service)
            }
            _ => None,
        };
        let protocol = self.upstream_protocol(target);
        if common.is_none() && names.is_none() && protocol.is_none() {
            return None;
        }
        Some(HttpProtocolOptions {
            common_http_protocol_options: common,
            upstream_http_protocol_options: names,
            upstream_protocol_options: Some(protocol.unwrap_or_else(|| {
                explicit(ProtocolConfig::HttpProtocolOptions(
                    Http1ProtocolOptions::default(),
                ))
            })),
            ..HttpProtocolOptions::default()
        })
    }

    /// `None`: HTTP/1.1, Envoy's default.
    fn upstream_protocol(&self, target: &Target<'_>) -> Option<UpstreamProtocolOptions> {
        let pool = target.settings.connection_pool;
        let sniffed =
            target.port.protocol == Protocol::Unknown && self.node.kind == NodeKind::Sidecar;
        if http2(target) {
            let streams = pool.and_then(|pool| pool.http.max_concurrent_streams);
            return Some(explicit(ProtocolConfig::Http2ProtocolOptions(
                Http2ProtocolOptions {
                    max_concurrent_streams: streams.and_then(number),
                    ..Http2ProtocolOptions::default()
                },
            )));
        }
        let as_client = pool.is_some_and(|pool| pool.http.use_client_protocol);
        (sniffed || as_client).then(downstream_protocol)
    }
}

/// Whether HTTP/2 is spoken whatever the client speaks.
fn http2(target: &Target<'_>) -> bool {
    let pool = target.settings.connection_pool;
    let as_client = pool.is_some_and(|pool| pool.http.use_client_protocol);
    let upgrade = pool.is_some_and(|pool| pool.http.h2_upgrade_policy == H2Upgrade::Upgrade);
    let http1 = target.port.protocol == Protocol::Http;
    !as_client && (target.port.protocol.is_http2() || (http1 && upgrade))
}

fn lb_policy(discovery: DiscoveryType, settings: &Settings<'_>) -> LbPolicy {
    if discovery == DiscoveryType::OriginalDst {
        return LbPolicy::ClusterProvided;
    }
    match settings
        .load_balancer
        .map(|lb| lb.simple)
        .unwrap_or_default()
    {
        SimpleLb::RoundRobin => LbPolicy::RoundRobin,
        SimpleLb::Random => LbPolicy::Random,
        SimpleLb::Unspecified
        | SimpleLb::LeastConn
        | SimpleLb::LeastRequest
        | SimpleLb::Passthrough => LbPolicy::LeastRequest,
    }
}

/// Istio limits nothing unless a rule does.
pub(super) fn circuit_breakers(pool: Option<&ConnectionPool>) -> CircuitBreakers {
    let limit = |value: fn(&ConnectionPool) -> Option<u32>| {
        number(pool.and_then(value).unwrap_or(u32::MAX))
    };
    CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: limit(|pool| pool.tcp.max_connections),
            max_pending_requests: limit(|pool| pool.http.http1_max_pending_requests),
            max_requests: limit(|pool| pool.http.http2_max_requests),
            max_retries: limit(|pool| pool.http.max_retries),
            ..Thresholds::default()
        }],
        ..CircuitBreakers::default()
    }
}

/// Below this share of healthy endpoints all are used; Istio: never, unless a rule says so.
fn panic_threshold(settings: &Settings<'_>) -> CommonLbConfig {
    let percent = settings
        .outlier_detection
        .and_then(|outlier| outlier.min_health_percent)
        .unwrap_or(0);
    CommonLbConfig {
        healthy_panic_threshold: Some(Percent {
            value: f64::from(percent),
        }),
        ..CommonLbConfig::default()
    }
}

fn outlier_detection(rule: &model::OutlierDetection) -> OutlierDetection {
    let always =
        |value: Option<u32>| value.and_then(|value| number(if value > 0 { 100 } else { 0 }));
    OutlierDetection {
        consecutive_5xx: rule.consecutive_5xx_errors.and_then(number),
        enforcing_consecutive_5xx: always(rule.consecutive_5xx_errors),
        consecutive_gateway_failure: rule.consecutive_gateway_errors.and_then(number),
        enforcing_consecutive_gateway_failure: always(rule.consecutive_gateway_errors),
        consecutive_local_origin_failure: rule.consecutive_local_origin_failures.and_then(number),
        enforcing_consecutive_local_origin_failure: always(rule.consecutive_local_origin_failures),
        split_external_local_origin_errors: rule.split_external_local_origin_errors,
        interval: rule.interval.and_then(|interval| time(interval.0)),
        base_ejection_time: rule
            .base_ejection_time
            .and_then(|interval| time(interval.0)),
        max_ejection_percent: rule.max_ejection_percent.and_then(number),
        enforcing_success_rate: number(0),
        ..OutlierDetection::default()
    }
}

fn apply_tcp(cluster: &mut Cluster, pool: &ConnectionPool) {
    if let Some(timeout) = pool.tcp.connect_timeout {
        cluster.connect_timeout = time(timeout.0);
    }
    let seconds = |value: Option<model::Interval>| {
        value.and_then(|value| number(u32::try_from(value.0.as_secs()).unwrap_or(u32::MAX)))
    };
    if let Some(keepalive) = &pool.tcp.tcp_keepalive {
        cluster.upstream_connection_options = Some(UpstreamConnectionOptions {
            tcp_keepalive: Some(TcpKeepalive {
                keepalive_probes: keepalive.probes.and_then(number),
                keepalive_time: seconds(keepalive.time),
                keepalive_interval: seconds(keepalive.interval),
            }),
            ..UpstreamConnectionOptions::default()
        });
    }
}

fn common_http(pool: &ConnectionPool) -> Option<CommonHttpOptions> {
    let options = CommonHttpOptions {
        idle_timeout: pool.http.idle_timeout.and_then(|timeout| time(timeout.0)),
        max_requests_per_connection: pool.http.max_requests_per_connection.and_then(number),
        max_connection_duration: pool
            .tcp
            .max_connection_duration
            .and_then(|duration| time(duration.0)),
        ..CommonHttpOptions::default()
    };
    (options != CommonHttpOptions::default()).then_some(options)
}

/// Without a name in the rule, the request's host is the SNI and, without SANs, what the
/// certificate must be for.
fn automatic_names(
    rule: &ClientTlsSettings,
    service: &Service,
) -> Option<UpstreamHttpProtocolOptions> {
    let auto_sni = rule.sni.as_deref().unwrap_or_default().is_empty();
    auto_sni.then(|| UpstreamHttpProtocolOptions {
        auto_sni,
        auto_san_validation: file_sans(rule, service).is_empty(),
        ..UpstreamHttpProtocolOptions::default()
    })
}

/// What the rule accepts, else what an external service says of itself.
fn file_sans<'a>(rule: &'a ClientTlsSettings, service: &'a Service) -> &'a [String] {
    if rule.subject_alt_names.is_empty() {
        &service.subject_alt_names
    } else {
        &rule.subject_alt_names
    }
}

fn by_endpoint(
    mutual: ithildin_proto::pb::envoy::config::core::v3::TransportSocket,
) -> Vec<TransportSocketMatch> {
    vec![
        TransportSocketMatch {
            name: "tlsMode-istio".to_owned(),
            r#match: Some(structure([("tlsMode", text("istio"))])),
            transport_socket: Some(mutual),
        },
        TransportSocketMatch {
            name: "tlsMode-disabled".to_owned(),
            r#match: Some(Struct::default()),
            transport_socket: Some(tls::plaintext()),
        },
    ]
}

fn explicit(config: ProtocolConfig) -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(config),
    })
}

/// The options of an inbound port: the workload is spoken to as its port declares, or as the
/// client speaks where it declares nothing.
pub(super) fn http_options_for(protocol: Protocol) -> HashMap<String, Any> {
    let upstream = match protocol {
        Protocol::Http2 | Protocol::Grpc => explicit(ProtocolConfig::Http2ProtocolOptions(
            Http2ProtocolOptions::default(),
        )),
        Protocol::Unknown => downstream_protocol(),
        _ => return HashMap::new(),
    };
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(upstream),
        ..HttpProtocolOptions::default()
    };
    [(HTTP_OPTIONS.to_owned(), pack(&options))].into()
}

fn downstream_protocol() -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
        http_protocol_options: Some(Http1ProtocolOptions::default()),
        http2_protocol_options: Some(Http2ProtocolOptions::default()),
        http3_protocol_options: None,
    })
}

fn dns_family(ips: &[IpAddr]) -> DnsLookupFamily {
    match (
        ips.iter().any(IpAddr::is_ipv4),
        ips.iter().any(IpAddr::is_ipv6),
    ) {
        (true, true) => DnsLookupFamily::All,
        (false, true) => DnsLookupFamily::V6Only,
        (_, false) => DnsLookupFamily::V4Only,
    }
}

fn cluster_metadata<'t>(target: &Target<'t>, tls: &UpstreamTls<'_>) -> Vec<(&'t str, Value)> {
    let mut fields = vec![("services", services_metadata(target.service))];
    if let Some(rule) = target.rule {
        let source = rule.source;
        let path = config_path("destination-rule", source.namespace(), source.name());
        fields.push(("config", path));
    }
    if let Some(subset) = target.subset {
        fields.push(("subset", text(&subset.name)));
    }
    if target.service.external {
        fields.push(("external", bool_value(true)));
    }
    if matches!(tls, UpstreamTls::Rule(rule) if rule.mode != ClientTlsMode::IstioMutual) {
        fields.push(("alpn_override", text("false")));
    }
    fields
}

/// Istio's metadata that names the service behind a cluster.
pub(super) fn services_metadata(service: &Service) -> Value {
    let fields = structure([
        ("host", text(&service.host)),
        ("name", text(&service.name)),
        ("namespace", text(&service.namespace)),
    ]);
    Value {
        kind: Some(Kind::ListValue(ListValue {
            values: vec![Value {
                kind: Some(Kind::StructValue(fields)),
            }],
        })),
    }
}
