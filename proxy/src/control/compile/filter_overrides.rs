//! What routes say of filters (`typed_per_filter_config`).

use std::collections::HashMap;

use ithildin_proto::pb::{
    envoy::{
        config::route::v3::FilterConfig,
        extensions::filters::http::{
            cors::v3::CorsPolicy, ext_authz::v3::ExtAuthzPerRoute, fault::v3::HttpFault,
            jwt_authn::v3::PerRouteConfig as JwtPerRoute, local_ratelimit::v3::LocalRateLimit,
            lua::v3::LuaPerRoute, ratelimit::v3::RateLimitPerRoute, rbac::v3::RbacPerRoute,
        },
    },
    google::protobuf::Any,
};

use super::{cors, ext_authz, fault, jwt, limit_service, lua, rate_limit, rbac};
use crate::{
    config::filters::{FilterOverride, FilterOverrides},
    control::{any, report::At},
};

pub(super) fn overrides(config: &HashMap<String, Any>, at: &At<'_>) -> FilterOverrides {
    let mut entries: Vec<_> = config.iter().collect();
    entries.sort_unstable_by_key(|(name, _)| *name);
    let overrides = entries.into_iter().filter_map(|(name, config)| {
        let at = at.key("typed_per_filter_config", name);
        Some((name.as_str().into(), one(config, &at)?))
    });
    FilterOverrides::new(overrides.collect())
}

fn one(config: &Any, at: &At<'_>) -> Option<FilterOverride> {
    let config = any::resolve(config, at)?;
    if !any::is::<FilterConfig>(&config) {
        return typed(&config, at);
    }
    let FilterConfig {
        config,
        // A filter that is optional is refused all the same: it might be one that Envoy knows.
        is_optional: _,
        disabled,
    } = any::read(&config, at)?;
    if disabled {
        return Some(FilterOverride::Disabled);
    }
    let at = at.field("config");
    match config {
        None => {
            at.error("is required where disabled is not set");
            None
        }
        Some(config) if config.type_url.is_empty() => Some(FilterOverride::Enabled),
        Some(config) => typed(&*any::resolve(&config, &at)?, &at),
    }
}

fn typed(config: &Any, at: &At<'_>) -> Option<FilterOverride> {
    if any::is::<HttpFault>(config) {
        let config = any::read(config, at)?;
        fault::fault(&config, at).map(FilterOverride::Fault)
    } else if any::is::<CorsPolicy>(config) {
        let config = any::read(config, at)?;
        cors::policy(&config, at).map(FilterOverride::Cors)
    } else if any::is::<JwtPerRoute>(config) {
        let config = any::read(config, at)?;
        jwt::per_route(&config, at).map(FilterOverride::Jwt)
    } else if any::is::<ExtAuthzPerRoute>(config) {
        let config = any::read(config, at)?;
        ext_authz::per_route(&config, at)
    } else if any::is::<LuaPerRoute>(config) {
        let config = any::read(config, at)?;
        lua::per_route(&config, at)
    } else if any::is::<LocalRateLimit>(config) {
        let config: LocalRateLimit = any::read(config, at)?;
        if config.token_bucket.is_none() {
            at.field("token_bucket").error("is required");
        }
        let limit = rate_limit::limit(&config, &"".into(), at)?;
        Some(FilterOverride::RateLimit(limit.into()))
    } else if any::is::<RateLimitPerRoute>(config) {
        let config = any::read(config, at)?;
        limit_service::per_route(&config, at).map(FilterOverride::LimitService)
    } else if any::is::<RbacPerRoute>(config) {
        let RbacPerRoute { rbac } = any::read(config, at)?;
        match rbac {
            None => Some(FilterOverride::Disabled),
            Some(config) => rbac::http(&config, None, &at.field("rbac")).map(FilterOverride::Rbac),
        }
    } else {
        at.error(format_args!(
            "type {} is not supported",
            any::type_name(config)
        ));
        None
    }
}
