//! HTTP filters: which of them there are, and which may be left out.
//!
//! Invariant: a filter is left out only if it merely observes. Every other one that we lack is
//! refused.

use std::{borrow::Cow, sync::Arc};

use ithildin_proto::{
    istio::{
        alpn::FilterConfig as IstioAlpn, peer_metadata::Config as PeerMetadata, stats::PluginConfig,
    },
    pb::{
        envoy::extensions::filters::{
            http::{
                cors::v3::Cors, dynamic_forward_proxy::v3::FilterConfig as Forward,
                ext_authz::v3::ExtAuthz, fault::v3::HttpFault,
                grpc_stats::v3::FilterConfig as GrpcStats, jwt_authn::v3::JwtAuthentication,
                local_ratelimit::v3::LocalRateLimit, lua::v3::Lua, ratelimit::v3::RateLimit,
                rbac::v3::Rbac, router::v3::Router,
            },
            network::http_connection_manager::v3::{
                HttpFilter as FilterProto, http_filter::ConfigType,
            },
        },
        google::protobuf::Any,
    },
};

use super::{
    Compiler, alpn, ext_authz, fault, forward, jwt, limit_service, lua, peer_metadata, rate_limit,
    rbac, telemetry,
};
use crate::{
    config::filters::{FilterKind, HttpFilter},
    control::{
        any,
        report::{At, no_effect},
    },
};

/// Where a chain of filters stands.
pub(super) struct Place<'p> {
    /// Of the connection manager.
    pub(super) stat_prefix: &'p str,
    /// `traffic_direction` of the listener.
    pub(super) inbound: bool,
}

/// What is before the router, and the router.
#[derive(Default)]
pub(super) struct Filters {
    pub(super) chain: Vec<HttpFilter>,
    pub(super) router: RouterOptions,
}

/// What the router says.
#[derive(Default)]
pub(super) struct RouterOptions {
    pub(super) suppress_envoy_headers: bool,
    /// Each try has a span.
    pub(super) start_child_span: bool,
}

/// Compiles the whole chain.
pub(super) fn filters(
    filters: &[FilterProto],
    place: &Place<'_>,
    compiler: &mut Compiler,
    at: &At<'_>,
) -> Filters {
    let mut chain = Vec::new();
    let mut router = None;
    let last = filters.len().saturating_sub(1);
    for (i, filter) in filters.iter().enumerate() {
        let at = at.index("http_filters", i);
        let FilterProto {
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
            router = Some(router_options(&config, &at.field("typed_config")));
            continue;
        }
        let kind = kind(&config, place, compiler, &at);
        chain.extend(kind.map(|kind| HttpFilter {
            name: name.as_str().into(),
            disabled: *disabled,
            kind,
        }));
    }
    if router.is_none() {
        at.field("http_filters")
            .error("the last filter must be envoy.filters.http.router");
    }
    Filters {
        chain,
        router: router.unwrap_or_default(),
    }
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

/// `None` for what is left out, and beside errors.
fn kind(
    config: &Any,
    place: &Place<'_>,
    compiler: &mut Compiler,
    at: &At<'_>,
) -> Option<FilterKind> {
    let inner = at.field("typed_config");
    if any::is::<Rbac>(config) {
        let config = any::read(config, &inner)?;
        let stats = Some((&*compiler.stats, place.stat_prefix));
        rbac::http(&config, stats, &inner).map(FilterKind::Rbac)
    } else if any::is::<IstioAlpn>(config) {
        let config = any::read(config, &inner)?;
        Some(FilterKind::Alpn(alpn::overrides(&config, &inner)))
    } else if any::is::<PeerMetadata>(config) {
        let config = any::read(config, &inner)?;
        peer_metadata::filter(&config, compiler, &inner).map(FilterKind::PeerMetadata)
    } else if any::is::<PluginConfig>(config) {
        let config: PluginConfig = any::read(config, &inner)?;
        let telemetry = telemetry::telemetry(&config, place.inbound, compiler, &inner);
        telemetry.map(FilterKind::Telemetry)
    } else if any::is::<HttpFault>(config) {
        let config = any::read(config, &inner)?;
        fault::fault(&config, &inner).map(FilterKind::Fault)
    } else if any::is::<JwtAuthentication>(config) {
        let config = any::read(config, &inner)?;
        jwt::filter(&config, compiler, place.stat_prefix, &inner).map(FilterKind::Jwt)
    } else if any::is::<ExtAuthz>(config) {
        let config = any::read(config, &inner)?;
        let filter = ext_authz::http(&config, &compiler.stats, place.stat_prefix, &inner);
        filter.map(|it| FilterKind::ExtAuthz(Box::new(it)))
    } else if any::is::<LocalRateLimit>(config) {
        let config: LocalRateLimit = any::read(config, &inner)?;
        let limit = rate_limit::limit(&config, &compiler.node.cluster, &inner)?;
        let stats = compiler.stats.rate_limit(&config.stat_prefix);
        Some(FilterKind::RateLimit(limit.into(), stats))
    } else if any::is::<Lua>(config) {
        let config = any::read(config, &inner)?;
        let filter = lua::filter(&config, &compiler.stats, place.stat_prefix, &inner);
        filter.map(|it| FilterKind::Lua(Arc::new(it)))
    } else if any::is::<RateLimit>(config) {
        let config = any::read(config, &inner)?;
        let filter = limit_service::filter(&config, &compiler.node, &inner);
        filter.map(|it| FilterKind::LimitService(Box::new(it)))
    } else if any::is::<Forward>(config) {
        // It would resolve the name before the cluster does.
        forward::http_filter(&any::read(config, &inner)?, &inner);
        None
    } else if any::is::<Cors>(config) {
        any::read::<Cors>(config, &inner)?;
        Some(FilterKind::Cors)
    } else if any::is::<GrpcStats>(config) {
        // It only counts. What Istio's statistics take of it is counted there.
        any::read::<GrpcStats>(config, &inner)?;
        None
    } else {
        any::unsupported(config, at);
        None
    }
}

fn router_options(config: &Any, at: &At<'_>) -> RouterOptions {
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
        return RouterOptions::default();
    };
    // Statistics and logs.
    no_effect!(
        dynamic_stats,
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
    RouterOptions {
        suppress_envoy_headers,
        start_child_span,
    }
}
