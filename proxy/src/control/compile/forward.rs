//! Dynamic forward proxies: the cluster, the HTTP filter and the network filter, which have a configuration of
//! DNS in common.

use std::{net::SocketAddr, time::Duration};

use ithildin_proto::pb::envoy::{
    config::cluster::v3::Cluster as ClusterProto,
    extensions::{
        clusters::dynamic_forward_proxy::v3::{
            ClusterConfig, cluster_config::ClusterImplementationSpecifier,
        },
        common::dynamic_forward_proxy::v3::DnsCacheConfig,
        filters::{
            http::dynamic_forward_proxy::v3::{
                FilterConfig as HttpFilter, filter_config::ImplementationSpecifier,
            },
            network::sni_dynamic_forward_proxy::v3::{
                FilterConfig as SniFilter, filter_config::PortSpecifier,
            },
        },
    },
};

use super::dns::{self, DnsSpec};
use crate::{
    config::cluster::UpstreamHttp,
    control::report::{At, no_effect, refuse},
};

/// Envoy's defaults.
const DEFAULT_REFRESH: Duration = Duration::from_secs(60);
const DEFAULT_MIN_REFRESH: Duration = Duration::from_secs(5);
const DEFAULT_HOST_TTL: Duration = Duration::from_secs(300);
const DEFAULT_MAX_HOSTS: u32 = 1024;
const DEFAULT_QUERY_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_MAX_PENDING: u32 = 1024;
/// `port_value` of a filter that names none.
const DEFAULT_SNI_PORT: u16 = 443;

/// How names are found, and how many.
#[derive(Clone, Debug)]
pub(in crate::control) struct ForwardSpec {
    pub(in crate::control) dns: DnsSpec,
    pub(in crate::control) max_hosts: usize,
}

/// What is kept of a name, and for how long.
pub(super) struct Limits {
    pub(super) host_ttl: Duration,
    pub(super) query_timeout: Duration,
    pub(super) max_pending: u32,
}

pub(super) fn cluster(config: &ClusterConfig, at: &At<'_>) -> Option<(ForwardSpec, Limits)> {
    let ClusterConfig {
        allow_insecure_cluster_options: _,
        allow_coalesced_connections,
        cluster_implementation_specifier,
    } = config;
    refuse!(at; allow_coalesced_connections);
    match cluster_implementation_specifier {
        Some(ClusterImplementationSpecifier::DnsCacheConfig(config)) => {
            cache(config, &at.field("dns_cache_config"))
        }
        Some(ClusterImplementationSpecifier::SubClustersConfig(_)) => {
            at.field("sub_clusters_config").error("is not supported");
            None
        }
        None => {
            at.field("dns_cache_config").error("is required");
            None
        }
    }
}

/// TLS goes to the host that the request names, and to no other, unless it is said otherwise.
pub(super) fn verify(
    cluster: &ClusterProto,
    config: &ClusterConfig,
    http: &mut UpstreamHttp,
    at: &At<'_>,
) {
    let says_nothing = cluster.typed_extension_protocol_options.is_empty()
        && cluster.upstream_http_protocol_options.is_none();
    if says_nothing {
        http.auto_sni = true;
        http.auto_san_validation = true;
    }
    let has_tls =
        cluster.transport_socket.is_some() || !cluster.transport_socket_matches.is_empty();
    let names = http.auto_sni && http.auto_san_validation;
    if has_tls && !names && !config.allow_insecure_cluster_options {
        at.error(
            "auto_sni and auto_san_validation must be true with TLS, or allow_insecure_cluster_options",
        );
    }
}

/// What the HTTP filter says is the cluster's to do: it is checked.
pub(super) fn http_filter(config: &HttpFilter, at: &At<'_>) {
    let HttpFilter {
        // For logs.
        save_upstream_address,
        allow_dynamic_host_from_filter_state,
        implementation_specifier,
    } = config;
    no_effect!(save_upstream_address);
    refuse!(at; allow_dynamic_host_from_filter_state);
    match implementation_specifier {
        Some(ImplementationSpecifier::DnsCacheConfig(config)) => {
            cache(config, &at.field("dns_cache_config"));
        }
        Some(ImplementationSpecifier::SubClusterConfig(_)) => {
            at.field("sub_cluster_config").error("is not supported");
        }
        None => at.field("dns_cache_config").error("is required"),
    }
}

/// The port where the hosts of SNIs are.
pub(super) fn sni_filter(config: &SniFilter, at: &At<'_>) -> Option<u16> {
    let SniFilter {
        dns_cache_config,
        save_upstream_address,
        port_specifier,
    } = config;
    no_effect!(save_upstream_address);
    let at_cache = at.field("dns_cache_config");
    match dns_cache_config {
        Some(config) => drop(cache(config, &at_cache)?),
        None => at_cache.error("is required"),
    }
    let Some(PortSpecifier::PortValue(port)) = *port_specifier else {
        return Some(DEFAULT_SNI_PORT);
    };
    let valid = u16::try_from(port).ok().filter(|port| *port > 0);
    if valid.is_none() {
        at.field("port_value").error("is no port");
    }
    valid
}

/// The cluster that the cache belongs to reads it, and filters check it.
fn cache(config: &DnsCacheConfig, at: &At<'_>) -> Option<(ForwardSpec, Limits)> {
    #[allow(deprecated, reason = "refused")]
    let DnsCacheConfig {
        name,
        dns_lookup_family,
        dns_refresh_rate,
        dns_min_refresh_rate,
        host_ttl,
        max_hosts,
        disable_dns_refresh_on_failure,
        dns_failure_refresh_rate,
        dns_cache_circuit_breaker,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        preresolve_hostnames,
        dns_query_timeout,
        key_value_config,
        resolved_address_filter,
    } = config;
    refuse!(
        at;
        disable_dns_refresh_on_failure, use_tcp_for_dns_lookups, dns_resolution_config,
        preresolve_hostnames, key_value_config, resolved_address_filter,
    );
    if name.is_empty() {
        at.field("name").error("is empty");
    }
    let servers = match typed_dns_resolver_config {
        Some(config) => dns::servers(config, &at.field("typed_dns_resolver_config")),
        None => Vec::<SocketAddr>::new(),
    };
    let limit = |name: &'static str, value, default| {
        at.limit(name, value, Some(default)).unwrap_or(default)
    };
    let refresh = limit("dns_refresh_rate", dns_refresh_rate, DEFAULT_REFRESH);
    let min_refresh = limit(
        "dns_min_refresh_rate",
        dns_min_refresh_rate,
        DEFAULT_MIN_REFRESH,
    );
    let failure = dns_failure_refresh_rate.as_ref().and_then(|rate| {
        let at = at.field("dns_failure_refresh_rate");
        at.limit("base_interval", &rate.base_interval, None)
    });
    let max_hosts = max_hosts.map_or(DEFAULT_MAX_HOSTS, |value| value.value);
    if max_hosts == 0 {
        at.field("max_hosts").error("must be greater than 0");
    }
    let breaker = dns_cache_circuit_breaker.unwrap_or_default();
    let max_pending = breaker.max_pending_requests;
    let limits = Limits {
        host_ttl: limit("host_ttl", host_ttl, DEFAULT_HOST_TTL),
        query_timeout: limit(
            "dns_query_timeout",
            dns_query_timeout,
            DEFAULT_QUERY_TIMEOUT,
        ),
        max_pending: max_pending.map_or(DEFAULT_MAX_PENDING, |value| value.value),
    };
    let spec = DnsSpec {
        targets: Vec::new(),
        servers,
        family: dns::family(*dns_lookup_family, at)?,
        refresh: refresh.max(dns::MIN_REFRESH),
        min_ttl: min_refresh,
        jitter: Duration::ZERO,
        failure_refresh: failure.unwrap_or(refresh).max(dns::MIN_REFRESH),
        respect_ttl: true,
        logical: false,
    };
    let max_hosts = usize::try_from(max_hosts).unwrap_or(usize::MAX);
    Some((
        ForwardSpec {
            dns: spec,
            max_hosts,
        },
        limits,
    ))
}
