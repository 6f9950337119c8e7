//! Outbound clusters: one for each port of each service, and for each subset of it.

mod http;
mod limits;
mod transport;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ithildin_proto::{
    pack,
    pb::{
        envoy::{
            config::{
                cluster::v3::{
                    Cluster,
                    cluster::{
                        ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, EdsClusterConfig,
                        LbPolicy,
                    },
                },
                core::v3::{HttpProtocolOptions as CommonHttpOptions, TypedExtensionConfig},
                endpoint::v3::ClusterLoadAssignment,
            },
            extensions::{
                network::dns_resolver::cares::v3::CaresDnsResolverConfig,
                upstreams::http::v3::HttpProtocolOptions,
            },
        },
        google::protobuf::{ListValue, Value, value::Kind},
    },
};

pub(super) use http::http_options_for;
pub(super) use limits::circuit_breakers;

use self::{http::HTTP_OPTIONS, transport::UpstreamTls};
use super::{
    Build,
    wire::{ads, bool_value, config_path, istio_metadata, number, structure, text, time},
};
use crate::{
    model::{ClientTlsMode, SimpleLb, Subset},
    protocol::Protocol,
    registry::{Discovery, Port, Service},
    rules::{MergedRule, Settings},
};

pub(super) const PASSTHROUGH: &str = "PassthroughCluster";
pub(super) const BLACK_HOLE: &str = "BlackHoleCluster";

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
            upstream_protocol_options: Some(http::downstream_protocol()),
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
        cluster.lb_policy = limits::lb_policy(discovery, &target.settings).into();
        cluster.circuit_breakers = Some(circuit_breakers(target.settings.connection_pool));
        cluster.common_lb_config = Some(limits::panic_threshold(&target.settings));
        cluster.outlier_detection = target
            .settings
            .outlier_detection
            .map(limits::outlier_detection);
        if let Some(pool) = target.settings.connection_pool {
            limits::apply_tcp(&mut cluster, pool);
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

    fn target_endpoints(&self, target: &Target<'_>, cluster: &str) -> ClusterLoadAssignment {
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
