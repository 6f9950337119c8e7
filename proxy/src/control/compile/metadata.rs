//! Metadata: what routes say to filters, and matchers of what filters leave.

use ithildin_proto::pb::{
    envoy::{
        config::core::v3::Metadata,
        r#type::matcher::v3::{
            MetadataMatcher, ValueMatcher, double_matcher::MatchPattern as DoublePattern,
            list_matcher::MatchPattern as ListPattern, metadata_matcher::path_segment::Segment,
            value_matcher::MatchPattern,
        },
    },
    google::protobuf::{Struct, Value as ProtoValue, value::Kind},
};
use serde_json::{Map, Number, Value};

use super::matchers;
use crate::{
    control::report::At,
    metadata::{MetadataMatch, MetadataValue},
};

pub(super) fn matcher(config: &MetadataMatcher, at: &At<'_>) -> Option<MetadataMatch> {
    let MetadataMatcher {
        filter,
        path,
        value,
        invert,
    } = config;
    if filter.is_empty() {
        at.field("filter").error("is empty");
        return None;
    }
    if path.is_empty() {
        at.field("path").error("is empty");
        return None;
    }
    let keys = path.iter().enumerate().map(|(i, segment)| {
        let at = at.index("path", i);
        match &segment.segment {
            Some(Segment::Key(key)) if !key.is_empty() => Some(key.as_str().into()),
            _ => {
                at.field("key").error("is empty");
                None
            }
        }
    });
    let path = keys.collect::<Option<Vec<_>>>();
    let value = self::value(value.as_ref(), &at.field("value"));
    Some(MetadataMatch {
        namespace: filter.as_str().into(),
        path: path?,
        value: value?,
        invert: *invert,
    })
}

fn value(config: Option<&ValueMatcher>, at: &At<'_>) -> Option<MetadataValue> {
    let Some(pattern) = config.and_then(|config| config.match_pattern.as_ref()) else {
        at.error("must say what it matches");
        return None;
    };
    Some(match pattern {
        MatchPattern::NullMatch(_) => MetadataValue::Null,
        MatchPattern::DoubleMatch(number) => match number.match_pattern {
            Some(DoublePattern::Exact(number)) => MetadataValue::Exactly(number),
            Some(DoublePattern::Range(range)) => MetadataValue::Between(range.start, range.end),
            None => {
                at.field("double_match")
                    .error("one of exact and range is required");
                return None;
            }
        },
        MatchPattern::StringMatch(text) => {
            MetadataValue::String(matchers::string(text, &at.field("string_match"))?)
        }
        MatchPattern::BoolMatch(wanted) => MetadataValue::Bool(*wanted),
        MatchPattern::PresentMatch(present) => MetadataValue::Present(*present),
        MatchPattern::ListMatch(list) => {
            let at = at.field("list_match");
            let one = list
                .match_pattern
                .as_ref()
                .map(|ListPattern::OneOf(it)| &**it);
            MetadataValue::ListWith(Box::new(value(one, &at.field("one_of"))?))
        }
        MatchPattern::OrMatch(or) => {
            let at = at.field("or_match");
            let all = or.value_matchers.iter().enumerate();
            let all = all.map(|(i, it)| value(Some(it), &at.index("value_matchers", i)));
            let all = all.collect::<Vec<_>>();
            MetadataValue::AnyOf(all.into_iter().collect::<Option<_>>()?)
        }
    })
}

/// The values of a message, as filters have them.
pub(super) fn object(config: &Struct) -> Map<String, Value> {
    let fields = config.fields.iter();
    let mut fields: Vec<_> = fields.collect();
    fields.sort_unstable_by_key(|(name, _)| *name);
    let fields = fields.into_iter();
    fields
        .map(|(name, value)| (name.clone(), plain(value)))
        .collect()
}

fn plain(config: &ProtoValue) -> Value {
    match &config.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        // Numbers without a meaning in JSON are null there.
        Some(Kind::NumberValue(number)) => Number::from_f64(*number).into(),
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::BoolValue(value)) => Value::Bool(*value),
        Some(Kind::StructValue(fields)) => Value::Object(object(fields)),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(plain).collect()),
    }
}

/// What a route says to filters, by their names. What is for others, as Istio's, is left out.
pub(super) fn of_route(config: Option<&Metadata>) -> Option<Box<Map<String, Value>>> {
    let spaces = config?.filter_metadata.iter();
    let spaces = spaces.filter(|(name, _)| *name != "istio");
    let spaces: Map<_, _> = spaces
        .map(|(name, fields)| (name.clone(), Value::Object(object(fields))))
        .collect();
    (!spaces.is_empty()).then(|| Box::new(spaces))
}
