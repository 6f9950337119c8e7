//! Matchers of strings, headers and query parameters (`envoy.type.matcher.v3`,
//! `envoy.config.route.v3`).

use regex::bytes::Regex;

#[derive(Debug)]
pub struct HeaderMatch {
    pub source: HeaderSource,
    pub value: ValueMatch,
    pub invert: bool,
    pub missing_is_empty: bool,
}

/// Where the values of a header are found in a request.
#[derive(Debug)]
pub enum HeaderSource {
    Method,
    Authority,
    Path,
    Scheme,
    /// A header of which Envoy keeps one value, the values of a request joined by commas.
    Joined(Box<str>),
    Each(Box<str>),
}

/// The headers of which Envoy keeps one value; sorted.
const JOINED: [&str; 36] = [
    "accept",
    "accept-encoding",
    "access-control-request-headers",
    "access-control-request-method",
    "authentication",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-type",
    "expect",
    "grpc-accept-encoding",
    "grpc-timeout",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "origin",
    "pragma",
    "referer",
    "te",
    "user-agent",
    "via",
    "x-client-trace-id",
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-original-host",
    "x-envoy-original-path",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
];

impl HeaderSource {
    /// The header `name`, in any case; `:method`, `:authority`, `:path` and `:scheme` are the pseudo
    /// headers.
    pub fn named(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            ":method" => Self::Method,
            ":authority" | "host" => Self::Authority,
            ":path" => Self::Path,
            ":scheme" => Self::Scheme,
            joined if JOINED.binary_search(&joined).is_ok() => Self::Joined(name.into()),
            _ => Self::Each(name.into()),
        }
    }
}

#[derive(Debug)]
pub struct QueryMatch {
    pub name: Box<str>,
    pub value: ValueMatch,
}

#[derive(Debug)]
pub enum ValueMatch {
    Present(bool),
    String(StringMatch),
    /// `start <= n < end`.
    Range(i64, i64),
}

/// `envoy.type.matcher.v3.StringMatcher`.
#[derive(Debug)]
pub struct StringMatch {
    pattern: StringPattern,
    ignore_case: bool,
}

impl StringMatch {
    /// `ignore_case` does not concern expressions, as in Envoy.
    pub fn new(pattern: StringPattern, ignore_case: bool) -> Self {
        let fold = |text: Box<str>| match ignore_case {
            true => text.to_ascii_lowercase().into(),
            false => text,
        };
        let pattern = match pattern {
            // The others are compared without regard to case; this one is searched for.
            StringPattern::Contains(text) => StringPattern::Contains(fold(text)),
            other => other,
        };
        Self {
            pattern,
            ignore_case,
        }
    }

    pub fn admits(&self, value: &[u8]) -> bool {
        let equal = |part: Option<&[u8]>, pattern: &str| {
            part.is_some_and(|part| match self.ignore_case {
                true => part.eq_ignore_ascii_case(pattern.as_bytes()),
                false => part == pattern.as_bytes(),
            })
        };
        match &self.pattern {
            StringPattern::Exact(pattern) => equal(Some(value), pattern),
            StringPattern::Prefix(pattern) => equal(value.get(..pattern.len()), pattern),
            StringPattern::Suffix(pattern) => {
                let start = value.len().checked_sub(pattern.len());
                equal(start.map(|start| &value[start..]), pattern)
            }
            StringPattern::Contains(pattern) if self.ignore_case => {
                let value = value.to_ascii_lowercase();
                memchr::memmem::find(&value, pattern.as_bytes()).is_some()
            }
            StringPattern::Contains(pattern) => {
                memchr::memmem::find(value, pattern.as_bytes()).is_some()
            }
            StringPattern::Regex(regex) => regex.is_match(value),
        }
    }
}

#[derive(Debug)]
pub enum StringPattern {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Contains(Box<str>),
    /// Anchored at both ends.
    Regex(Regex),
}
