//! Values that many resources share.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// A field of Istio's that we cannot honour: being present is the error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unsupported;

impl<'de> Deserialize<'de> for Unsupported {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom("not supported"))
    }
}

/// A field without any bearing on a proxy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ignored;

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        de::IgnoredAny::deserialize(deserializer)?;
        Ok(Self)
    }
}

/// A duration as Istio writes it: `3s`, `100ms`, `1h30m`, `0.5s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Interval(pub Duration);

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_interval(&text).map(Self).ok_or_else(|| {
            de::Error::custom(format!(
                "invalid duration {text:?}, expected such as 3s or 100ms"
            ))
        })
    }
}

fn parse_interval(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = number.parse::<f64>().ok()? * unit;
        total = total.checked_add(Duration::try_from_secs_f64(part).ok()?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// `StringMatch`: one of `exact`, `prefix` and `regex`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawStringMatch")]
pub(crate) enum StringMatch {
    Exact(String),
    Prefix(String),
    /// RE2 syntax, on the whole text.
    Regex(String),
    /// Nothing set: any value, as long as there is one.
    Present,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawStringMatch {
    exact: Option<String>,
    prefix: Option<String>,
    regex: Option<String>,
}

impl TryFrom<RawStringMatch> for StringMatch {
    type Error = OneOf;

    fn try_from(raw: RawStringMatch) -> Result<Self, OneOf> {
        match (raw.exact, raw.prefix, raw.regex) {
            (Some(text), None, None) => Ok(Self::Exact(text)),
            (None, Some(text), None) => Ok(Self::Prefix(text)),
            (None, None, Some(text)) => Ok(Self::Regex(text)),
            (None, None, None) => Ok(Self::Present),
            _ => Err(OneOf("exact, prefix and regex")),
        }
    }
}

/// More than one field of a `oneof` is set.
#[derive(Debug)]
pub(crate) struct OneOf(pub &'static str);

impl fmt::Display for OneOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "only one of {} may be set", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("3s", Some(3_000)),
            ("100ms", Some(100)),
            ("1h30m", Some(5_400_000)),
            ("0.5s", Some(500)),
            ("0s", Some(0)),
            ("0", Some(0)),
            ("", None),
            ("3", None),
            ("s", None),
            ("-1s", None),
            ("1d", None),
            ("1.2.3s", None),
            ("99999999999999999999999h", None),
        ] {
            assert_eq!(
                parse_interval(text),
                expected.map(Duration::from_millis),
                "{text:?}"
            );
        }
    }
}
