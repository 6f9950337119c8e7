//! Limits and sockets of a cluster's connections.

use std::{net::SocketAddr, time::Duration};

use ithildin_proto::pb::envoy::config::{
    cluster::v3::{
        CircuitBreakers as CircuitBreakersProto, UpstreamConnectionOptions,
        circuit_breakers::{Thresholds, thresholds::RetryBudget as RetryBudgetProto},
    },
    core::v3::{BindConfig, ExtraSourceAddress, RoutingPriority, TcpKeepalive as KeepaliveProto},
};

use super::address;
use crate::{
    config::cluster::{CircuitBreakers, RetryBudget, TcpKeepalive},
    control::report::{At, no_effect, refuse},
};

/// Envoy's defaults.
const DEFAULT_LIMIT: u32 = 1024;
const DEFAULT_MAX_RETRIES: u32 = 3;
const DEFAULT_BUDGET_PERCENT: f64 = 20.0;
const DEFAULT_MIN_RETRIES: u32 = 3;

pub(super) fn circuit_breakers(
    config: Option<&CircuitBreakersProto>,
    at: &At<'_>,
) -> CircuitBreakers {
    let mut limits = CircuitBreakers {
        max_connections: DEFAULT_LIMIT,
        max_pending_requests: DEFAULT_LIMIT,
        max_requests: DEFAULT_LIMIT,
        max_retries: DEFAULT_MAX_RETRIES,
        retry_budget: None,
    };
    let Some(CircuitBreakersProto {
        thresholds,
        per_host_thresholds,
    }) = config
    else {
        return limits;
    };
    let at = at.field("circuit_breakers");
    refuse!(at; per_host_thresholds);
    for (i, threshold) in thresholds.iter().enumerate() {
        let Thresholds {
            priority,
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining,
            max_connection_pools,
        } = threshold;
        let at = at.index("thresholds", i);
        no_effect!(track_remaining);
        // Routes of high priority are refused, so their limits act on nothing.
        if at.enumeration("priority", *priority) != Some(RoutingPriority::Default) {
            continue;
        }
        refuse!(at; max_connection_pools);
        if let Some(config) = retry_budget {
            limits.retry_budget = Some(budget(config, &at.field("retry_budget")));
        }
        let set = |limit: &mut u32, value: &Option<_>| {
            if let Some(ithildin_proto::pb::google::protobuf::UInt32Value { value }) = value {
                *limit = *value;
            }
        };
        set(&mut limits.max_connections, max_connections);
        set(&mut limits.max_pending_requests, max_pending_requests);
        set(&mut limits.max_requests, max_requests);
        set(&mut limits.max_retries, max_retries);
    }
    limits
}

fn budget(config: &RetryBudgetProto, at: &At<'_>) -> RetryBudget {
    let RetryBudgetProto {
        budget_percent,
        min_retry_concurrency,
        budget_interval,
    } = config;
    if budget_interval.is_some() {
        at.field("budget_interval")
            .warn("is not supported; the budget is of what is under way, not of a time");
    }
    let percent = budget_percent.map_or(DEFAULT_BUDGET_PERCENT, |percent| percent.value);
    if !(0.0..=100.0).contains(&percent) {
        at.field("budget_percent")
            .error(format_args!("{percent} is not from 0 to 100"));
    }
    RetryBudget {
        percent,
        min_retry_concurrency: min_retry_concurrency
            .map_or(DEFAULT_MIN_RETRIES, |value| value.value),
    }
}

/// The addresses to call from. As in Envoy, a second one is for the other family of addresses.
pub(super) fn bind(config: Option<&BindConfig>, at: &At<'_>) -> Box<[SocketAddr]> {
    let Some(config) = config else {
        return [].into();
    };
    let BindConfig {
        source_address,
        freebind,
        socket_options,
        extra_source_addresses,
        additional_source_addresses,
        local_address_selector,
        validate_network_namespaces,
    } = config;
    let at = at.field("upstream_bind_config");
    at.not_true("freebind", freebind);
    refuse!(
        at;
        socket_options, additional_source_addresses, local_address_selector,
        validate_network_namespaces,
    );
    let source_address = source_address.as_ref();
    let first =
        source_address.and_then(|source| address::source(source, &at.field("source_address")));
    if extra_source_addresses.len() > 1 {
        at.field("extra_source_addresses")
            .error("has more than one address");
    }
    let extra = extra_source_addresses.first().and_then(|source| {
        let at = at.index("extra_source_addresses", 0);
        extra_source(source, first, &at)
    });
    first.into_iter().chain(extra).collect()
}

fn extra_source(
    config: &ExtraSourceAddress,
    first: Option<SocketAddr>,
    at: &At<'_>,
) -> Option<SocketAddr> {
    let ExtraSourceAddress {
        address,
        socket_options,
    } = config;
    refuse!(at; socket_options);
    let source = address::source(address.as_ref()?, &at.field("address"))?;
    if first.is_none_or(|first| first.is_ipv4() == source.is_ipv4()) {
        at.error("is of the same IP version as source_address, or there is none");
    }
    Some(source)
}

pub(super) fn keepalive(config: &UpstreamConnectionOptions, at: &At<'_>) -> Option<TcpKeepalive> {
    let UpstreamConnectionOptions {
        tcp_keepalive,
        set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config,
    } = config;
    let at = at.field("upstream_connection_options");
    // For logs; and in which order the addresses of one endpoint are tried.
    no_effect!(
        set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config
    );
    let KeepaliveProto {
        keepalive_probes,
        keepalive_time,
        keepalive_interval,
    } = tcp_keepalive.as_ref()?;
    let at = at.field("tcp_keepalive");
    let seconds = |name: &str, value: &Option<_>| {
        let ithildin_proto::pb::google::protobuf::UInt32Value { value } = (*value)?;
        if value == 0 {
            at.field(name).error("is 0; it must be at least 1");
        }
        Some(Duration::from_secs(value.into()))
    };
    Some(TcpKeepalive {
        probes: keepalive_probes.map(|value| value.value),
        time: seconds("keepalive_time", keepalive_time),
        interval: seconds("keepalive_interval", keepalive_interval),
    })
}
