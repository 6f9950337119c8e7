//! `envoy.filters.http.ratelimit`: which service is asked, and what becomes of its answers.

use std::time::Duration;

use ithildin_proto::pb::envoy::{
    config::{
        core::v3::{ApiVersion, RuntimeFractionalPercent},
        ratelimit::v3::RateLimitServiceConfig,
    },
    extensions::filters::http::ratelimit::v3::{
        RateLimit, RateLimitPerRoute,
        rate_limit::XRateLimitHeadersRfcVersion,
        rate_limit_per_route::{OverrideOptions, VhRateLimitsOptions},
    },
    r#type::v3::HttpStatus,
};

use super::{ext_authz_service, fault, headers, limit_rules};
use crate::{
    config::{
        ext_authz::GrpcService,
        filters::Percent,
        limit_rules::HostRules,
        limit_service::{Concerns, LimitService, LimitServiceRoute},
    },
    control::report::At,
    istio::Node,
};

/// Envoy's.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(20);

/// Where no status, or none of an error, is configured; Envoy's.
const DEFAULT_STATUS: u16 = 429;
const DEFAULT_STATUS_ON_ERROR: u16 = 500;

/// Where a service's metadata goes unless the configuration says otherwise.
const NAMESPACE: &str = "envoy.filters.http.ratelimit";

/// Envoy's.
const MAX_HEADERS: usize = 10;

/// The filter of a proxy that is `node`.
pub(super) fn filter(config: &RateLimit, node: &Node, at: &At<'_>) -> Option<LimitService> {
    let RateLimit {
        domain,
        stage,
        request_type,
        timeout,
        failure_mode_deny,
        rate_limited_as_resource_exhausted,
        rate_limit_service,
        enable_x_ratelimit_headers,
        disable_x_envoy_ratelimited_header,
        rate_limited_status,
        response_headers_to_add,
        status_on_error,
        stat_prefix,
        filter_enabled,
        filter_enforced,
        failure_mode_deny_percent,
        rate_limits,
        metadata_namespace,
        enable_retry_after_header,
    } = config;
    let errors = at.errors();
    if domain.is_empty() {
        at.field("domain").error("is empty");
    }
    if !stat_prefix.is_empty() {
        at.field("stat_prefix")
            .warn("is not supported; requests are counted without it");
    }
    limit_rules::stage(*stage, at);
    if response_headers_to_add.len() > MAX_HEADERS {
        at.field("response_headers_to_add")
            .error(format_args!("has more than {MAX_HEADERS}"));
    }
    let denied = match failure_mode_deny {
        true => Percent::ALL,
        false => Percent::NONE,
    };
    let percent =
        |field, config: &Option<_>, default| percent(config.as_ref(), default, &at.field(field));
    let service = service(rate_limit_service.as_ref(), &at.field("rate_limit_service"));
    let headers: XRateLimitHeadersRfcVersion =
        at.enumeration("enable_x_ratelimit_headers", *enable_x_ratelimit_headers)?;
    let filter = LimitService {
        service: GrpcService {
            timeout: at.limit("timeout", timeout, Some(DEFAULT_TIMEOUT)),
            ..service?
        },
        domain: domain.as_str().into(),
        stage: *stage,
        concerns: concerns(request_type, &at.field("request_type"))?,
        rules: limit_rules::of_filter(rate_limits, at),
        enabled: percent("filter_enabled", filter_enabled, Percent::ALL)?,
        enforced: percent("filter_enforced", filter_enforced, Percent::ALL)?,
        denied_on_error: percent(
            "failure_mode_deny_percent",
            failure_mode_deny_percent,
            denied,
        )?,
        status: status(rate_limited_status.as_ref(), DEFAULT_STATUS),
        status_on_error: status(status_on_error.as_ref(), DEFAULT_STATUS_ON_ERROR),
        rate_limited_as_resource_exhausted: *rate_limited_as_resource_exhausted,
        tells_limited: !disable_x_envoy_ratelimited_header,
        tells_limits: headers == XRateLimitHeadersRfcVersion::DraftVersion03,
        tells_reset: *enable_retry_after_header,
        response_headers_to_add: headers::response(response_headers_to_add, &[], at),
        namespace: match metadata_namespace.as_str() {
            "" => NAMESPACE.into(),
            namespace => namespace.into(),
        },
        own_cluster: node.cluster.clone(),
    };
    (at.errors() == errors).then_some(filter)
}

/// What a route says.
pub(super) fn per_route(config: &RateLimitPerRoute, at: &At<'_>) -> Option<LimitServiceRoute> {
    let RateLimitPerRoute {
        vh_rate_limits,
        override_option,
        rate_limits,
        domain,
    } = config;
    // Envoy does not look at which one it is.
    at.enumeration::<OverrideOptions>("override_option", *override_option)?;
    Some(LimitServiceRoute {
        host_rules: match at.enumeration("vh_rate_limits", *vh_rate_limits)? {
            VhRateLimitsOptions::Override => HostRules::Override,
            VhRateLimitsOptions::Include => HostRules::Include,
            VhRateLimitsOptions::Ignore => HostRules::Ignore,
        },
        rules: limit_rules::of_filter(rate_limits, at),
        domain: (!domain.is_empty()).then(|| domain.as_str().into()),
    })
}

fn service(config: Option<&RateLimitServiceConfig>, at: &At<'_>) -> Option<GrpcService> {
    let Some(RateLimitServiceConfig {
        grpc_service,
        transport_api_version,
    }) = config
    else {
        at.error("is required");
        return None;
    };
    match at.enumeration("transport_api_version", *transport_api_version) {
        // There is one version left: 3.
        Some(ApiVersion::Auto | ApiVersion::V3) | None => {}
        Some(ApiVersion::V2) => at.field("transport_api_version").error("must be V3"),
    }
    let at = at.field("grpc_service");
    match grpc_service {
        Some(config) => ext_authz_service::grpc(config, &at),
        None => {
            at.error("is required");
            None
        }
    }
}

fn concerns(text: &str, at: &At<'_>) -> Option<Concerns> {
    match text {
        "internal" => Some(Concerns::Internal),
        "external" => Some(Concerns::External),
        "" | "both" => Some(Concerns::Both),
        other => {
            at.error(format_args!(
                "{other:?} is none of internal, external and both"
            ));
            None
        }
    }
}

/// There is no runtime layer, so the default counts.
fn percent(
    config: Option<&RuntimeFractionalPercent>,
    default: Percent,
    at: &At<'_>,
) -> Option<Percent> {
    match config {
        Some(config) => fault::percent(config.default_value.as_ref(), at),
        None => Some(default),
    }
}

/// What is no error's is not heeded.
fn status(config: Option<&HttpStatus>, default: u16) -> u16 {
    let code = config.and_then(|it| u16::try_from(it.code).ok());
    code.filter(|it| (400..600).contains(it)).unwrap_or(default)
}
