//! Conditions of a route.

use ithildin_proto::pb::envoy::{
    config::route::v3::{
        HeaderMatcher, QueryParameterMatcher, RouteMatch, header_matcher::HeaderMatchSpecifier,
        query_parameter_matcher::QueryParameterMatchSpecifier, route_match::PathSpecifier,
    },
    r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
};

use crate::{
    build::wire::on,
    model::{HttpMatch, StringMatch},
};

pub(super) fn route_match(matching: &HttpMatch) -> RouteMatch {
    let path = match &matching.uri {
        Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.clone()),
        Some(StringMatch::Prefix(prefix)) => PathSpecifier::Prefix(prefix.clone()),
        Some(StringMatch::Regex(pattern)) => PathSpecifier::SafeRegex(regex(pattern)),
        Some(StringMatch::Present) | None => PathSpecifier::Prefix("/".to_owned()),
    };
    RouteMatch {
        path_specifier: Some(path),
        case_sensitive: on(!matching.ignore_uri_case),
        headers: headers(matching),
        query_parameters: matching
            .query_params
            .iter()
            .map(|(name, value)| query(name, value))
            .collect(),
        ..RouteMatch::default()
    }
}

fn headers(matching: &HttpMatch) -> Vec<HeaderMatcher> {
    let pseudo = [
        (":method", &matching.method),
        (":authority", &matching.authority),
        (":scheme", &matching.scheme),
    ];
    let with = matching
        .headers
        .iter()
        .map(|(name, value)| header(name, value));
    let without = matching.without_headers.iter().map(|(name, value)| {
        let matcher = header(name, value);
        HeaderMatcher {
            invert_match: true,
            // A missing header is one that does not have the value.
            treat_missing_header_as_empty: !is_presence(value),
            ..matcher
        }
    });
    let pseudo = pseudo
        .into_iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| header(name, value)));
    with.chain(without).chain(pseudo).collect()
}

fn header(name: &str, value: &StringMatch) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_ascii_lowercase(),
        header_match_specifier: Some(match string(value) {
            Some(matcher) => HeaderMatchSpecifier::StringMatch(matcher),
            None => HeaderMatchSpecifier::PresentMatch(true),
        }),
        ..HeaderMatcher::default()
    }
}

fn query(name: &str, value: &StringMatch) -> QueryParameterMatcher {
    QueryParameterMatcher {
        name: name.to_owned(),
        query_parameter_match_specifier: Some(match string(value) {
            Some(matcher) => QueryParameterMatchSpecifier::StringMatch(matcher),
            None => QueryParameterMatchSpecifier::PresentMatch(true),
        }),
    }
}

fn is_presence(value: &StringMatch) -> bool {
    match value {
        StringMatch::Present => true,
        StringMatch::Regex(pattern) => pattern == "*",
        StringMatch::Exact(_) | StringMatch::Prefix(_) => false,
    }
}

/// `None`: any value.
fn string(value: &StringMatch) -> Option<StringMatcher> {
    let pattern = match value {
        _ if is_presence(value) => return None,
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        StringMatch::Regex(pattern) => MatchPattern::SafeRegex(regex(pattern)),
        StringMatch::Present => return None,
    };
    Some(StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    })
}

pub(super) fn regex(pattern: &str) -> RegexMatcher {
    RegexMatcher {
        regex: pattern.to_owned(),
        ..RegexMatcher::default()
    }
}
