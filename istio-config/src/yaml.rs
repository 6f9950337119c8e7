//! YAML text to JSON values, by YAML 1.2's core schema.

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Number, Value};

/// All documents of `text`, without empty ones. The error names line and column.
pub fn documents(text: &str) -> Result<Vec<Value>, String> {
    let documents = Yaml::load_from_str(text).map_err(|error| error.to_string())?;
    documents
        .into_iter()
        .map(to_json)
        .filter(|value| !matches!(value, Ok(Value::Null)))
        .collect()
}

fn to_json(yaml: Yaml<'_>) -> Result<Value, String> {
    Ok(match yaml {
        Yaml::Value(scalar) => match scalar {
            Scalar::Null => Value::Null,
            Scalar::Boolean(value) => Value::Bool(value),
            Scalar::Integer(value) => Value::from(value),
            Scalar::FloatingPoint(value) => {
                Value::Number(Number::from_f64(value.into_inner()).ok_or("numbers must be finite")?)
            }
            Scalar::String(value) => Value::String(value.into_owned()),
        },
        Yaml::Sequence(items) => {
            Value::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?)
        }
        Yaml::Mapping(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                map.insert(to_key(to_json(key)?)?, to_json(value)?);
            }
            Value::Object(map)
        }
        Yaml::Tagged(_, inner) => to_json(*inner)?,
        Yaml::Representation(..) | Yaml::Alias(_) | Yaml::BadValue => {
            return Err("a value does not have the form that its tag says".into());
        }
    })
}

fn to_key(key: Value) -> Result<String, String> {
    match key {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err("keys of a mapping must be plain text".into())
        }
    }
}
