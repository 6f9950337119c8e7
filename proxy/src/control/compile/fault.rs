//! `envoy.filters.http.fault`: delays and errors on purpose.

use ithildin_proto::pb::envoy::{
    extensions::filters::{
        common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier},
        http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType},
    },
    r#type::v3::{FractionalPercent, fractional_percent::DenominatorType},
};

use super::matchers;
use crate::{
    config::filters::{Abort, Fault, Percent},
    control::report::{At, no_effect, refuse},
};

pub(super) fn fault(config: &HttpFault, at: &At<'_>) -> Option<Fault> {
    let HttpFault {
        delay,
        abort,
        upstream_cluster,
        headers,
        downstream_nodes,
        max_active_faults,
        response_rate_limit,
        delay_percent_runtime,
        abort_percent_runtime,
        delay_duration_runtime,
        abort_http_status_runtime,
        max_active_faults_runtime,
        response_rate_limit_percent_runtime,
        abort_grpc_status_runtime,
        disable_downstream_cluster_stats,
        filter_metadata,
    } = config;
    // There is no runtime layer, so its keys keep their defaults; the others are statistics.
    no_effect!(
        delay_percent_runtime,
        abort_percent_runtime,
        delay_duration_runtime,
        abort_http_status_runtime,
        max_active_faults_runtime,
        response_rate_limit_percent_runtime,
        abort_grpc_status_runtime,
        disable_downstream_cluster_stats,
        filter_metadata,
    );
    refuse!(at; max_active_faults, response_rate_limit);
    let headers = headers.iter().enumerate();
    let headers = headers
        .map(|(i, config)| matchers::header(config, &at.index("headers", i)))
        .collect::<Option<Vec<_>>>();
    let delay = match delay {
        Some(config) => Some(self::delay(config, &at.field("delay"))?),
        None => None,
    };
    let abort = match abort {
        Some(config) => Some(self::abort(config, &at.field("abort"))?),
        None => None,
    };
    Some(Fault {
        delay,
        abort,
        headers: headers?,
        upstream_cluster: (!upstream_cluster.is_empty()).then(|| upstream_cluster.as_str().into()),
        downstream_nodes: downstream_nodes
            .iter()
            .map(|it| it.as_str().into())
            .collect(),
    })
}

fn delay(config: &FaultDelay, at: &At<'_>) -> Option<(std::time::Duration, Percent)> {
    let FaultDelay {
        percentage,
        fault_delay_secifier,
    } = config;
    let percent = percent(percentage.as_ref(), at)?;
    let fixed = match fault_delay_secifier {
        Some(FaultDelaySecifier::FixedDelay(delay)) => Some(*delay),
        Some(FaultDelaySecifier::HeaderDelay(_)) => {
            at.field("header_delay").error("is not supported");
            return None;
        }
        None => {
            at.field("fixed_delay").error("is required");
            return None;
        }
    };
    let delay = at.duration("fixed_delay", &fixed)?;
    if delay.is_zero() {
        at.field("fixed_delay").error("must be more than zero");
        return None;
    }
    Some((delay, percent))
}

fn abort(config: &FaultAbort, at: &At<'_>) -> Option<(Abort, Percent)> {
    let FaultAbort {
        percentage,
        error_type,
        response_body,
    } = config;
    refuse!(at; response_body);
    let percent = percent(percentage.as_ref(), at)?;
    let abort = match error_type {
        Some(ErrorType::HttpStatus(status)) => {
            let code = u16::try_from(*status).ok();
            let Some(code) = code.filter(|code| (200..600).contains(code)) else {
                at.field("http_status")
                    .error(format_args!("{status} is not from 200 to 599"));
                return None;
            };
            Abort::Http(code)
        }
        Some(ErrorType::GrpcStatus(status)) => Abort::Grpc(*status),
        Some(ErrorType::HeaderAbort(_)) => {
            at.field("header_abort").error("is not supported");
            return None;
        }
        None => {
            at.error("one of http_status and grpc_status is required");
            return None;
        }
    };
    Some((abort, percent))
}

/// `percentage`; without it there is no fault, as in Envoy.
pub(super) fn percent(config: Option<&FractionalPercent>, at: &At<'_>) -> Option<Percent> {
    let FractionalPercent {
        numerator,
        denominator,
    } = config.copied().unwrap_or_default();
    let at = at.field("percentage");
    let denominator = match at.enumeration("denominator", denominator)? {
        DenominatorType::Hundred => 100,
        DenominatorType::TenThousand => 10_000,
        DenominatorType::Million => 1_000_000,
    };
    Some(Percent {
        numerator,
        denominator,
    })
}
