//! Retry policies.

use std::time::Duration;

use http::StatusCode;
use ithildin_proto::pb::envoy::{
    config::route::v3::{
        RetryPolicy as RetryPolicyProto,
        retry_policy::{
            RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate::ConfigType,
            retry_priority,
        },
    },
    extensions::retry::{
        host::previous_hosts::v3::PreviousHostsPredicate,
        priority::previous_priorities::v3::PreviousPrioritiesConfig,
    },
};
use prost::Name;

use crate::{
    config::route::{RetryOn, RetryPolicy},
    control::{
        any,
        report::{At, refuse},
    },
};

/// Envoy's defaults of `retry_back_off`: the first interval, and how many times as long the longest
/// one is.
const DEFAULT_BASE_INTERVAL: Duration = Duration::from_millis(25);
const DEFAULT_MAX_INTERVALS: u32 = 10;

pub(super) fn retry_policy(config: &RetryPolicyProto, at: &At<'_>) -> Option<RetryPolicy> {
    let RetryPolicyProto {
        retry_on,
        num_retries,
        per_try_timeout,
        per_try_idle_timeout,
        retry_priority,
        retry_host_predicate,
        retry_options_predicates,
        host_selection_retry_max_attempts,
        retriable_status_codes,
        retry_back_off,
        rate_limited_retry_back_off,
        retriable_headers,
        retriable_request_headers,
        refresh_cluster_on_retry,
    } = config;
    let errors = at.errors();
    refuse!(
        at;
        per_try_idle_timeout, retry_options_predicates,
        rate_limited_retry_back_off, retriable_headers, retriable_request_headers,
        refresh_cluster_on_retry,
    );
    for (i, predicate) in retry_host_predicate.iter().enumerate() {
        host_predicate(predicate, &at.index("retry_host_predicate", i));
    }
    let (base_interval, max_interval) = back_off(retry_back_off.as_ref(), at);
    let policy = RetryPolicy {
        on: conditions(retry_on, at),
        statuses: statuses(retriable_status_codes, at),
        attempts: num_retries.map_or(1, |value| value.value),
        per_try_timeout: at.limit("per_try_timeout", per_try_timeout, None),
        base_interval,
        max_interval,
        avoid_previous_hosts: !retry_host_predicate.is_empty(),
        host_selection_attempts: attempts(*host_selection_retry_max_attempts, at),
        avoid_priorities_every: match retry_priority {
            Some(config) => previous_priorities(config, &at.field("retry_priority"))?,
            None => 0,
        },
    };
    (at.errors() == errors).then_some(policy)
}

/// After how many tries priorities are chosen anew.
fn previous_priorities(config: &RetryPriority, at: &At<'_>) -> Option<u32> {
    let RetryPriority { name, config_type } = config;
    let Some(retry_priority::ConfigType::TypedConfig(config)) = config_type else {
        at.error(format_args!("{name:?} has no typed_config"));
        return None;
    };
    if !any::is::<PreviousPrioritiesConfig>(config) {
        any::unsupported(config, at);
        return None;
    }
    let at = at.field("typed_config");
    let PreviousPrioritiesConfig { update_frequency } = any::read(config, &at)?;
    match u32::try_from(update_frequency) {
        Ok(frequency @ 1..) => Some(frequency),
        _ => {
            at.field("update_frequency")
                .error(format_args!("{update_frequency} is not more than 0"));
            None
        }
    }
}

fn host_predicate(predicate: &RetryHostPredicate, at: &At<'_>) {
    let RetryHostPredicate { name, config_type } = predicate;
    match config_type {
        Some(ConfigType::TypedConfig(config)) => {
            if any::type_name(config) != PreviousHostsPredicate::full_name() {
                any::unsupported(config, at);
            }
        }
        None if name == "envoy.retry_host_predicates.previous_hosts" => {}
        None => at.error(format_args!("{name:?} is not supported")),
    }
}

/// Envoy's default is 1.
fn attempts(value: i64, at: &At<'_>) -> u32 {
    let value = if value == 0 { 1 } else { value };
    u32::try_from(value).unwrap_or_else(|_| {
        at.field("host_selection_retry_max_attempts")
            .error(format_args!("{value} is not from 0 to {}", u32::MAX));
        0
    })
}

fn back_off(config: Option<&RetryBackOff>, at: &At<'_>) -> (Duration, Duration) {
    let default = (
        DEFAULT_BASE_INTERVAL,
        DEFAULT_BASE_INTERVAL * DEFAULT_MAX_INTERVALS,
    );
    let Some(RetryBackOff {
        base_interval,
        max_interval,
    }) = config
    else {
        return default;
    };
    let at = at.field("retry_back_off");
    let Some(base) = at.limit("base_interval", base_interval, None) else {
        at.field("base_interval")
            .error("is required, and must be more than 0");
        return default;
    };
    let longest = base.saturating_mul(DEFAULT_MAX_INTERVALS);
    let max = at
        .limit("max_interval", max_interval, None)
        .unwrap_or(longest);
    if max < base {
        at.field("max_interval").error("is less than base_interval");
    }
    (base, max)
}

fn statuses(codes: &[u32], at: &At<'_>) -> Vec<StatusCode> {
    let codes = codes.iter().enumerate();
    codes
        .filter_map(|(i, code)| {
            let status = u16::try_from(*code)
                .ok()
                .and_then(|code| StatusCode::from_u16(code).ok());
            if status.is_none() {
                at.index("retriable_status_codes", i)
                    .error(format_args!("{code} is not an HTTP status"));
            }
            status
        })
        .collect()
}

fn conditions(text: &str, at: &At<'_>) -> RetryOn {
    let mut on = RetryOn::default();
    for name in text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        match name {
            "5xx" => on.server_error = true,
            "gateway-error" => on.gateway_error = true,
            "reset" => on.reset = true,
            "reset-before-request" => on.reset_before_request = true,
            "connect-failure" => on.connect_failure = true,
            "refused-stream" => on.refused_stream = true,
            "retriable-4xx" => on.retriable_4xx = true,
            "retriable-status-codes" => on.retriable_status_codes = true,
            "cancelled" => on.grpc_cancelled = true,
            "unavailable" => on.grpc_unavailable = true,
            "deadline-exceeded" => on.grpc_deadline_exceeded = true,
            "internal" => on.grpc_internal = true,
            "resource-exhausted" => on.grpc_resource_exhausted = true,
            "envoy-ratelimited" => on.rate_limited = true,
            // There is no HTTP/3 upstream that could fail after its connection.
            "http3-post-connect-failure" => {}
            other => at
                .field("retry_on")
                .error(format_args!("condition {other:?} is not supported")),
        }
    }
    on
}
