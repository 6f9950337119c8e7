//! YAML as Envoy reads it: a plain scalar is a boolean, else a whole number, else text.
//!
//! So `1.10` and `18446744073709551615` keep their digits, and Protobuf's JSON rules, which take
//! numbers as text, decide later.

use saphyr::{ScalarStyle, Yaml, YamlLoader};
use saphyr_parser::{Parser, StrInput};
use serde_json::{Map, Value};

/// Values that aliases may multiply a document to.
const MAX_VALUES: usize = 1_000_000;
/// Nesting that nobody writes by hand; a parser's stack is finite.
const MAX_DEPTH: usize = 100;

/// Why a text is not one YAML document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// With line and column.
    #[error("{0}")]
    Syntax(String),
    #[error("has {0} documents; one is expected")]
    Documents(usize),
    #[error("has a mapping key that is not plain text")]
    Key,
    #[error("has the key {0:?} twice in one mapping")]
    DuplicateKey(String),
    #[error("is nested too deeply, or aliases multiply it")]
    Size,
    #[error("has a value that does not have the form that its tag says")]
    Tag,
}

/// One document; an empty text is `null`.
///
/// # Errors
/// Syntax, duplicate keys, several documents, and alias bombs.
pub fn load(text: &str) -> Result<Value, YamlError> {
    let mut loader = YamlLoader::<Yaml<'_>>::default();
    loader.early_parse(false);
    let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str(text);
    let syntax = |error: saphyr_parser::ScanError| YamlError::Syntax(error.to_string());
    parser.load(&mut loader, true).map_err(syntax)?;
    if let Some(error) = loader.error() {
        return Err(syntax(error.clone()));
    }
    let documents = loader.into_documents();
    match documents.as_slice() {
        [] => Ok(Value::Null),
        [document] => {
            let mut budget = MAX_VALUES;
            convert(document, MAX_DEPTH, &mut budget)
        }
        several => Err(YamlError::Documents(several.len())),
    }
}

fn convert(yaml: &Yaml<'_>, depth: usize, budget: &mut usize) -> Result<Value, YamlError> {
    *budget = budget.checked_sub(1).ok_or(YamlError::Size)?;
    let depth = depth.checked_sub(1).ok_or(YamlError::Size)?;
    Ok(match yaml {
        Yaml::Representation(text, ScalarStyle::Plain, None) => plain(text),
        Yaml::Representation(text, ..) => Value::String(text.to_string()),
        Yaml::Sequence(items) => {
            let items = items.iter().map(|item| convert(item, depth, budget));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Yaml::Mapping(entries) => {
            let mut map = Map::new();
            let mut merged = Vec::new();
            for (key, value) in entries {
                let key = text(convert(key, depth, budget)?)?;
                let value = convert(value, depth, budget)?;
                if key == "<<" {
                    merged.push(value);
                } else if map.contains_key(&key) {
                    return Err(YamlError::DuplicateKey(key));
                } else {
                    map.insert(key, value);
                }
            }
            merged.into_iter().for_each(|value| merge(&mut map, value));
            Value::Object(map)
        }
        Yaml::Tagged(_, inner) => convert(inner, depth, budget)?,
        Yaml::Value(_) | Yaml::Alias(_) | Yaml::BadValue => return Err(YamlError::Tag),
    })
}

fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            Value::Bool(false)
        }
        text => match text.parse::<i64>() {
            Ok(number) => Value::from(number),
            Err(_) => Value::String(text.to_owned()),
        },
    }
}

fn text(key: Value) -> Result<String, YamlError> {
    match key {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        _ => Err(YamlError::Key),
    }
}

/// Merge keys give defaults: what the mapping says itself stays.
fn merge(map: &mut Map<String, Value>, value: Value) {
    match value {
        Value::Object(defaults) => {
            for (key, value) in defaults {
                map.entry(key).or_insert(value);
            }
        }
        Value::Array(list) => list.into_iter().for_each(|value| merge(map, value)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_are_envoys() {
        let text =
            "a: yes\nb: 0755\nc: 1.10\nd: 18446744073709551615\ne: '80'\nf: ~\ng: -3\nh: 5s\n";
        let expected = json!({
            "a": true, "b": 755, "c": "1.10", "d": "18446744073709551615",
            "e": "80", "f": null, "g": -3, "h": "5s",
        });
        assert_eq!(load(text).unwrap(), expected);
    }

    #[test]
    fn tabs_after_values_and_merge_keys() {
        let text = "a: &x\t\n  p: 1\nb:\n  <<: *x\n  q: 2\n";
        assert_eq!(
            load(text).unwrap(),
            json!({"a": {"p": 1}, "b": {"q": 2, "p": 1}})
        );
        assert_eq!(load("").unwrap(), Value::Null);
    }

    #[test]
    fn broken_documents_say_where() {
        assert!(
            matches!(load("a: {b: [1,2}\n"), Err(YamlError::Syntax(text)) if text.contains("line 1"))
        );
        assert!(load("a: 1\na: 2\n").is_err());
        assert_eq!(load("a: 1\n---\nb: 2\n"), Err(YamlError::Documents(2)));
        let bomb = "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
                    c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n\
                    e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
                    g: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
        assert!(
            matches!(load(bomb), Err(YamlError::Syntax(text)) if text.contains("alias expansion"))
        );
    }
}
