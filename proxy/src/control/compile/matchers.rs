//! String, header and query matchers, and regular expressions.

use ithildin_proto::pb::envoy::{
    config::route::v3::{
        HeaderMatcher, QueryParameterMatcher, header_matcher::HeaderMatchSpecifier,
        query_parameter_matcher::QueryParameterMatchSpecifier,
    },
    r#type::matcher::v3::{
        RegexMatchAndSubstitute, RegexMatcher, StringMatcher, string_matcher::MatchPattern,
    },
};
use regex::bytes::{Regex, RegexBuilder};

use crate::config::matchers::{
    HeaderMatch, HeaderSource, QueryMatch, StringMatch, StringPattern, ValueMatch,
};
use crate::control::report::At;

/// Most memory of one compiled expression, in bytes: a control plane's mistake must not take the
/// process down. RE2, which Envoy uses, limits its programs in the same order of size.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

/// The longest expression, in bytes: what is longer does not fit into [`REGEX_SIZE_LIMIT`], and only takes long to
/// be found so.
const MAX_PATTERN: usize = 64 << 10;

/// An expression that must match the whole text, as Envoy's `safe_regex` must. It works on bytes:
/// header values need not be UTF-8.
pub(super) fn full_regex(matcher: &RegexMatcher, at: &At<'_>) -> Option<Regex> {
    // RE2 parses the expression alone, so that one that closes the group of ours is an error.
    build(&matcher.regex, at)?;
    build(&format!("^(?:{})$", matcher.regex), at)
}

/// An expression and what replaces each of its matches, in the syntax of the `regex` crate.
pub(super) fn substitution(
    rewrite: &RegexMatchAndSubstitute,
    at: &At<'_>,
) -> Option<(Regex, Box<str>)> {
    let RegexMatchAndSubstitute {
        pattern,
        substitution,
    } = rewrite;
    let Some(pattern) = pattern else {
        at.field("pattern").error("is required");
        return None;
    };
    let regex = build(&pattern.regex, &at.field("pattern"))?;
    let at = at.field("substitution");
    let text = at.check(replacement(substitution, regex.captures_len() - 1))?;
    Some((regex, text))
}

/// What a path template matches: `*` is one segment, `**` any number of them, after which there are
/// only literal ones (Envoy, `UriTemplateMatchConfig`). Named variables are refused.
pub(super) fn path_template(template: &str, at: &At<'_>) -> Option<Regex> {
    // What may stand in a path (RFC 3986, section 3.3), but for stars.
    const LITERAL: &str = r"a-zA-Z0-9._~%!$&'()+,;:@=-";
    let Some(path) = template.strip_prefix('/') else {
        at.error(format_args!("{template:?} must start with a slash"));
        return None;
    };
    let mut pattern = String::new();
    let mut has_rest = false;
    for segment in path.split('/') {
        pattern.push('/');
        match segment {
            "*" if !has_rest => pattern.push_str(&format!("[{LITERAL}]+")),
            "**" if !has_rest => {
                has_rest = true;
                pattern.push_str(&format!("[/{LITERAL}]*"));
            }
            literal if literal.contains(['*', '{', '}']) => {
                at.error(format_args!(
                    "{template:?}: the segment {literal:?} is not supported; a segment is literal, \
                     \"*\", or \"**\", which no other star follows"
                ));
                return None;
            }
            literal => pattern.push_str(&regex::escape(literal)),
        }
    }
    build(&format!("^{pattern}$"), at)
}

fn build(pattern: &str, at: &At<'_>) -> Option<Regex> {
    let at = at.field("regex");
    if pattern.is_empty() {
        at.error("is empty");
        return None;
    }
    if pattern.len() > MAX_PATTERN {
        let length = pattern.len();
        at.error(format_args!(
            "{pattern:?} is not a supported regular expression: it has {length} bytes, and {MAX_PATTERN} are the most"
        ));
        return None;
    }
    let regex = RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(REGEX_SIZE_LIMIT)
        .build();
    match regex {
        Ok(regex) => Some(regex),
        Err(error) => {
            // The first lines of a syntax error draw the pattern; the last one says what is wrong.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default();
            at.error(format_args!(
                "{pattern:?} is not a supported regular expression: {}",
                reason.trim_start_matches("error: ")
            ));
            None
        }
    }
}

/// RE2's `\1` becomes `${1}`, and a literal `$` becomes `$$`.
fn replacement(text: &str, groups: usize) -> Result<Box<str>, String> {
    let mut result = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => result.push_str("$$"),
            '\\' => match chars.next() {
                Some('\\') => result.push('\\'),
                Some(digit @ '0'..='9') => {
                    let group = digit as usize - '0' as usize;
                    if group > groups {
                        return Err(format!("\\{group} names a group that the pattern lacks"));
                    }
                    result.push_str(&format!("${{{group}}}"));
                }
                _ => return Err("a backslash must be followed by a digit or a backslash".into()),
            },
            c => result.push(c),
        }
    }
    Ok(result.into())
}

pub(in crate::control) fn string(matcher: &StringMatcher, at: &At<'_>) -> Option<StringMatch> {
    let StringMatcher {
        ignore_case,
        match_pattern,
    } = matcher;
    let pattern = match match_pattern {
        Some(MatchPattern::Exact(text)) => StringPattern::Exact(text.as_str().into()),
        Some(MatchPattern::Prefix(text)) => StringPattern::Prefix(at.text("prefix", text)?.into()),
        Some(MatchPattern::Suffix(text)) => StringPattern::Suffix(at.text("suffix", text)?.into()),
        Some(MatchPattern::Contains(text)) => {
            StringPattern::Contains(at.text("contains", text)?.into())
        }
        Some(MatchPattern::SafeRegex(regex)) => {
            StringPattern::Regex(full_regex(regex, &at.field("safe_regex"))?)
        }
        Some(MatchPattern::Custom(custom)) => {
            at.field("custom").error(format_args!(
                "string matcher {:?} is not supported",
                custom.name
            ));
            return None;
        }
        None => {
            at.error("one of exact, prefix, suffix, contains and safe_regex is required");
            return None;
        }
    };
    Some(StringMatch::new(pattern, *ignore_case))
}

pub(super) fn header(matcher: &HeaderMatcher, at: &At<'_>) -> Option<HeaderMatch> {
    let HeaderMatcher {
        name,
        invert_match,
        treat_missing_header_as_empty,
        header_match_specifier,
    } = matcher;
    if name.is_empty() {
        at.field("name").error("is empty");
        return None;
    }
    let value = match header_match_specifier {
        None => ValueMatch::Present(true),
        Some(specifier) => header_value(specifier, at)?,
    };
    Some(HeaderMatch {
        source: HeaderSource::named(name),
        value,
        invert: *invert_match,
        missing_is_empty: *treat_missing_header_as_empty,
    })
}

fn header_value(specifier: &HeaderMatchSpecifier, at: &At<'_>) -> Option<ValueMatch> {
    let pattern = match specifier {
        HeaderMatchSpecifier::PresentMatch(present) => return Some(ValueMatch::Present(*present)),
        HeaderMatchSpecifier::RangeMatch(range) => {
            return Some(ValueMatch::Range(range.start, range.end));
        }
        HeaderMatchSpecifier::StringMatch(matcher) => {
            return string(matcher, &at.field("string_match")).map(ValueMatch::String);
        }
        HeaderMatchSpecifier::ExactMatch(text) => StringPattern::Exact(text.as_str().into()),
        HeaderMatchSpecifier::PrefixMatch(text) => {
            StringPattern::Prefix(at.text("prefix_match", text)?.into())
        }
        HeaderMatchSpecifier::SuffixMatch(text) => {
            StringPattern::Suffix(at.text("suffix_match", text)?.into())
        }
        HeaderMatchSpecifier::ContainsMatch(text) => {
            StringPattern::Contains(at.text("contains_match", text)?.into())
        }
        HeaderMatchSpecifier::SafeRegexMatch(regex) => {
            StringPattern::Regex(full_regex(regex, &at.field("safe_regex_match"))?)
        }
    };
    Some(ValueMatch::String(StringMatch::new(pattern, false)))
}

pub(super) fn query(matcher: &QueryParameterMatcher, at: &At<'_>) -> Option<QueryMatch> {
    let QueryParameterMatcher {
        name,
        query_parameter_match_specifier,
    } = matcher;
    let value = match query_parameter_match_specifier {
        None => ValueMatch::Present(true),
        Some(QueryParameterMatchSpecifier::PresentMatch(present)) => ValueMatch::Present(*present),
        Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => {
            ValueMatch::String(string(matcher, &at.field("string_match"))?)
        }
    };
    Some(QueryMatch {
        name: at.text("name", name)?.into(),
        value,
    })
}
