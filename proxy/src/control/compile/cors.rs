//! `envoy.filters.http.cors`: the policies of routes.

use bytes::Bytes;
use ithildin_proto::pb::{
    envoy::{
        config::core::v3::RuntimeFractionalPercent,
        extensions::filters::http::cors::v3::CorsPolicy as CorsProto,
    },
    google::protobuf::BoolValue,
};

use super::{fault, headers, matchers};
use crate::{
    config::filters::{CorsPolicy, Percent},
    control::report::{At, no_effect},
};

pub(super) fn policy(config: &CorsProto, at: &At<'_>) -> Option<CorsPolicy> {
    let CorsProto {
        allow_origin_string_match,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        filter_enabled,
        shadow_enabled,
        allow_private_network_access,
        forward_not_matching_preflights,
    } = config;
    // It counts, and changes nothing.
    no_effect!(shadow_enabled);
    let origins = allow_origin_string_match.iter().enumerate();
    let origins = origins
        .map(|(i, config)| matchers::string(config, &at.index("allow_origin_string_match", i)))
        .collect::<Option<Vec<_>>>();
    let text = |name: &str, value: &str| -> Option<Option<Bytes>> {
        if value.is_empty() {
            return Some(None);
        }
        headers::value(value, &at.field(name)).map(Some)
    };
    let flag = |value: &Option<BoolValue>| value.map(|value| value.value);
    Some(CorsPolicy {
        enabled: enabled(filter_enabled.as_ref(), at)?,
        origins: origins?,
        methods: text("allow_methods", allow_methods)?,
        headers: text("allow_headers", allow_headers)?,
        expose: text("expose_headers", expose_headers)?,
        max_age: text("max_age", max_age)?,
        credentials: flag(allow_credentials),
        private_network: flag(allow_private_network_access),
        forward_unmatched: flag(forward_not_matching_preflights),
    })
}

/// There is no runtime layer, so the default counts.
fn enabled(config: Option<&RuntimeFractionalPercent>, at: &At<'_>) -> Option<Percent> {
    let Some(RuntimeFractionalPercent {
        default_value,
        runtime_key,
    }) = config
    else {
        return Some(Percent::ALL);
    };
    no_effect!(runtime_key);
    fault::percent(default_value.as_ref(), &at.field("filter_enabled"))
}
