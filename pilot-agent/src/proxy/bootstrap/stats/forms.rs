//! [`Statistics`] as JSON, for Envoy's file, and as the message, for the built-in proxy: a way from one to the
//! other leads through the descriptors of all of Envoy's messages, which takes longer than the rest of a start.

use ithildin_proto::pb::{
    envoy::{
        config::metrics::v3::{
            HistogramBucketSettings, StatsConfig, StatsMatcher, TagSpecifier, stats_matcher,
            tag_specifier::TagValue,
        },
        r#type::matcher::v3::{
            ListStringMatcher, RegexMatcher, StringMatcher, string_matcher::MatchPattern,
        },
    },
    google::protobuf::BoolValue,
};
use serde_json::{Value, json};

use super::{Pattern, Statistics};

impl Statistics {
    pub(in crate::proxy::bootstrap) fn to_json(&self) -> Value {
        let tags = self.tags.iter();
        let tags = tags.map(|tag| json!({"tag_name": tag.name, "regex": tag.regex}));
        let patterns = self.included.iter().map(|pattern| match pattern {
            Pattern::Prefix(text) => json!({"prefix": text}),
            Pattern::Suffix(text) => json!({"suffix": text}),
            Pattern::Regex(text) => json!({"safe_regex": {"regex": text}}),
        });
        let mut config = json!({
            "use_all_default_tags": false,
            "stats_tags": tags.collect::<Value>(),
            "stats_matcher": {"inclusion_list": {"patterns": patterns.collect::<Value>()}},
        });
        if !self.buckets.is_empty() {
            let buckets = self.buckets.iter();
            config["histogram_bucket_settings"] = buckets
                .map(|(prefix, at)| json!({"match": {"prefix": prefix}, "buckets": at}))
                .collect();
        }
        config
    }

    pub(in crate::proxy::bootstrap) fn into_message(self) -> StatsConfig {
        let tags = self.tags.into_iter().map(|tag| TagSpecifier {
            tag_name: tag.name,
            tag_value: Some(TagValue::Regex(tag.regex)),
        });
        let patterns = self.included.into_iter().map(|pattern| match pattern {
            Pattern::Prefix(text) => matcher(MatchPattern::Prefix(text)),
            Pattern::Suffix(text) => matcher(MatchPattern::Suffix(text)),
            Pattern::Regex(regex) => matcher(MatchPattern::SafeRegex(RegexMatcher {
                regex,
                ..Default::default()
            })),
        });
        let buckets = self.buckets.into_iter();
        let buckets = buckets.map(|(prefix, buckets)| HistogramBucketSettings {
            r#match: Some(matcher(MatchPattern::Prefix(prefix))),
            buckets,
            ..Default::default()
        });
        StatsConfig {
            use_all_default_tags: Some(BoolValue { value: false }),
            stats_tags: tags.collect(),
            stats_matcher: Some(StatsMatcher {
                stats_matcher: Some(stats_matcher::StatsMatcher::InclusionList(
                    ListStringMatcher {
                        patterns: patterns.collect(),
                    },
                )),
            }),
            histogram_bucket_settings: buckets.collect(),
            ..Default::default()
        }
    }
}

fn matcher(pattern: MatchPattern) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(pattern),
        ignore_case: false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ithildin_proto::from_value;

    use super::*;
    use crate::proxy::bootstrap::stats::Tag;

    #[test]
    fn both_forms_say_the_same() {
        let text = |text: &str| text.to_owned();
        let statistics = Statistics {
            tags: vec![Tag {
                name: text("code"),
                regex: text(r"_rq(_(\d{3}))$"),
            }],
            included: vec![
                Pattern::Prefix(text("server")),
                Pattern::Suffix(text("allowed")),
                Pattern::Regex(text(r"vhost\..*")),
            ],
            buckets: BTreeMap::from([(text("istio"), vec![0.5, 1.0, 5.0])]),
        };
        let read: StatsConfig = from_value(statistics.to_json()).unwrap();
        assert_eq!(statistics.into_message(), read);
    }
}
