//! The form of a log line.
//!
//! Fields hold what peers say, so that each is bounded, and none ends the line or begins another.

use std::fmt::{self, Write};

use serde_json::{Map, Value};
use tracing::{Event, Level, Subscriber, field::Field};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// The longest text of a field, in bytes: what a control plane refuses or is refused may be megabytes, again
/// and again.
const MAX_FIELD: usize = 8 << 10;

/// The longest message, in bytes: our own words, and the configuration at the start.
const MAX_MESSAGE: usize = 64 << 10;

/// Istio's form, as text or JSON.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines {
    pub(super) json: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let time = format!("{:.6}", jiff::Timestamp::now());
        let line = match self.json {
            true => fields.json(&time, event),
            false => fields.text(&time, event),
        };
        writeln!(writer, "{line}")
    }
}

/// Our crates have a common prefix, which says nothing.
fn scope<'a>(event: &Event<'a>) -> &'a str {
    let target = event.metadata().target();
    target.strip_prefix("ithildin_").unwrap_or(target)
}

fn level(event: &Event<'_>) -> &'static str {
    match *event.metadata().level() {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn json(self, time: &str, event: &Event<'_>) -> String {
        let mut object = Map::new();
        object.insert("level".into(), level(event).into());
        object.insert("time".into(), time.into());
        object.insert("scope".into(), scope(event).into());
        object.insert("msg".into(), self.message.into());
        for (name, value) in self.others {
            object.entry(name).or_insert(value);
        }
        Value::Object(object).to_string()
    }

    fn text(self, time: &str, event: &Event<'_>) -> String {
        let mut line = format!(
            "{time}\t{}\t{}\t{}",
            level(event),
            scope(event),
            self.message
        );
        for (index, (name, value)) in self.others.iter().enumerate() {
            line.push(if index == 0 { '\t' } else { ' ' });
            // Writing to text does not fail.
            let _ = match value {
                Value::String(text) => write!(line, "{name}={}", Printable(text)),
                value => write!(line, "{name}={value}"),
            };
        }
        line
    }

    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        let value = match value.into() {
            Value::String(text) => Value::String(bounded(text, MAX_FIELD)),
            value => value,
        };
        self.others.push((field.name(), value));
    }
}

/// The first part of a longer text, which says how long it was.
fn bounded(mut text: String, most: usize) -> String {
    let length = text.len();
    if length > most {
        text.truncate(text.floor_char_boundary(most));
        // Writing to text does not fail.
        let _ = write!(text, "... ({length} bytes)");
    }
    text
}

/// A text without control characters.
struct Printable<'t>(&'t str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(char::is_control) {
            let (plain, control) = rest.split_at(at);
            f.write_str(plain)?;
            let mut chars = control.chars();
            chars
                .next()
                .map_or(Ok(()), |it| write!(f, "{}", it.escape_default()))?;
            rest = chars.as_str();
        }
        f.write_str(rest)
    }
}

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = bounded(format!("{value:?}"), MAX_MESSAGE),
            _ => self.add(field, format!("{value:?}")),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = bounded(value.to_owned(), MAX_MESSAGE),
            _ => self.add(field, value),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing_subscriber::{fmt, layer::SubscriberExt};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(json: bool) -> String {
        written(json, || {
            tracing::warn!(peer = "a b", count = 3, error = %"no", "it \"failed\"");
        })
    }

    fn written(json: bool, write: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let layer = fmt::layer()
            .event_format(Lines { json })
            .with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, write);
        let bytes = sink.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_is_istios() {
        let line = logged(false);
        let parts: Vec<_> = line.trim_end().split('\t').collect();
        assert!(parts[0].ends_with('Z') && parts[0].len() == 27, "{line}");
        assert_eq!(parts[1..3], ["warn", "pilot_agent::log::lines::tests"]);
        assert_eq!(parts[3..], ["it \"failed\"", "peer=a b count=3 error=no"]);
    }

    #[test]
    fn json_is_istios() {
        let object: Value = serde_json::from_str(&logged(true)).unwrap();
        assert_eq!(object["level"], "warn");
        assert_eq!(object["msg"], "it \"failed\"");
        assert_eq!(
            (object["peer"].as_str(), object["count"].as_u64()),
            (Some("a b"), Some(3))
        );
    }

    #[test]
    fn what_peers_say_neither_ends_a_line_nor_fills_the_disk() {
        let forged = "no\n2026-01-01T00:00:00Z\tinfo\tsds\tall is well\u{1b}[2J\r";
        let long = "ä".repeat(1 << 20);
        for json in [false, true] {
            let text = written(json, || {
                tracing::warn!(reason = forged, long, error = %forged, debug = ?forged, "refused");
            });
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(
                text.ends_with('\n') && text.len() < 2 * MAX_FIELD,
                "{}",
                text.len()
            );
            assert!(!text.trim_end().contains(['\u{1b}', '\r']), "{text}");
            assert!(text.contains("... (2097152 bytes)"), "{text}");
        }
        let text = written(false, || tracing::warn!(reason = forged, "refused"));
        let expected = "reason=no\\n2026-01-01T00:00:00Z\\tinfo\\tsds\\tall is well\\u{1b}[2J\\r\n";
        assert!(text.ends_with(expected), "{text}");
    }
}
