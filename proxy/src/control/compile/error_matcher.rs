//! Which responses outlier detection takes for errors: by status, as istiod asks for it.

use ithildin_proto::pb::envoy::{
    config::{
        common::matcher::v3::{
            HttpHeadersMatch, MatchPredicate,
            match_predicate::{MatchSet, Rule},
        },
        route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier},
    },
    extensions::upstreams::http::v3::http_protocol_options::OutlierDetection,
    r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
};

use crate::control::report::At;

/// The statuses; `None`: the usual ones.
pub(super) fn statuses(config: Option<&OutlierDetection>, at: &At<'_>) -> Option<Box<[u16]>> {
    let OutlierDetection { error_matcher } = config?;
    let at = at.field("outlier_detection");
    let at = at.field("error_matcher");
    let mut found = Vec::new();
    collect(error_matcher.as_ref()?, &at, &mut found);
    Some(found.into())
}

fn collect(config: &MatchPredicate, at: &At<'_>, found: &mut Vec<u16>) {
    match &config.rule {
        Some(Rule::OrMatch(MatchSet { rules })) => {
            let at = at.field("or_match");
            for (i, rule) in rules.iter().enumerate() {
                collect_one(rule, &at.index("rules", i), found);
            }
        }
        _ => collect_one(config, at, found),
    }
}

fn collect_one(config: &MatchPredicate, at: &At<'_>, found: &mut Vec<u16>) {
    match status(config) {
        Some(status) => found.push(status),
        None => at.error("only the exact value of :status is supported"),
    }
}

fn status(config: &MatchPredicate) -> Option<u16> {
    let Some(Rule::HttpResponseHeadersMatch(HttpHeadersMatch { headers })) = &config.rule else {
        return None;
    };
    let [
        HeaderMatcher {
            name,
            invert_match: false,
            treat_missing_header_as_empty: _,
            header_match_specifier:
                Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
                    ignore_case: _,
                    match_pattern: Some(MatchPattern::Exact(value)),
                })),
        },
    ] = &headers[..]
    else {
        return None;
    };
    value.parse().ok().filter(|_| name == ":status")
}
