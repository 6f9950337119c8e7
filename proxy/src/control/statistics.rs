//! What the bootstrap says of statistics (`stats_config`).

use ithildin_proto::pb::envoy::{
    config::{
        bootstrap::v3::Bootstrap,
        metrics::v3::{
            StatsConfig, StatsMatcher, TagSpecifier, stats_matcher::StatsMatcher as Which,
            tag_specifier::TagValue,
        },
    },
    r#type::matcher::v3::ListStringMatcher,
};
use regex::bytes::RegexBuilder;

use super::{
    compile,
    report::{At, ConfigErrors, Report},
};
use crate::{
    config::matchers::StringMatch,
    stats::{Included, StatsShape, Tag, TagRule},
};

/// Istio's expressions say that a dot must follow where their next part wants one anyway, to fail
/// sooner. We have no look-ahead.
const NEEDLESS: &str = r"(?=\.)";

/// # Errors
/// Patterns that are none. A tag that we cannot find is left out with a warning: it concerns
/// dashboards, and no traffic.
pub(crate) fn shape(bootstrap: &Bootstrap) -> Result<StatsShape, ConfigErrors> {
    let report = Report::default();
    let shape = match &bootstrap.stats_config {
        Some(config) => stats_config(config, &report.root("stats_config")),
        None => StatsShape::default(),
    };
    report.finish(Some(shape))
}

fn stats_config(config: &StatsConfig, at: &At<'_>) -> StatsShape {
    let StatsConfig {
        stats_tags,
        use_all_default_tags,
        stats_matcher,
        histogram_bucket_settings,
        allow_default_tag_overrides: _,
    } = config;
    if !histogram_bucket_settings.is_empty() {
        at.field("histogram_bucket_settings")
            .warn("is not supported; histograms keep Envoy's default buckets");
    }
    let tags = stats_tags.iter().enumerate();
    // A rule's tag replaces one of Envoy's own in any case; without the flag Envoy refuses such a rule.
    StatsShape {
        included: match stats_matcher {
            Some(config) => included(config, &at.field("stats_matcher")),
            None => Included::All,
        },
        only_rules: use_all_default_tags.is_some_and(|value| !value.value),
        rules: tags
            .filter_map(|(i, config)| rule(config, &at.index("stats_tags", i)))
            .collect(),
    }
}

fn included(config: &StatsMatcher, at: &At<'_>) -> Included {
    match &config.stats_matcher {
        None | Some(Which::RejectAll(false)) => Included::All,
        Some(Which::RejectAll(true)) => Included::None,
        Some(Which::InclusionList(list)) => {
            Included::Only(patterns(list, &at.field("inclusion_list")))
        }
        Some(Which::ExclusionList(list)) => {
            Included::AllBut(patterns(list, &at.field("exclusion_list")))
        }
    }
}

fn patterns(list: &ListStringMatcher, at: &At<'_>) -> Vec<StringMatch> {
    let patterns = list.patterns.iter().enumerate();
    patterns
        .filter_map(|(i, matcher)| compile::string_match(matcher, &at.index("patterns", i)))
        .collect()
}

fn rule(config: &TagSpecifier, at: &At<'_>) -> Option<TagRule> {
    let TagSpecifier {
        tag_name,
        tag_value,
    } = config;
    let pattern = match tag_value {
        Some(TagValue::FixedValue(value)) => {
            return Some(TagRule::Fixed(Tag {
                key: label(tag_name).into(),
                value: value.as_str().into(),
            }));
        }
        Some(TagValue::Regex(pattern)) if !pattern.is_empty() => pattern,
        Some(TagValue::Regex(_)) | None => {
            at.warn("has no regex; tags of Envoy's own are not chosen one by one");
            return None;
        }
    };
    // Classes of ASCII, since those of Unicode are large in memory and no name needs them.
    let regex = RegexBuilder::new(&pattern.replace(NEEDLESS, ""))
        .unicode(false)
        .build();
    match regex {
        Ok(regex) => Some(TagRule::Found {
            key: label(tag_name),
            regex,
        }),
        Err(error) => {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default();
            at.field("regex")
                .warn(format_args!("the tag {tag_name:?} is left out: {reason}"));
            None
        }
    }
}

/// The name of a tag as Prometheus may have it.
fn label(tag: &str) -> String {
    let characters = tag.chars();
    let allowed = characters.map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
    allowed.collect()
}

#[cfg(test)]
mod tests {
    use ithildin_proto::from_yaml;

    use super::*;

    fn of(yaml: &str) -> Result<StatsShape, ConfigErrors> {
        shape(&from_yaml(&format!("stats_config: {yaml}")).expect("it is the test's own"))
    }

    #[test]
    fn what_has_no_effect_on_traffic_is_left_out_and_what_is_no_pattern_refused() {
        let shape = of(
            r"{stats_tags: [{tag_name: a, regex: '^(?!x)(y)'}, {tag_name: b, regex: '(?=\.)(z)'}, {tag_name: c}]}",
        );
        let rules = shape.expect("warnings only").rules;
        assert!(
            matches!(&rules[..], [TagRule::Found { key, .. }] if key == "b"),
            "{rules:?}"
        );
        let errors = of(
            "{stats_matcher: {inclusion_list: {patterns: [{prefix: a}, {safe_regex: {regex: '('}}]}}}",
        );
        let errors = errors.expect_err("no expression").to_string();
        let path = "stats_config.stats_matcher.inclusion_list.patterns[1].safe_regex.regex";
        assert!(errors.contains(path), "{errors}");
    }
}
