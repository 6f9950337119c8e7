//! From what people write to protobuf's JSON: one name for each field, one form for each value.

use anyhow::{Context, bail};
use serde_json::{Map, Number, Value};

use super::schema::{Field, Kind};
use crate::proxy::duration;

/// The object with the fields that are known, in their normal form; the paths of the others are added to
/// `unknown`. Values that are the default are kept: they may replace something.
pub(super) fn object(
    fields: &'static [Field],
    value: Value,
    path: &str,
    unknown: &mut Vec<String>,
) -> anyhow::Result<Map<String, Value>> {
    let Value::Object(given) = value else {
        bail!("must be a mapping of keys to values");
    };
    let mut normal = Map::new();
    for (key, value) in given {
        let inner = match path {
            "" => key.clone(),
            path => format!("{path}.{key}"),
        };
        let named = |field: &&Field| field.name == key || field.json_name() == key;
        let Some(field) = fields.iter().find(named) else {
            unknown.push(inner);
            continue;
        };
        if value.is_null() {
            continue;
        }
        let value = self::value(&field.kind, value, &inner, unknown).context(key)?;
        put(fields, field, value, &mut normal);
    }
    Ok(normal)
}

/// Sets a field; the others of its group go.
pub(super) fn put(fields: &[Field], field: &Field, value: Value, object: &mut Map<String, Value>) {
    if let Some(group) = field.oneof {
        let rivals = fields.iter().filter(|other| other.oneof == Some(group));
        for rival in rivals {
            object.remove(&rival.json_name());
        }
    }
    object.insert(field.json_name(), value);
}

/// Without the values that protobuf does not write because they are the default.
pub(super) fn without_defaults(
    fields: &[Field],
    object: &Map<String, Value>,
) -> Map<String, Value> {
    let mut kept = Map::new();
    for field in fields {
        let Some(value) = object.get(&field.json_name()) else {
            continue;
        };
        if field.explicit || !is_default(&field.kind, value) {
            kept.insert(field.json_name(), stripped(&field.kind, value));
        }
    }
    kept
}

fn stripped(kind: &Kind, value: &Value) -> Value {
    match (kind, value) {
        (Kind::Message(fields), Value::Object(object)) => {
            Value::Object(without_defaults(fields, object))
        }
        (Kind::List(kind), Value::Array(items)) => {
            items.iter().map(|item| stripped(kind, item)).collect()
        }
        (Kind::Map(kind), Value::Object(entries)) => {
            let entries = entries.iter();
            Value::Object(
                entries
                    .map(|(key, value)| (key.clone(), stripped(kind, value)))
                    .collect(),
            )
        }
        _ => value.clone(),
    }
}

fn is_default(kind: &Kind, value: &Value) -> bool {
    match (kind, value) {
        (Kind::Enum(names), Value::String(name)) => names.first() == Some(&name.as_str()),
        (Kind::Text, Value::String(text)) => text.is_empty(),
        (_, Value::Bool(value)) => !value,
        (_, Value::Number(number)) => number.as_f64() == Some(0.0),
        (_, Value::Array(items)) => items.is_empty(),
        (Kind::Map(_), Value::Object(entries)) => entries.is_empty(),
        _ => false,
    }
}

fn value(
    kind: &Kind,
    value: Value,
    path: &str,
    unknown: &mut Vec<String>,
) -> anyhow::Result<Value> {
    Ok(match kind {
        Kind::Text => Value::String(text(&value)?),
        Kind::Bool => match value {
            Value::Bool(_) => value,
            _ => bail!("must be true or false"),
        },
        Kind::Number(least, most) => {
            let number = match &value {
                Value::String(text) => text.parse().ok(),
                value => value.as_i64(),
            };
            let number = number.filter(|number| (*least..=*most).contains(number));
            let number =
                number.with_context(|| format!("must be a whole number from {least} to {most}"))?;
            Value::Number(number.into())
        }
        Kind::Double => {
            let number = match &value {
                Value::String(text) => text.parse().ok(),
                value => value.as_f64(),
            };
            let number = number.and_then(Number::from_f64);
            Value::Number(number.context("must be a number")?)
        }
        Kind::Duration => {
            let text = value.as_str().context("must be a duration such as 5s")?;
            Value::String(duration::to_json(duration::parse(text)?))
        }
        Kind::Enum(names) => Value::String(enumerated(names, &value)?.to_owned()),
        Kind::Message(fields) => Value::Object(object(fields, value, path, unknown)?),
        Kind::List(kind) => {
            let Value::Array(items) = value else {
                bail!("must be a list");
            };
            let items = items.into_iter().enumerate().map(|(index, item)| {
                let path = format!("{path}[{index}]");
                self::value(kind, item, &path, unknown).with_context(|| format!("[{index}]"))
            });
            items.collect::<anyhow::Result<_>>()?
        }
        Kind::Map(kind) => {
            let Value::Object(entries) = value else {
                bail!("must be a mapping");
            };
            let entries = entries.into_iter().map(|(key, entry)| {
                let path = format!("{path}.{key}");
                let entry = self::value(kind, entry, &path, unknown).context(key.clone())?;
                Ok((key, entry))
            });
            Value::Object(entries.collect::<anyhow::Result<_>>()?)
        }
    })
}

/// Numbers and truth values too: YAML writes many a text without quotes.
fn text(value: &Value) -> anyhow::Result<String> {
    Ok(match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        _ => bail!("must be text"),
    })
}

fn enumerated(names: &[&'static str], value: &Value) -> anyhow::Result<&'static str> {
    let found = match value {
        Value::String(text) => names.iter().find(|name| *name == text),
        Value::Number(number) => number
            .as_u64()
            .and_then(|number| names.get(usize::try_from(number).ok()?)),
        _ => None,
    };
    let found = found.copied();
    found.with_context(|| format!("{value} is none of {}", names.join(", ")))
}
