//! Durations as Istio writes them: `5s`, `1m30s`, `250ms`, `1.5h`.

use std::time::Duration;

use anyhow::{Context, bail};

/// Parses a sequence of numbers with units (`h`, `m`, `s`, `ms`, `us`, `ns`).
pub(crate) fn parse(text: &str) -> anyhow::Result<Duration> {
    let wrong = || format!("{text:?} is not a duration such as 5s or 1m30s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .with_context(wrong)?;
        let number: f64 = rest[..end].parse().with_context(wrong)?;
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => bail!(wrong()),
        };
        seconds += number * unit;
        rest = &rest[end..];
    }
    if text.is_empty() {
        bail!(wrong());
    }
    Duration::try_from_secs_f64(seconds).with_context(wrong)
}

/// As protobuf's JSON writes it: seconds, and a fraction of 3, 6 or 9 digits if there is one.
pub(crate) fn to_json(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    match nanos {
        0 => format!("{seconds}s"),
        nanos if nanos % 1_000_000 == 0 => format!("{seconds}.{:03}s", nanos / 1_000_000),
        nanos if nanos % 1_000 == 0 => format!("{seconds}.{:06}s", nanos / 1_000),
        nanos => format!("{seconds}.{nanos:09}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, millis) in [
            ("5s", 5000),
            ("1m30s", 90_000),
            ("250ms", 250),
            ("1.5h", 5_400_000),
            ("0s", 0),
            ("0", 0),
        ] {
            assert_eq!(
                parse(text).unwrap(),
                Duration::from_millis(millis),
                "{text}"
            );
        }
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "5 s",
            "1d",
            "5s!",
            ".s",
            "1e400s",
            "9999999999999999999999s",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn protobuf_writes_seconds() {
        for (text, expected) in [
            ("1m30s", "90s"),
            ("0s", "0s"),
            ("250ms", "0.250s"),
            ("1us", "0.000001s"),
            ("1s1ns", "1.000000001s"),
        ] {
            assert_eq!(to_json(parse(text).unwrap()), expected, "{text}");
        }
    }
}
