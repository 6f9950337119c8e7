//! Matchers of dynamic metadata.

use ithildin_proto::pb::envoy::r#type::matcher::v3::{
    MetadataMatcher, ValueMatcher, double_matcher::MatchPattern as DoublePattern,
    list_matcher::MatchPattern as ListPattern, metadata_matcher::path_segment::Segment,
    value_matcher::MatchPattern,
};

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
