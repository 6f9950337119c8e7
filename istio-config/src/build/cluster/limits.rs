//! Balancing, limits and ejection.

use ithildin_proto::pb::envoy::{
    config::{
        cluster::v3::{
            CircuitBreakers, Cluster, OutlierDetection, UpstreamConnectionOptions,
            circuit_breakers::Thresholds,
            cluster::{CommonLbConfig, DiscoveryType, LbPolicy},
        },
        core::v3::TcpKeepalive,
    },
    r#type::v3::Percent,
};

use crate::{
    build::wire::{number, time},
    model::{self, ConnectionPool, SimpleLb},
    rules::Settings,
};

pub(super) fn lb_policy(discovery: DiscoveryType, settings: &Settings<'_>) -> LbPolicy {
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
pub(in crate::build) fn circuit_breakers(pool: Option<&ConnectionPool>) -> CircuitBreakers {
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
pub(super) fn panic_threshold(settings: &Settings<'_>) -> CommonLbConfig {
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

pub(super) fn outlier_detection(rule: &model::OutlierDetection) -> OutlierDetection {
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

pub(super) fn apply_tcp(cluster: &mut Cluster, pool: &ConnectionPool) {
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
