//! `envoy.filters.http.local_ratelimit`.

use std::time::Duration;

use ithildin_proto::pb::envoy::{
    config::core::v3::RuntimeFractionalPercent,
    extensions::filters::http::local_ratelimit::v3::LocalRateLimit,
    r#type::v3::TokenBucket as BucketProto,
};

use super::{fault, headers};
use crate::{
    config::{
        filters::Percent,
        rate_limit::{RateLimit, TokenBucket},
    },
    control::report::{At, no_effect, refuse},
};

/// Where no status, or none of an error, is configured; Envoy's.
const DEFAULT_STATUS: u16 = 429;

/// Envoy's.
const MIN_FILL_INTERVAL: Duration = Duration::from_millis(50);

/// A filter's, or a route's. What a route limits is counted with its filter.
pub(super) fn limit(config: &LocalRateLimit, at: &At<'_>) -> Option<RateLimit> {
    let LocalRateLimit {
        stat_prefix,
        status,
        token_bucket,
        filter_enabled,
        filter_enforced,
        request_headers_to_add_when_not_enforced,
        response_headers_to_add,
        descriptors,
        stage,
        local_rate_limit_per_downstream_connection,
        local_cluster_rate_limit,
        enable_x_ratelimit_headers,
        vh_rate_limits,
        always_consume_default_token_bucket,
        rate_limited_as_resource_exhausted,
        rate_limits,
        max_dynamic_descriptors,
        enable_retry_after_header,
    } = config;
    // Without descriptors there is one bucket, whatever the rate limits of routes are.
    no_effect!(
        stage,
        vh_rate_limits,
        always_consume_default_token_bucket,
        max_dynamic_descriptors,
    );
    let errors = at.errors();
    refuse!(
        at;
        descriptors, local_rate_limit_per_downstream_connection, local_cluster_rate_limit,
        enable_x_ratelimit_headers, rate_limits, enable_retry_after_header,
    );
    if stat_prefix.is_empty() {
        at.field("stat_prefix").error("is empty");
    }
    let status = status.as_ref().and_then(|it| u16::try_from(it.code).ok());
    let bucket = token_bucket.as_ref();
    let bucket = bucket.map(|it| self::bucket(it, &at.field("token_bucket")));
    let limit = RateLimit {
        bucket: bucket.flatten(),
        enabled: percent(filter_enabled.as_ref(), &at.field("filter_enabled"))?,
        enforced: percent(filter_enforced.as_ref(), &at.field("filter_enforced"))?,
        status: status
            .filter(|code| (400..600).contains(code))
            .unwrap_or(DEFAULT_STATUS),
        rate_limited_as_resource_exhausted: *rate_limited_as_resource_exhausted,
        request_headers_to_add_when_not_enforced: headers::additions(
            "request_headers_to_add_when_not_enforced",
            request_headers_to_add_when_not_enforced,
            at,
        ),
        response_headers_to_add: headers::response(response_headers_to_add, &[], at),
    };
    (at.errors() == errors).then_some(limit)
}

/// None at all unless it is said, as in Envoy. There is no runtime layer, so the default counts.
fn percent(config: Option<&RuntimeFractionalPercent>, at: &At<'_>) -> Option<Percent> {
    fault::percent(config.and_then(|it| it.default_value.as_ref()), at)
}

fn bucket(config: &BucketProto, at: &At<'_>) -> Option<TokenBucket> {
    let BucketProto {
        max_tokens,
        tokens_per_fill,
        fill_interval,
    } = config;
    let tokens_per_fill = tokens_per_fill.map_or(1, |it| it.value);
    let interval = at.duration("fill_interval", fill_interval);
    if *max_tokens == 0 {
        at.field("max_tokens").error("must be more than zero");
    }
    if tokens_per_fill == 0 {
        at.field("tokens_per_fill").error("must be more than zero");
    }
    let interval = interval.filter(|it| *it >= MIN_FILL_INTERVAL);
    if interval.is_none() {
        at.field("fill_interval").error("must be at least 50 ms");
    }
    let is_sound = *max_tokens > 0 && tokens_per_fill > 0;
    is_sound.then(|| TokenBucket::new(*max_tokens, tokens_per_fill, interval.unwrap_or_default()))
}
