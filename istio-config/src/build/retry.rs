//! Retry policies.

use ithildin_proto::{
    pack,
    pb::envoy::{
        config::route::v3::{
            RetryPolicy,
            retry_policy::{RetryBackOff, RetryHostPredicate, retry_host_predicate},
        },
        extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate,
    },
};

use super::wire::{number, time};
use crate::model::HttpRetry;

/// Istio's conditions where a route sets none: the request did not reach anybody, or the server
/// says that it may be tried again.
const DEFAULT_CONDITIONS: &str =
    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
const DEFAULT_ATTEMPTS: u32 = 2;
/// How often another endpoint is looked for, when the chosen one was tried before.
const HOST_SELECTION_ATTEMPTS: i64 = 5;
const BY_STATUS: &str = "retriable-status-codes";

/// What a route asks for, or Istio's default; `None` when retries are switched off.
pub(super) fn outbound(rule: Option<&HttpRetry>) -> Option<RetryPolicy> {
    let Some(rule) = rule else {
        return Some(RetryPolicy {
            retry_on: DEFAULT_CONDITIONS.to_owned(),
            num_retries: number(DEFAULT_ATTEMPTS),
            ..other_hosts()
        });
    };
    if rule.attempts == 0 {
        return None;
    }
    let (retry_on, retriable_status_codes) = conditions(&rule.retry_on);
    let base = if rule.retry_ignore_previous_hosts == Some(false) {
        RetryPolicy::default()
    } else {
        other_hosts()
    };
    Some(RetryPolicy {
        retry_on,
        retriable_status_codes,
        num_retries: number(rule.attempts),
        per_try_timeout: rule.per_try_timeout.and_then(|timeout| time(timeout.0)),
        retry_back_off: rule.backoff.map(|interval| RetryBackOff {
            base_interval: time(interval.0),
            max_interval: None,
        }),
        ..base
    })
}

/// Of inbound routes: only what did not reach the workload.
pub(super) fn inbound() -> RetryPolicy {
    RetryPolicy {
        retry_on: "reset-before-request".to_owned(),
        num_retries: number(DEFAULT_ATTEMPTS),
        ..RetryPolicy::default()
    }
}

fn other_hosts() -> RetryPolicy {
    RetryPolicy {
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(pack(
                &PreviousHostsPredicate {},
            ))),
        }],
        host_selection_retry_max_attempts: HOST_SELECTION_ATTEMPTS,
        ..RetryPolicy::default()
    }
}

/// Splits `retryOn` into Envoy's conditions and statuses.
fn conditions(retry_on: &str) -> (String, Vec<u32>) {
    let mut names = Vec::new();
    let mut statuses = Vec::new();
    for condition in retry_on.split(',').map(str::trim).filter(|c| !c.is_empty()) {
        match condition.parse() {
            Ok(status) => statuses.push(status),
            Err(_) => names.push(condition),
        }
    }
    if names.is_empty() && statuses.is_empty() {
        return (DEFAULT_CONDITIONS.to_owned(), statuses);
    }
    if !statuses.is_empty() && !names.contains(&BY_STATUS) {
        names.push(BY_STATUS);
    }
    (names.join(","), statuses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_told_from_conditions() {
        assert_eq!(conditions("5xx"), ("5xx".into(), vec![]));
        assert_eq!(conditions(""), (DEFAULT_CONDITIONS.into(), vec![]));
        assert_eq!(
            conditions("reset, 503,504"),
            ("reset,retriable-status-codes".into(), vec![503, 504])
        );
        assert_eq!(
            conditions("retriable-status-codes,503"),
            ("retriable-status-codes".into(), vec![503])
        );
    }

    #[test]
    fn no_attempts_switch_retries_off() {
        assert!(outbound(Some(&HttpRetry::default())).is_none());
        assert_eq!(outbound(None).unwrap().num_retries, number(2));
    }
}
