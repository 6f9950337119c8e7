//! Outlier detection of a cluster.

use std::time::Duration;

use ithildin_proto::pb::{
    envoy::config::cluster::v3::OutlierDetection as OutlierProto,
    google::protobuf::{self, UInt32Value},
};

use crate::{
    control::report::{At, no_effect, refuse},
    outlier::{Enforcing, FailurePercentage, OutlierDetection, SuccessRate},
};

pub(super) fn detection(config: &OutlierProto, at: &At<'_>) -> OutlierDetection {
    unsupported(config, at);
    let default = OutlierDetection::default();
    let time = |name: &str, value: &Option<protobuf::Duration>, default: Duration| {
        at.duration(name, value).unwrap_or(default)
    };
    let base_ejection_time = time(
        "base_ejection_time",
        &config.base_ejection_time,
        default.base_ejection_time,
    );
    let interval = time("interval", &config.interval, default.interval);
    if interval.is_zero() {
        at.field("interval").error("must be more than 0");
    }
    OutlierDetection {
        consecutive_5xx: number(config.consecutive_5xx, default.consecutive_5xx),
        consecutive_gateway_failure: number(
            config.consecutive_gateway_failure,
            default.consecutive_gateway_failure,
        ),
        consecutive_local_origin_failure: number(
            config.consecutive_local_origin_failure,
            default.consecutive_local_origin_failure,
        ),
        split_local_origin: config.split_external_local_origin_errors,
        interval,
        base_ejection_time,
        // It is never less than the base, unless it is set.
        max_ejection_time: time(
            "max_ejection_time",
            &config.max_ejection_time,
            default.max_ejection_time.max(base_ejection_time),
        ),
        max_ejection_time_jitter: time(
            "max_ejection_time_jitter",
            &config.max_ejection_time_jitter,
            default.max_ejection_time_jitter,
        ),
        max_ejection_percent: percent(
            "max_ejection_percent",
            config.max_ejection_percent,
            default.max_ejection_percent,
            at,
        ),
        always_eject_one_host: config.always_eject_one_host.is_some_and(|it| it.value),
        enforcing: enforcing(config, default.enforcing, at),
        success_rate: success_rate(config, default.success_rate),
        failure_percentage: failure_percentage(config, default.failure_percentage, at),
    }
}

/// Refuses or passes over what the functions here do not read.
fn unsupported(config: &OutlierProto, at: &At<'_>) {
    #[rustfmt::skip]
    let OutlierProto {
        consecutive_5xx: _, interval: _, base_ejection_time: _, max_ejection_percent: _,
        enforcing_consecutive_5xx: _, enforcing_success_rate: _, success_rate_minimum_hosts: _,
        success_rate_request_volume: _, success_rate_stdev_factor: _,
        consecutive_gateway_failure: _, enforcing_consecutive_gateway_failure: _,
        split_external_local_origin_errors: _, consecutive_local_origin_failure: _,
        enforcing_consecutive_local_origin_failure: _, enforcing_local_origin_success_rate: _,
        failure_percentage_threshold: _, enforcing_failure_percentage: _,
        enforcing_failure_percentage_local_origin: _, failure_percentage_minimum_hosts: _,
        failure_percentage_request_volume: _, max_ejection_time: _, max_ejection_time_jitter: _,
        always_eject_one_host: _,
        successful_active_health_check_uneject_host, monitors, detect_degraded_hosts,
    } = config;
    // Of active health checks, which are refused.
    no_effect!(successful_active_health_check_uneject_host);
    refuse!(at; monitors);
    at.not_true("detect_degraded_hosts", detect_degraded_hosts);
}

fn enforcing(config: &OutlierProto, default: Enforcing, at: &At<'_>) -> Enforcing {
    let percent = |name, value, default| percent(name, value, default, at);
    Enforcing {
        consecutive_5xx: percent(
            "enforcing_consecutive_5xx",
            config.enforcing_consecutive_5xx,
            default.consecutive_5xx,
        ),
        consecutive_gateway_failure: percent(
            "enforcing_consecutive_gateway_failure",
            config.enforcing_consecutive_gateway_failure,
            default.consecutive_gateway_failure,
        ),
        consecutive_local_origin_failure: percent(
            "enforcing_consecutive_local_origin_failure",
            config.enforcing_consecutive_local_origin_failure,
            default.consecutive_local_origin_failure,
        ),
        success_rate: percent(
            "enforcing_success_rate",
            config.enforcing_success_rate,
            default.success_rate,
        ),
        local_origin_success_rate: percent(
            "enforcing_local_origin_success_rate",
            config.enforcing_local_origin_success_rate,
            default.local_origin_success_rate,
        ),
        failure_percentage: percent(
            "enforcing_failure_percentage",
            config.enforcing_failure_percentage,
            default.failure_percentage,
        ),
        local_origin_failure_percentage: percent(
            "enforcing_failure_percentage_local_origin",
            config.enforcing_failure_percentage_local_origin,
            default.local_origin_failure_percentage,
        ),
    }
}

fn success_rate(config: &OutlierProto, default: SuccessRate) -> SuccessRate {
    let factor = config.success_rate_stdev_factor;
    SuccessRate {
        minimum_hosts: number(config.success_rate_minimum_hosts, default.minimum_hosts),
        request_volume: number(config.success_rate_request_volume, default.request_volume),
        // In thousandths.
        stdev_factor: factor.map_or(default.stdev_factor, |it| f64::from(it.value) / 1000.0),
    }
}

fn failure_percentage(
    config: &OutlierProto,
    default: FailurePercentage,
    at: &At<'_>,
) -> FailurePercentage {
    FailurePercentage {
        threshold: percent(
            "failure_percentage_threshold",
            config.failure_percentage_threshold,
            default.threshold,
            at,
        ),
        minimum_hosts: number(
            config.failure_percentage_minimum_hosts,
            default.minimum_hosts,
        ),
        request_volume: number(
            config.failure_percentage_request_volume,
            default.request_volume,
        ),
    }
}

fn number(value: Option<UInt32Value>, default: u32) -> u32 {
    value.map_or(default, |value| value.value)
}

fn percent(name: &str, value: Option<UInt32Value>, default: u32, at: &At<'_>) -> u32 {
    let value = number(value, default);
    if value > 100 {
        at.field(name)
            .error(format_args!("{value} is not from 0 to 100"));
    }
    value
}
