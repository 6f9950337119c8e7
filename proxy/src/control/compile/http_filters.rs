//! HTTP filters: which of them there are, and which may be left out.
//!
//! Invariant: a filter is left out only if it merely observes, or if it does nothing as configured.
//! Every other one that we lack is refused.

use std::borrow::Cow;

use ithildin_proto::{
    istio::alpn::FilterConfig as IstioAlpn,
    pb::{
        envoy::extensions::filters::{
            http::{
                cors::v3::Cors, fault::v3::HttpFault, grpc_stats::v3::FilterConfig as GrpcStats,
                rbac::v3::Rbac as RbacProto, router::v3::Router,
            },
            network::http_connection_manager::v3::{HttpFilter, http_filter::ConfigType},
        },
        google::protobuf::Any,
    },
};

use super::{alpn, rbac};
use crate::{
    config::http::AlpnOverrides,
    control::{
        any,
        report::{At, no_effect, refuse},
    },
    rbac::Rbac,
};

/// What the filters of a connection manager do.
#[derive(Default)]
pub(super) struct Filters {
    /// The router's.
    pub(super) suppress_envoy_headers: bool,
    pub(super) rbac: Vec<Rbac>,
    pub(super) alpn: Option<AlpnOverrides>,
}

/// Compiles the whole chain.
pub(super) fn filters(filters: &[HttpFilter], at: &At<'_>) -> Filters {
    let mut compiled = Filters::default();
    let mut suppress_envoy_headers = None;
    let last = filters.len().saturating_sub(1);
    for (i, filter) in filters.iter().enumerate() {
        let at = at.index("http_filters", i);
        let HttpFilter {
            name,
            is_optional,
            disabled,
            config_type,
        } = filter;
        // A filter that is optional is refused all the same: it might be one that Envoy knows.
        no_effect!(is_optional);
        let Some(config) = typed_config(name, config_type.as_ref(), &at) else {
            continue;
        };
        if any::is::<Router>(&config) {
            if i != last {
                at.error("the router must be the last filter");
            }
            at.unset("disabled", disabled);
            suppress_envoy_headers = Some(router(&config, &at.field("typed_config")));
        } else if any::is::<RbacProto>(&config) {
            let at = at.field("typed_config");
            let filter = any::read(&config, &at).and_then(|config| rbac::http(&config, &at));
            // One that is disabled only routes enable, and their configuration of filters is
            // refused.
            compiled.rbac.extend(filter.filter(|_| !*disabled));
        } else if any::is::<IstioAlpn>(&config) {
            let at = at.field("typed_config");
            let config = any::read(&config, &at).filter(|_| !*disabled);
            compiled.alpn = config.map(|config| alpn::overrides(&config, &at));
        } else {
            passive(&config, &at);
        }
    }
    if suppress_envoy_headers.is_none() {
        at.field("http_filters")
            .error("the last filter must be envoy.filters.http.router");
    }
    compiled.suppress_envoy_headers = suppress_envoy_headers.unwrap_or_default();
    compiled
}

/// What the filter is configured with, out of its wrapper if it is in one.
fn typed_config<'c>(
    name: &str,
    config: Option<&'c ConfigType>,
    at: &At<'_>,
) -> Option<Cow<'c, Any>> {
    match config {
        Some(ConfigType::TypedConfig(config)) => any::resolve(config, &at.field("typed_config")),
        Some(ConfigType::ConfigDiscovery(_)) => {
            at.field("config_discovery").error("is not supported");
            None
        }
        None => {
            at.error(format_args!("filter {name:?} has no typed_config"));
            None
        }
    }
}

fn router(config: &Any, at: &At<'_>) -> bool {
    let Some(Router {
        dynamic_stats,
        start_child_span,
        upstream_log,
        upstream_log_options,
        suppress_envoy_headers,
        strict_check_headers,
        respect_expected_rq_timeout,
        suppress_grpc_request_failure_code_stats,
        upstream_http_filters,
        reject_connect_request_early_data,
    }) = any::read(config, at)
    else {
        return false;
    };
    // Statistics, traces and logs.
    no_effect!(
        dynamic_stats,
        start_child_span,
        upstream_log_options,
        suppress_grpc_request_failure_code_stats,
    );
    at.unset("strict_check_headers", &strict_check_headers);
    at.unset("respect_expected_rq_timeout", &respect_expected_rq_timeout);
    at.unset("upstream_http_filters", &upstream_http_filters);
    at.not_true(
        "reject_connect_request_early_data",
        &reject_connect_request_early_data,
    );
    if !upstream_log.is_empty() {
        at.field("upstream_log")
            .warn("is not supported; it is not written");
    }
    suppress_envoy_headers
}

/// A filter that changes no traffic, or an error.
fn passive(config: &Any, at: &At<'_>) {
    if any::is::<GrpcStats>(config) {
        at.field("typed_config")
            .warn("grpc_stats is not supported; its statistics are not counted");
    } else if any::is::<Cors>(config) {
        // Acts by the configuration of routes only, which is refused there.
        any::read::<Cors>(config, &at.field("typed_config"));
    } else if any::is::<HttpFault>(config) {
        fault(config, &at.field("typed_config"));
    } else {
        any::unsupported(config, at);
    }
}

/// Without a fault the filter does nothing; routes that bring one are refused.
fn fault(config: &Any, at: &At<'_>) {
    let Some(config) = any::read::<HttpFault>(config, at) else {
        return;
    };
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
    } = &config;
    // Conditions of a fault that there is not.
    no_effect!(
        upstream_cluster,
        headers,
        downstream_nodes,
        max_active_faults,
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
    refuse!(at; delay, abort, response_rate_limit);
}
