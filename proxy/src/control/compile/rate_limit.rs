//! `envoy.filters.http.local_ratelimit`.

use std::{sync::Arc, time::Duration};

use ithildin_proto::pb::envoy::{
    config::core::v3::RuntimeFractionalPercent,
    extensions::{
        common::ratelimit::v3::{
            LocalRateLimitDescriptor, VhRateLimitsOptions, XRateLimitHeadersRfcVersion,
        },
        filters::http::local_ratelimit::v3::LocalRateLimit,
    },
    r#type::v3::TokenBucket as BucketProto,
};

use super::{fault, headers, limit_rules};
use crate::{
    config::{
        Map,
        filters::Percent,
        limit_rules::HostRules,
        rate_limit::{RateLimit, TokenBucket},
    },
    control::report::{At, no_effect, refuse},
};

/// Where no status, or none of an error, is configured; Envoy's.
const DEFAULT_STATUS: u16 = 429;

/// Envoy's.
const MIN_FILL_INTERVAL: Duration = Duration::from_millis(50);

/// A filter's of a proxy that belongs to `own_cluster`, or a route's, for which its filter knows that. What a route
/// limits is counted with its filter.
pub(super) fn limit(
    config: &LocalRateLimit,
    own_cluster: &Arc<str>,
    at: &At<'_>,
) -> Option<RateLimit> {
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
    // Of descriptors for each value, which are refused.
    no_effect!(max_dynamic_descriptors);
    let errors = at.errors();
    refuse!(
        at;
        local_rate_limit_per_downstream_connection, local_cluster_rate_limit,
        enable_retry_after_header,
    );
    limit_rules::stage(*stage, at);
    let telling: XRateLimitHeadersRfcVersion =
        at.enumeration("enable_x_ratelimit_headers", *enable_x_ratelimit_headers)?;
    let always_draws = always_consume_default_token_bucket.as_ref();
    if stat_prefix.is_empty() {
        at.field("stat_prefix").error("is empty");
    }
    let rules = limit_rules::of_filter(rate_limits, at);
    if rules
        .iter()
        .any(|rule| rule.hits.is_some_and(|it| it.is_negative))
    {
        at.field("rate_limits")
            .error("is_negative_hits is not supported");
    }
    let status = status.as_ref().and_then(|it| u16::try_from(it.code).ok());
    let bucket = token_bucket.as_ref();
    let bucket = bucket.map(|it| self::bucket(it, &at.field("token_bucket")));
    let limit = RateLimit {
        bucket: bucket.flatten(),
        descriptors: self::descriptors(descriptors, at),
        always_draws: always_draws.is_none_or(|it| it.value),
        stage: *stage,
        host_rules: match at.enumeration("vh_rate_limits", *vh_rate_limits)? {
            VhRateLimitsOptions::Override => HostRules::Override,
            VhRateLimitsOptions::Include => HostRules::Include,
            VhRateLimitsOptions::Ignore => HostRules::Ignore,
        },
        rules,
        own_cluster: Arc::clone(own_cluster),
        enabled: percent(filter_enabled.as_ref(), &at.field("filter_enabled"))?,
        enforced: percent(filter_enforced.as_ref(), &at.field("filter_enforced"))?,
        status: status
            .filter(|code| (400..600).contains(code))
            .unwrap_or(DEFAULT_STATUS),
        rate_limited_as_resource_exhausted: *rate_limited_as_resource_exhausted,
        tells_limits: telling == XRateLimitHeadersRfcVersion::DraftVersion03,
        request_headers_to_add_when_not_enforced: headers::additions(
            "request_headers_to_add_when_not_enforced",
            request_headers_to_add_when_not_enforced,
            at,
        ),
        response_headers_to_add: headers::response(response_headers_to_add, &[], at),
    };
    (at.errors() == errors).then_some(limit)
}

/// A bucket each; a descriptor must be equal to be limited by it.
fn descriptors(
    configs: &[LocalRateLimitDescriptor],
    at: &At<'_>,
) -> Map<Vec<(String, String)>, TokenBucket> {
    let mut buckets = Map::default();
    for (i, config) in configs.iter().enumerate() {
        let at = at.index("descriptors", i);
        let LocalRateLimitDescriptor {
            entries,
            token_bucket,
            shadow_mode,
        } = config;
        refuse!(at; shadow_mode);
        if entries.is_empty() {
            at.field("entries").error("is empty");
        }
        for (i, entry) in entries.iter().enumerate() {
            let at = at.index("entries", i);
            if entry.key.is_empty() {
                at.field("key").error("is empty");
            }
            if entry.value.is_empty() {
                at.field("value")
                    .error("is empty: a bucket for each value is not supported");
            }
        }
        let Some(bucket) = token_bucket else {
            at.field("token_bucket").error("is required");
            continue;
        };
        let Some(bucket) = self::bucket(bucket, &at.field("token_bucket")) else {
            continue;
        };
        let entries = entries.iter();
        let entries = entries.map(|it| (it.key.clone(), it.value.clone()));
        if buckets.insert(entries.collect(), bucket).is_some() {
            at.error("is there twice");
        }
    }
    buckets
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
