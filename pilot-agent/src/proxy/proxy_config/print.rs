//! The effective configuration as YAML, for the log.

use serde_json::{Map, Value};

/// Fields whose values are nobody's business.
const SECRETS: [&str; 1] = ["accessToken"];

/// Block style; keys in the order of the API.
pub(super) fn yaml(object: &Map<String, Value>) -> String {
    let mut text = String::new();
    mapping(object, 0, &mut text);
    text
}

fn mapping(object: &Map<String, Value>, indent: usize, text: &mut String) {
    for (key, value) in object {
        text.extend(std::iter::repeat_n(' ', indent));
        text.push_str(&scalar(key));
        text.push(':');
        match SECRETS.contains(&key.as_str()) {
            true => text.push_str(" '[redacted]'\n"),
            false => inner(value, indent, text),
        }
    }
}

fn inner(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            text.push('\n');
            mapping(object, indent + 2, text);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            for item in items {
                text.extend(std::iter::repeat_n(' ', indent));
                text.push('-');
                inner(item, indent, text);
            }
        }
        Value::String(string) => {
            text.push(' ');
            text.push_str(&scalar(string));
            text.push('\n');
        }
        other => {
            text.push(' ');
            text.push_str(&other.to_string());
            text.push('\n');
        }
    }
}

/// Plain where nothing else can be meant, else quoted as in JSON, which YAML reads.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let starts = |c: char| c.is_ascii_alphabetic() || c == '/' || c == '.';
    let word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let meant = text.starts_with(starts) && text.chars().all(plain);
    match meant && !word.contains(&text.to_ascii_lowercase().as_str()) {
        true => text.to_owned(),
        false => Value::from(text).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use ithildin_proto::yaml::documents;
    use serde_json::json;

    use super::*;

    #[test]
    fn it_reads_back() {
        let value = json!({
            "configPath": "./etc/istio/proxy",
            "discoveryAddress": "istiod:15012",
            "concurrency": 1,
            "proxyMetadata": {"A": "true", "B.c/d": "0123", "": "x: y # z"},
            "tags": ["a", "b c", "no"],
            "tracing": {"zipkin": {"address": "z:9411"}, "sampling": 1.5},
            "empty": {},
            "none": [],
            "off": false,
        });
        let text = yaml(value.as_object().unwrap());
        assert_eq!(documents(&text).unwrap(), [value], "{text}");
        assert!(
            text.starts_with("configPath: ./etc/istio/proxy\n"),
            "{text}"
        );
    }

    #[test]
    fn secrets_stay_secret() {
        let value = json!({"tracing": {"lightstep": {"address": "l:1", "accessToken": "hush"}}});
        let text = yaml(value.as_object().unwrap());
        assert!(
            !text.contains("hush") && text.contains("[redacted]"),
            "{text}"
        );
    }
}
