//! JSON values to Envoy's messages, with Envoy's tolerance and with paths in the errors.
//!
//! A first walk over the value and the message's descriptor finds everything that is wrong, and
//! brings what Envoy tolerates into Protobuf's own JSON form; the second step cannot surprise.

use std::fmt;

use prost::{Message, Name};
use prost_reflect::{
    Cardinality, DeserializeOptions, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind,
    MessageDescriptor,
};
use serde_json::Value;

use crate::{pool::Pool, yaml};

/// Everything that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseErrors(pub Vec<String>);

impl fmt::Display for ParseErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ParseErrors {}

/// Reads a message from YAML.
///
/// # Errors
/// All of them at once, each with its path.
pub fn from_yaml<M: Message + Name + Default>(text: &str) -> Result<M, ParseErrors> {
    let value = yaml::load(text).map_err(|error| ParseErrors(vec![error.to_string()]))?;
    from_value(value)
}

/// Reads a message from JSON text.
///
/// # Errors
/// See [`from_yaml`].
pub fn from_json<M: Message + Name + Default>(text: &str) -> Result<M, ParseErrors> {
    let value = serde_json::from_str(text).map_err(|error| ParseErrors(vec![error.to_string()]))?;
    from_value(value)
}

/// Reads a message from a JSON value.
///
/// # Errors
/// See [`from_yaml`].
pub fn from_value<M: Message + Name + Default>(mut value: Value) -> Result<M, ParseErrors> {
    let pool = Pool::load();
    let name = M::full_name();
    let one = |error: String| ParseErrors(vec![error]);
    let descriptor = pool
        .message(&name)
        .ok_or_else(|| one(format!("{name} is not one of Envoy's messages")))?;
    if value.is_null() {
        return Ok(M::default());
    }
    let mut walk = Walk {
        pool: &pool,
        errors: Vec::new(),
    };
    walk.message(&descriptor, &mut value, "");
    if !walk.errors.is_empty() {
        return Err(ParseErrors(walk.errors));
    }
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(descriptor, value, &options)
        .map_err(|error| one(error.to_string()))?
        .transcode_to()
        .map_err(|error| one(error.to_string()))
}

struct Walk<'p> {
    pool: &'p Pool,
    errors: Vec<String>,
}

impl Walk<'_> {
    fn error(&mut self, path: &str, what: impl fmt::Display) {
        let place = if path.is_empty() {
            "the document"
        } else {
            path
        };
        self.errors.push(format!("{place}: {what}"));
    }

    fn message(&mut self, descriptor: &MessageDescriptor, value: &mut Value, path: &str) {
        match descriptor.full_name() {
            "google.protobuf.Any" => return self.any(value, path),
            "google.protobuf.Struct" | "google.protobuf.Value" | "google.protobuf.ListValue" => {
                return;
            }
            "google.protobuf.Duration" => return self.duration(value, path),
            "google.protobuf.Timestamp" | "google.protobuf.FieldMask" => {
                return self.text(value, path);
            }
            name if name.starts_with("google.protobuf.") && name.ends_with("Value") => {
                if let Some(field) = descriptor.get_field(1) {
                    self.scalar(&field.kind(), value, path);
                }
                return;
            }
            _ => {}
        }
        let Value::Object(fields) = value else {
            return self.error(
                path,
                format_args!("expected a mapping, found {}", kind_of(value)),
            );
        };
        // Null is Protobuf's way to leave a field out; an Any without a type, people's.
        fields.retain(|_, value| !value.is_null());
        let names: Vec<String> = fields.keys().cloned().collect();
        for name in names {
            let path = join(path, &name);
            let found = descriptor
                .get_field_by_name(&name)
                .or_else(|| descriptor.get_field_by_json_name(&name));
            match (found, fields.get_mut(&name)) {
                (Some(field), Some(value)) if is_empty_any(&field, value) => {
                    fields.remove(&name);
                }
                (Some(field), Some(value)) => self.field(&field, value, &path),
                _ => self.error(&path, "unknown field"),
            }
        }
    }

    fn field(&mut self, field: &FieldDescriptor, value: &mut Value, path: &str) {
        if field.is_map() {
            return self.map(field, value, path);
        }
        if field.cardinality() != Cardinality::Repeated {
            return self.single(&field.kind(), value, path);
        }
        if !value.is_array() {
            // Envoy takes one element for a list of one.
            *value = Value::Array(vec![value.take()]);
        }
        if let Value::Array(items) = value {
            for (index, item) in items.iter_mut().enumerate() {
                self.single(&field.kind(), item, &format!("{path}[{index}]"));
            }
        }
    }

    fn map(&mut self, field: &FieldDescriptor, value: &mut Value, path: &str) {
        let Value::Object(entries) = value else {
            return self.error(
                path,
                format_args!("expected a mapping, found {}", kind_of(value)),
            );
        };
        let Kind::Message(entry) = field.kind() else {
            return;
        };
        let kind = entry.map_entry_value_field().kind();
        for (key, value) in entries {
            self.single(&kind, value, &format!("{path}[{key:?}]"));
        }
    }

    fn single(&mut self, kind: &Kind, value: &mut Value, path: &str) {
        match kind {
            Kind::Message(descriptor) => self.message(descriptor, value, path),
            Kind::Enum(descriptor) => self.enumeration(descriptor, value, path),
            kind => self.scalar(kind, value, path),
        }
    }

    fn any(&mut self, value: &mut Value, path: &str) {
        let Some(url) = value
            .get("@type")
            .and_then(Value::as_str)
            .map(str::to_owned)
        else {
            return self.error(path, "needs an \"@type\"");
        };
        let name = url.rsplit('/').next().unwrap_or_default();
        let Some(descriptor) = self.pool.message(name) else {
            return self.error(path, format_args!("could not find @type {url:?}"));
        };
        if let Value::Object(fields) = value {
            let mut inner = Value::Object(
                fields
                    .iter()
                    .filter(|(key, _)| *key != "@type")
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect(),
            );
            if name.starts_with("google.protobuf.") {
                return;
            }
            self.message(&descriptor, &mut inner, path);
            if let Value::Object(mut inner) = inner {
                inner.insert("@type".into(), Value::String(url));
                *fields = inner;
            }
        }
    }

    fn enumeration(&mut self, descriptor: &EnumDescriptor, value: &mut Value, path: &str) {
        match value {
            Value::String(name) => {
                if descriptor.get_value_by_name(name).is_some() {
                    return;
                }
                let upper = name.to_ascii_uppercase();
                let found = descriptor
                    .values()
                    .find(|v| v.name().eq_ignore_ascii_case(&upper));
                match found {
                    Some(found) => *name = found.name().to_owned(),
                    None => {
                        let names: Vec<String> =
                            descriptor.values().map(|v| v.name().to_owned()).collect();
                        let what = format!("{name:?} is none of {}", names.join(", "));
                        self.error(path, what);
                    }
                }
            }
            Value::Number(number) => {
                let known = number.as_i64().and_then(|n| i32::try_from(n).ok());
                if known.and_then(|n| descriptor.get_value(n)).is_none() {
                    let what = format!("{number} is not a value of {}", descriptor.name());
                    self.error(path, what);
                }
            }
            _ => self.error(
                path,
                format_args!(
                    "expected one of {}, found {}",
                    descriptor.name(),
                    kind_of(value)
                ),
            ),
        }
    }

    fn scalar(&mut self, kind: &Kind, value: &mut Value, path: &str) {
        match kind {
            Kind::String | Kind::Bytes => self.text(value, path),
            Kind::Bool => match value {
                Value::Bool(_) => {}
                Value::String(text) if text == "true" || text == "false" => {
                    *value = Value::Bool(text == "true");
                }
                _ => self.error(
                    path,
                    format_args!("expected true or false, found {}", kind_of(value)),
                ),
            },
            Kind::Float | Kind::Double => {
                let fits = match &*value {
                    Value::Number(_) => true,
                    Value::String(text) => text.parse::<f64>().is_ok(),
                    _ => false,
                };
                if !fits {
                    self.error(
                        path,
                        format_args!("expected a number, found {}", kind_of(value)),
                    );
                }
            }
            kind => {
                let (least, most): (i128, i128) = match kind {
                    Kind::Uint32 | Kind::Fixed32 => (0, u32::MAX.into()),
                    Kind::Uint64 | Kind::Fixed64 => (0, u64::MAX.into()),
                    Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                        (i64::MIN.into(), i64::MAX.into())
                    }
                    _ => (i32::MIN.into(), i32::MAX.into()),
                };
                let number = match &*value {
                    Value::Number(number) => number.to_string().parse::<i128>().ok(),
                    Value::String(text) => text.parse().ok(),
                    _ => None,
                };
                match number {
                    Some(number) if (least..=most).contains(&number) => {}
                    Some(number) => self.error(path, format_args!("{number} is out of range")),
                    None => self.error(
                        path,
                        format_args!("expected a whole number, found {}", kind_of(value)),
                    ),
                }
            }
        }
    }

    fn text(&mut self, value: &Value, path: &str) {
        if !value.is_string() {
            self.error(
                path,
                format_args!("expected text, found {}", kind_of(value)),
            );
        }
    }

    fn duration(&mut self, value: &Value, path: &str) {
        let seconds = value.as_str().and_then(|text| text.strip_suffix('s'));
        if seconds
            .and_then(|number| number.parse::<f64>().ok())
            .is_none()
        {
            self.error(
                path,
                format_args!("expected a duration such as \"1.5s\", found {value}"),
            );
        }
    }
}

fn is_empty_any(field: &FieldDescriptor, value: &Value) -> bool {
    let is_any = matches!(field.kind(), Kind::Message(m) if m.full_name() == "google.protobuf.Any");
    is_any && !field.is_list() && value.as_object().is_some_and(serde_json::Map::is_empty)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

#[cfg(test)]
mod tests;
