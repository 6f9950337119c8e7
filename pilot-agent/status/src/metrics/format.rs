//! Which formats of Prometheus are asked for and answered.
//!
//! Answers of several sources are joined as text, so nothing but text formats may come back: protobuf is
//! never asked for.

use http::HeaderValue;

const TEXT: &str = "text/plain";
const ANY_TEXT: &str = "text/*";
const OPEN_METRICS: &str = "application/openmetrics-text";

/// The format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    OpenMetrics001,
    OpenMetrics100,
}

impl Format {
    /// What an answer's `Content-Type` says; text unless it is OpenMetrics in a version that we know.
    pub(super) fn of(content_type: Option<&HeaderValue>) -> Self {
        let Some(text) = content_type.and_then(|value| value.to_str().ok()) else {
            return Self::Text;
        };
        let media = Media::parse(text);
        if media.kind != OPEN_METRICS {
            return Self::Text;
        }
        match media.parameter("version") {
            Some("1.0.0") => Self::OpenMetrics100,
            Some("0.0.1" | "") | None => Self::OpenMetrics001,
            Some(_) => Self::Text,
        }
    }

    /// The one format of all, or text if they differ.
    pub(super) fn common(formats: impl IntoIterator<Item = Self>) -> Self {
        let mut formats = formats.into_iter();
        let first = formats.next().unwrap_or(Self::Text);
        match formats.all(|format| format == first) {
            true => first,
            false => Self::Text,
        }
    }

    pub(super) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics001 => "application/openmetrics-text; version=0.0.1; charset=utf-8",
            Self::OpenMetrics100 => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        })
    }

    pub(super) fn is_open_metrics(self) -> bool {
        self != Self::Text
    }
}

/// What the workload is asked for when a scraper asks us for `accept`: its text formats, in its order.
pub(super) fn accepted_of_workload(accept: Option<&HeaderValue>) -> HeaderValue {
    accepted(accept, &[ANY_TEXT, TEXT, OPEN_METRICS])
}

/// The same for the data plane, whose text stands before the workload's.
pub(super) fn accepted_of_data_plane(accept: Option<&HeaderValue>) -> HeaderValue {
    accepted(accept, &[ANY_TEXT, TEXT])
}

fn accepted(accept: Option<&HeaderValue>, allowed: &[&str]) -> HeaderValue {
    let fallback = HeaderValue::from_static("text/plain;version=0.0.4");
    let Some(text) = accept.and_then(|value| value.to_str().ok()) else {
        return fallback;
    };
    let mut kept = Vec::new();
    for item in text.split(',') {
        let media = Media::parse(item);
        let media = match media.kind.as_str() {
            "*" | "*/*" => Media::of(TEXT, "0.0.4"),
            "application/*" => Media::of(OPEN_METRICS, "0.0.1"),
            _ => media,
        };
        if allowed.contains(&media.kind.as_str()) && !kept.contains(&media) {
            kept.push(media);
        }
    }
    let count = kept.len();
    let items = kept.iter().enumerate().map(|(index, media)| {
        // Nine steps are enough for any scraper; what is after them is equal.
        let quality = (count - index).min(9);
        format!("{media};q=0.{quality}")
    });
    match HeaderValue::try_from(items.collect::<Vec<_>>().join(",")) {
        Ok(value) if count > 0 => value,
        _ => fallback,
    }
}

/// A media type with its parameters, but for `q`.
#[derive(Debug, PartialEq, Eq)]
struct Media {
    kind: String,
    parameters: Vec<(String, String)>,
}

impl Media {
    fn of(kind: &str, version: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            parameters: vec![("version".into(), version.into())],
        }
    }

    fn parse(text: &str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let parameters = parts.filter_map(|part| {
            let (name, value) = part.split_once('=')?;
            let name = name.trim().to_ascii_lowercase();
            let value = value.trim().trim_matches('"').to_owned();
            (name != "q").then_some((name, value))
        });
        Self {
            kind,
            parameters: parameters.collect(),
        }
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        let mut parameters = self.parameters.iter();
        let (_, value) = parameters.find(|(key, _)| key == name)?;
        Some(value)
    }
}

impl std::fmt::Display for Media {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.kind)?;
        for (name, value) in &self.parameters {
            write!(f, ";{name}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOBUF: &str = "application/vnd.google.protobuf;\
        proto=io.prometheus.client.MetricFamily;encoding=delimited";

    #[test]
    fn what_is_asked_for() {
        let text = "text/plain;version=0.0.4";
        for (accept, workload, data_plane) in [
            ("", text, text),
            ("/", text, text),
            (PROTOBUF, text, text),
            (
                "*/*",
                "text/plain;version=0.0.4;q=0.1",
                "text/plain;version=0.0.4;q=0.1",
            ),
            (
                "application/*",
                "application/openmetrics-text;version=0.0.1;q=0.1",
                text,
            ),
            (
                &format!(
                    "{PROTOBUF};q=0.6,application/openmetrics-text;version=1.0.0;\
                     escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
                ),
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.2,\
                 text/plain;version=0.0.4;q=0.1",
                "text/plain;version=0.0.4;q=0.1",
            ),
        ] {
            let value = HeaderValue::from_str(accept).unwrap();
            assert_eq!(accepted_of_workload(Some(&value)), workload, "{accept}");
            assert_eq!(accepted_of_data_plane(Some(&value)), data_plane, "{accept}");
        }
        assert_eq!(accepted_of_workload(None), text);
        let long = HeaderValue::from_str(&"text/plain;version=0.0.4,".repeat(500)).unwrap();
        assert!(accepted_of_workload(Some(&long)).len() < 40);
        let garbage = HeaderValue::from_bytes(b"\xff\xfe").unwrap();
        assert_eq!(accepted_of_workload(Some(&garbage)), text);
    }

    #[test]
    fn what_is_answered() {
        use Format::*;
        for (content_type, format) in [
            ("application/openmetrics-text", OpenMetrics001),
            (
                "application/openmetrics-text; version=0.0.1; charset=utf-8",
                OpenMetrics001,
            ),
            (
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                OpenMetrics100,
            ),
            (
                "Application/OpenMetrics-Text; Version=\"1.0.0\"",
                OpenMetrics100,
            ),
            ("application/openmetrics-text; version=2.0.0", Text),
            ("text/plain; version=0.0.4; charset=utf-8", Text),
            ("text/html", Text),
            ("", Text),
        ] {
            let value = HeaderValue::from_static(content_type);
            assert_eq!(Format::of(Some(&value)), format, "{content_type}");
        }
        assert_eq!(Format::of(None), Text);
        assert_eq!(Format::common([]), Text);
        assert_eq!(
            Format::common([OpenMetrics100, OpenMetrics100]),
            OpenMetrics100
        );
        assert_eq!(Format::common([OpenMetrics100, Text]), Text);
    }
}
