//! How the names of a DNS cluster are resolved.

use std::{net::SocketAddr, time::Duration};

use ithildin_proto::pb::envoy::{
    config::{
        cluster::v3::{Cluster as ClusterProto, cluster::DnsLookupFamily},
        core::v3::TypedExtensionConfig,
    },
    extensions::network::dns_resolver::{
        cares::v3::CaresDnsResolverConfig, getaddrinfo::v3::GetAddrInfoDnsResolverConfig,
    },
};

use super::{address, endpoints::DnsTarget};
use crate::control::{
    any,
    report::{At, no_effect},
};

/// Envoy's default of `dns_refresh_rate`.
const DEFAULT_REFRESH: Duration = Duration::from_secs(5);
/// Shortest refresh: Envoy refuses less than a millisecond, and nobody gains from less than this.
pub(super) const MIN_REFRESH: Duration = Duration::from_millis(100);

/// Shortest time that a TTL may give, so that a TTL of 0 does not make us ask without pause.
const MIN_TTL_REFRESH: Duration = Duration::from_secs(1);

/// The names of one cluster, and how they are kept fresh.
#[derive(Clone, Debug)]
pub(in crate::control) struct DnsSpec {
    pub(in crate::control) targets: Vec<DnsTarget>,
    /// Who is asked; empty: whom the system asks.
    pub(in crate::control) servers: Vec<SocketAddr>,
    pub(in crate::control) family: LookupFamily,
    pub(in crate::control) refresh: Duration,
    /// Up to this much is added to each interval.
    pub(in crate::control) jitter: Duration,
    /// After a failure.
    pub(in crate::control) failure_refresh: Duration,
    pub(in crate::control) respect_ttl: bool,
    /// The shortest time that a TTL may give.
    pub(in crate::control) min_ttl: Duration,
    /// Only the first address is used.
    pub(in crate::control) logical: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) enum LookupFamily {
    V4Only,
    V6Only,
    /// IPv6 if there is any, else IPv4 (`AUTO`).
    V6Preferred,
    V4Preferred,
    All,
}

pub(super) fn spec(
    config: &ClusterProto,
    targets: Vec<DnsTarget>,
    logical: bool,
    at: &At<'_>,
) -> Option<DnsSpec> {
    // Envoy ignores the older two wherever `typed_dns_resolver_config` is set, but both name servers.
    at.unset("dns_resolvers", &config.dns_resolvers);
    at.unset("dns_resolution_config", &config.dns_resolution_config);
    at.unset("use_tcp_for_dns_lookups", &config.use_tcp_for_dns_lookups);
    let servers = match &config.typed_dns_resolver_config {
        Some(resolver) => servers(resolver, &at.field("typed_dns_resolver_config")),
        None => Vec::new(),
    };
    if !servers.is_empty() {
        at.field("typed_dns_resolver_config.typed_config.resolvers")
            .error("is not supported");
    }
    let refresh = at
        .limit(
            "dns_refresh_rate",
            &config.dns_refresh_rate,
            Some(DEFAULT_REFRESH),
        )
        .unwrap_or(DEFAULT_REFRESH)
        .max(MIN_REFRESH);
    let failure = config.dns_failure_refresh_rate.as_ref().and_then(|rate| {
        let at = at.field("dns_failure_refresh_rate");
        at.limit("base_interval", &rate.base_interval, None)
    });
    Some(DnsSpec {
        targets,
        servers,
        min_ttl: MIN_TTL_REFRESH,
        family: family(config.dns_lookup_family, at)?,
        refresh,
        jitter: at
            .duration("dns_jitter", &config.dns_jitter)
            .unwrap_or_default(),
        failure_refresh: failure.unwrap_or(refresh).max(MIN_REFRESH),
        respect_ttl: config.respect_dns_ttl,
        logical,
    })
}

pub(super) fn family(value: i32, at: &At<'_>) -> Option<LookupFamily> {
    Some(match at.enumeration("dns_lookup_family", value)? {
        DnsLookupFamily::Auto => LookupFamily::V6Preferred,
        DnsLookupFamily::V4Only => LookupFamily::V4Only,
        DnsLookupFamily::V6Only => LookupFamily::V6Only,
        DnsLookupFamily::V4Preferred => LookupFamily::V4Preferred,
        DnsLookupFamily::All => LookupFamily::All,
    })
}

/// The name servers of a resolver; none: the system's.
pub(super) fn servers(config: &TypedExtensionConfig, at: &At<'_>) -> Vec<SocketAddr> {
    let Some(config) = &config.typed_config else {
        return Vec::new();
    };
    let mut servers = Vec::new();
    let at_config = at.field("typed_config");
    if any::is::<CaresDnsResolverConfig>(config) {
        if let Some(config) = any::read::<CaresDnsResolverConfig>(config, &at_config) {
            for (i, server) in config.resolvers.iter().enumerate() {
                let at = at_config.index("resolvers", i);
                servers.extend(address::socket(Some(server), &at));
            }
            let options = config.dns_resolver_options.unwrap_or_default();
            // Settings of c-ares' own sockets and retries.
            let (queries, timeout) = (config.udp_max_queries, config.query_timeout_seconds);
            no_effect!(queries, timeout);
            at_config.unset(
                "dns_resolver_options.use_tcp_for_dns_lookups",
                &options.use_tcp_for_dns_lookups,
            );
            at_config.unset(
                "dns_resolver_options.no_default_search_domain",
                &options.no_default_search_domain,
            );
        }
    } else if !any::is::<GetAddrInfoDnsResolverConfig>(config) {
        any::unsupported(config, at);
    }
    servers
}

impl DnsSpec {
    /// For one of the targets.
    pub(in crate::control) fn of_one(&self) -> Self {
        Self {
            targets: Vec::new(),
            servers: Vec::new(),
            ..*self
        }
    }
}

#[cfg(test)]
impl DnsSpec {
    /// For names that nobody need ask for.
    pub(in crate::control) fn test() -> Self {
        Self {
            targets: Vec::new(),
            servers: Vec::new(),
            family: LookupFamily::V4Only,
            refresh: DEFAULT_REFRESH,
            jitter: Duration::ZERO,
            failure_refresh: DEFAULT_REFRESH,
            respect_ttl: true,
            min_ttl: MIN_TTL_REFRESH,
            logical: false,
        }
    }
}
