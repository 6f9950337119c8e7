//! Rate limits of routes and of the filters that look at them: what makes a descriptor.

use ithildin_proto::pb::envoy::{
    config::route::v3::{
        HeaderMatcher, QueryParameterMatcher, RateLimit,
        rate_limit::{
            Action, HitsAddend, Override,
            action::{
                ActionSpecifier, GenericKey, HeaderValueMatch, MaskedRemoteAddress, MetaData,
                QueryParameterValueMatch, QueryParameters, RequestHeaders, meta_data::Source,
            },
            r#override::{DynamicMetadata, OverrideSpecifier, RateLimitOverride},
        },
    },
    r#type::{
        metadata::v3::{MetadataKey, metadata_key::path_segment::Segment},
        v3::RateLimitUnit,
    },
};

use super::matchers;
use crate::{
    config::{
        limit_rules::{Hits, LimitAction, LimitOverride, LimitRule, MetadataPlace},
        matchers::{HeaderMatch, HeaderSource, QueryMatch},
    },
    control::report::{At, refuse},
};

/// Envoy's.
const MAX_STAGE: u32 = 10;

/// Envoy's: the most that one request may count.
const MAX_HITS: u64 = 1_000_000_000;

/// Those of a route or a virtual host.
pub(super) fn of_route(configs: &[RateLimit], at: &At<'_>) -> Box<[LimitRule]> {
    let rules = rules(configs, at);
    // Envoy reads them of filters alone.
    rules.map(|rule| LimitRule { hits: None, ..rule }).collect()
}

/// Those of a filter, or of what a route says of it.
pub(super) fn of_filter(configs: &[RateLimit], at: &At<'_>) -> Vec<LimitRule> {
    for (i, config) in configs.iter().enumerate() {
        let at = at.index("rate_limits", i);
        let RateLimit { stage, .. } = config;
        at.unset("stage", stage);
    }
    rules(configs, at).collect()
}

fn rules(configs: &[RateLimit], at: &At<'_>) -> impl Iterator<Item = LimitRule> {
    let configs = configs.iter().enumerate();
    configs.filter_map(move |(i, config)| rule(config, &at.index("rate_limits", i)))
}

fn rule(config: &RateLimit, at: &At<'_>) -> Option<LimitRule> {
    let RateLimit {
        stage,
        disable_key,
        actions,
        limit,
        hits_addend,
        apply_on_stream_done,
        x_ratelimit_option,
    } = config;
    refuse!(at; disable_key, apply_on_stream_done, x_ratelimit_option);
    let errors = at.errors();
    let stage = stage.map_or(0, |it| it.value);
    self::stage(stage, at);
    if actions.is_empty() {
        at.field("actions").error("is empty");
    }
    let actions = actions.iter().enumerate();
    let actions = actions.filter_map(|(i, config)| action(config, &at.index("actions", i)));
    let rule = LimitRule {
        stage,
        actions: actions.collect(),
        limit: limit
            .as_ref()
            .and_then(|it| limit_override(it, &at.field("limit"))),
        hits: hits_addend
            .as_ref()
            .and_then(|it| hits(it, &at.field("hits_addend"))),
    };
    (at.errors() == errors).then_some(rule)
}

/// Checks the number of a stage.
pub(super) fn stage(stage: u32, at: &At<'_>) {
    if stage > MAX_STAGE {
        at.field("stage")
            .error(format_args!("{stage} is more than {MAX_STAGE}"));
    }
}

fn action(config: &Action, at: &At<'_>) -> Option<LimitAction> {
    use ActionSpecifier as Specifier;
    let unsupported = |field: &str| {
        at.field(field).error("is not supported");
        None
    };
    match &config.action_specifier {
        Some(Specifier::SourceCluster(_)) => Some(LimitAction::SourceCluster),
        Some(Specifier::DestinationCluster(_)) => Some(LimitAction::DestinationCluster),
        Some(Specifier::RequestHeaders(config)) => header(config, &at.field("request_headers")),
        Some(Specifier::QueryParameters(config)) => {
            parameter(config, &at.field("query_parameters"))
        }
        Some(Specifier::RemoteAddress(_)) => Some(LimitAction::RemoteAddress),
        Some(Specifier::MaskedRemoteAddress(config)) => {
            masked(config, &at.field("masked_remote_address"))
        }
        Some(Specifier::GenericKey(config)) => generic(config, &at.field("generic_key")),
        Some(Specifier::HeaderValueMatch(config)) => {
            headers_match(config, &at.field("header_value_match"))
        }
        Some(Specifier::QueryParameterValueMatch(config)) => {
            parameters_match(config, &at.field("query_parameter_value_match"))
        }
        // The older form of the next one.
        Some(Specifier::DynamicMetadata(config)) => {
            let config = MetaData {
                descriptor_key: config.descriptor_key.clone(),
                metadata_key: config.metadata_key.clone(),
                default_value: config.default_value.clone(),
                ..MetaData::default()
            };
            metadata(&config, &at.field("dynamic_metadata"))
        }
        Some(Specifier::Metadata(config)) => metadata(config, &at.field("metadata")),
        Some(Specifier::Extension(_)) => unsupported("extension"),
        Some(Specifier::RemoteAddressMatch(_)) => unsupported("remote_address_match"),
        None => {
            at.error("has no action");
            None
        }
    }
}

fn header(config: &RequestHeaders, at: &At<'_>) -> Option<LimitAction> {
    let RequestHeaders {
        header_name,
        descriptor_key,
        skip_if_absent,
    } = config;
    Some(LimitAction::Header {
        source: HeaderSource::named(at.text("header_name", header_name)?),
        key: at.text("descriptor_key", descriptor_key)?.into(),
        optional: *skip_if_absent,
    })
}

fn parameter(config: &QueryParameters, at: &At<'_>) -> Option<LimitAction> {
    let QueryParameters {
        query_parameter_name,
        descriptor_key,
        skip_if_absent,
    } = config;
    Some(LimitAction::Parameter {
        name: at
            .text("query_parameter_name", query_parameter_name)?
            .into(),
        key: at.text("descriptor_key", descriptor_key)?.into(),
        optional: *skip_if_absent,
    })
}

fn masked(config: &MaskedRemoteAddress, at: &At<'_>) -> Option<LimitAction> {
    let MaskedRemoteAddress {
        v4_prefix_mask_len,
        v6_prefix_mask_len,
    } = config;
    let length = |field, length: Option<u32>, most: u8| {
        let length = length.unwrap_or(most.into());
        let known = u8::try_from(length).ok().filter(|it| *it <= most);
        if known.is_none() {
            at.field(field)
                .error(format_args!("{length} is more than {most}"));
        }
        known
    };
    let v4 = length(
        "v4_prefix_mask_len",
        v4_prefix_mask_len.map(|it| it.value),
        32,
    );
    let v6 = length(
        "v6_prefix_mask_len",
        v6_prefix_mask_len.map(|it| it.value),
        128,
    );
    Some(LimitAction::MaskedRemoteAddress { v4: v4?, v6: v6? })
}

fn generic(config: &GenericKey, at: &At<'_>) -> Option<LimitAction> {
    let GenericKey {
        descriptor_value,
        // Values have no operators in them unless a runtime key says so.
        default_value: _,
        descriptor_key,
    } = config;
    Some(LimitAction::Generic {
        key: or(descriptor_key, "generic_key"),
        value: at.text("descriptor_value", descriptor_value)?.into(),
    })
}

fn headers_match(config: &HeaderValueMatch, at: &At<'_>) -> Option<LimitAction> {
    let HeaderValueMatch {
        descriptor_value,
        default_value: _,
        descriptor_key,
        expect_match,
        headers,
    } = config;
    let one = |(i, config): (usize, &HeaderMatcher)| -> Option<HeaderMatch> {
        matchers::header(config, &at.index("headers", i))
    };
    if headers.is_empty() {
        at.field("headers").error("is empty");
    }
    Some(LimitAction::HeadersMatch {
        key: or(descriptor_key, "header_match"),
        value: at.text("descriptor_value", descriptor_value)?.into(),
        headers: headers.iter().enumerate().filter_map(one).collect(),
        expected: expect_match.is_none_or(|it| it.value),
    })
}

fn parameters_match(config: &QueryParameterValueMatch, at: &At<'_>) -> Option<LimitAction> {
    let QueryParameterValueMatch {
        descriptor_value,
        default_value: _,
        descriptor_key,
        expect_match,
        query_parameters,
    } = config;
    let one = |(i, config): (usize, &QueryParameterMatcher)| -> Option<QueryMatch> {
        matchers::query(config, &at.index("query_parameters", i))
    };
    if query_parameters.is_empty() {
        at.field("query_parameters").error("is empty");
    }
    Some(LimitAction::ParametersMatch {
        key: or(descriptor_key, "query_match"),
        value: at.text("descriptor_value", descriptor_value)?.into(),
        parameters: query_parameters
            .iter()
            .enumerate()
            .filter_map(one)
            .collect(),
        expected: expect_match.is_none_or(|it| it.value),
    })
}

fn metadata(config: &MetaData, at: &At<'_>) -> Option<LimitAction> {
    let MetaData {
        descriptor_key,
        metadata_key,
        default_value,
        source,
        skip_if_absent,
    } = config;
    let source: Source = at.enumeration("source", *source)?;
    if source != Source::Dynamic {
        at.field("source")
            .error(format_args!("{} is not supported", source.as_str_name()));
    }
    Some(LimitAction::Metadata {
        key: at.text("descriptor_key", descriptor_key)?.into(),
        place: place(metadata_key.as_ref(), &at.field("metadata_key"))?,
        default: default_value.as_str().into(),
        optional: *skip_if_absent,
    })
}

fn place(config: Option<&MetadataKey>, at: &At<'_>) -> Option<MetadataPlace> {
    let Some(MetadataKey { key, path }) = config else {
        at.error("is required");
        return None;
    };
    let namespace = at.text("key", key)?;
    if path.is_empty() {
        at.field("path").error("is empty");
    }
    let path = path.iter().enumerate().map(|(i, segment)| {
        let at = at.index("path", i);
        match &segment.segment {
            Some(Segment::Key(key)) => at.text("key", key).map(Into::into),
            Some(Segment::Index(_)) => {
                at.field("index").error("is not supported");
                None
            }
            None => {
                at.error("has no key");
                None
            }
        }
    });
    Some(MetadataPlace {
        namespace: namespace.into(),
        path: path.collect::<Option<_>>()?,
    })
}

fn limit_override(config: &Override, at: &At<'_>) -> Option<LimitOverride> {
    match &config.override_specifier {
        Some(OverrideSpecifier::RateLimit(RateLimitOverride {
            requests_per_unit,
            unit,
        })) => {
            let at = at.field("rate_limit");
            at.enumeration::<RateLimitUnit>("unit", *unit)?;
            Some(LimitOverride::Fixed {
                requests: *requests_per_unit,
                unit: *unit,
            })
        }
        Some(OverrideSpecifier::DynamicMetadata(DynamicMetadata { metadata_key })) => {
            let at = at.field("dynamic_metadata");
            let place = place(metadata_key.as_ref(), &at.field("metadata_key"));
            place.map(LimitOverride::Metadata)
        }
        None => {
            at.error("one of dynamic_metadata and rate_limit is required");
            None
        }
    }
}

fn hits(config: &HitsAddend, at: &At<'_>) -> Option<Hits> {
    let HitsAddend {
        number,
        format,
        is_negative_hits,
    } = config;
    refuse!(at; format);
    let Some(number) = number.map(|it| it.value) else {
        at.field("number").error("is required");
        return None;
    };
    if number > MAX_HITS {
        at.field("number")
            .error(format_args!("{number} is more than {MAX_HITS}"));
    }
    Some(Hits {
        number,
        is_negative: *is_negative_hits,
    })
}

fn or(text: &str, default: &str) -> Box<str> {
    match text {
        "" => default.into(),
        text => text.into(),
    }
}
