//! Messages as JSON, as Envoy's `/config_dump` prints them.
//!
//! Fields come in the order of their numbers under their protobuf names; what is not set is left
//! out. What Envoy marks as sensitive (`udpa.annotations.sensitive`) is replaced, inside of `Any`
//! too. An `Any` of a type that is not Envoy's stays readable: its bytes in base64. One in another in
//! another is followed so far and no further: messages have a limit of depth, but each `Any` begins anew.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use prost::{Message, Name};
use prost_reflect::{
    DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage, Value,
};
use serde_json::{Map, Value as Json};

use crate::Pool;

/// What stands for sensitive text; in base64 for sensitive bytes.
const REDACTED: &str = "[redacted]";
/// Stands for what is in too many messages, which may be sensitive as well.
const TOO_DEEP: &str = "[nested too deeply]";
/// Messages around an `Any` that is still looked into; the messages in it may be as many again.
const MAX_DEPTH: usize = 100;

/// How what is printed lies in what was printed.
#[derive(Clone, Copy)]
struct Place {
    /// Messages around it.
    depth: usize,
    /// Something around it is sensitive.
    redact: bool,
}

/// Prints messages; holds the descriptors while it lives.
pub struct Printer {
    pool: Pool,
    sensitive: Option<ExtensionDescriptor>,
}

impl Printer {
    pub fn new() -> Self {
        let pool = Pool::load();
        let sensitive = pool.extension("udpa.annotations.sensitive");
        Self { pool, sensitive }
    }

    /// `message` as JSON. A message that is not Envoy's is `null`.
    pub fn json<M: Message + Name>(&self, message: &M) -> Json {
        self.decoded(&M::full_name(), &message.encode_to_vec())
            .map_or(Json::Null, |message| {
                let place = Place {
                    depth: 0,
                    redact: false,
                };
                self.message(&message, place)
            })
    }

    fn decoded(&self, name: &str, bytes: &[u8]) -> Option<DynamicMessage> {
        DynamicMessage::decode(self.pool.message(name)?, bytes).ok()
    }

    fn message(&self, message: &DynamicMessage, place: Place) -> Json {
        let name = message.descriptor();
        let name = name.full_name();
        let place = Place {
            depth: place.depth + 1,
            ..place
        };
        if name == "google.protobuf.Any" {
            return self.any(message, place);
        }
        if name.starts_with("google.protobuf.") {
            return if place.redact {
                REDACTED.into()
            } else {
                // Durations, wrappers and the like have forms of their own.
                serde_json::to_value(message).map_or(Json::Null, with_floats)
            };
        }
        let mut fields: Vec<_> = message.fields().collect();
        fields.sort_by_key(|(field, _)| field.number());
        let fields = fields.into_iter().map(|(field, value)| {
            let place = Place {
                redact: place.redact || self.is_sensitive(&field),
                ..place
            };
            (
                field.name().to_owned(),
                self.value(value, &field.kind(), place),
            )
        });
        Json::Object(fields.collect())
    }

    fn is_sensitive(&self, field: &FieldDescriptor) -> bool {
        self.sensitive.as_ref().is_some_and(|sensitive| {
            let options = field.options();
            options.has_extension(sensitive)
                && options.get_extension(sensitive).as_bool() == Some(true)
        })
    }

    fn any(&self, any: &DynamicMessage, place: Place) -> Json {
        let url = any.get_field_by_name("type_url");
        let url = url.as_ref().and_then(|it| it.as_str()).unwrap_or_default();
        let bytes = any.get_field_by_name("value");
        let bytes = bytes
            .as_ref()
            .and_then(|it| it.as_bytes())
            .map_or(&[][..], |it| it);
        let mut fields = Map::new();
        fields.insert("@type".to_owned(), url.into());
        if place.depth > MAX_DEPTH {
            fields.insert("value".to_owned(), TOO_DEEP.into());
            return Json::Object(fields);
        }
        let name = url.rsplit('/').next().unwrap_or_default();
        match self.decoded(name, bytes) {
            Some(message) => match self.message(&message, place) {
                Json::Object(inner) if !is_well_known(&message.descriptor()) => {
                    fields.extend(inner);
                }
                value => {
                    fields.insert("value".to_owned(), value);
                }
            },
            None => {
                let value = if place.redact {
                    REDACTED.into()
                } else {
                    BASE64_STANDARD.encode(bytes)
                };
                fields.insert("value".to_owned(), value.into());
            }
        }
        Json::Object(fields)
    }

    fn value(&self, value: &Value, kind: &Kind, place: Place) -> Json {
        match value {
            Value::Message(message) => self.message(message, place),
            Value::List(items) => items
                .iter()
                .map(|item| self.value(item, kind, place))
                .collect(),
            Value::Map(entries) => {
                let Kind::Message(entry) = kind else {
                    return Json::Null;
                };
                let kind = entry.map_entry_value_field().kind();
                let entries = entries.iter();
                let mut entries: Vec<_> = entries.map(|(k, value)| (key(k), value)).collect();
                entries.sort_by(|a, b| a.0.cmp(&b.0));
                let entries = entries.into_iter();
                Json::Object(
                    entries
                        .map(|(key, value)| (key, self.value(value, &kind, place)))
                        .collect(),
                )
            }
            Value::Bytes(_) if place.redact => BASE64_STANDARD.encode(REDACTED).into(),
            Value::Bytes(bytes) => BASE64_STANDARD.encode(bytes).into(),
            Value::String(_) if place.redact => REDACTED.into(),
            value => scalar(value, kind),
        }
    }
}

impl Default for Printer {
    fn default() -> Self {
        Self::new()
    }
}

fn is_well_known(descriptor: &MessageDescriptor) -> bool {
    descriptor.full_name().starts_with("google.protobuf.")
}

fn key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

/// 64-bit integers are strings in protobuf's JSON, and so are numbers that JSON lacks.
fn scalar(value: &Value, kind: &Kind) -> Json {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::I32(value) => (*value).into(),
        Value::U32(value) => (*value).into(),
        Value::I64(value) => value.to_string().into(),
        Value::U64(value) => value.to_string().into(),
        Value::F32(value) => float((*value).into()),
        Value::F64(value) => float(*value),
        Value::String(value) => value.as_str().into(),
        Value::EnumNumber(number) => match kind {
            Kind::Enum(names) => names
                .get_value(*number)
                .map_or_else(|| (*number).into(), |value| value.name().into()),
            _ => (*number).into(),
        },
        Value::Bytes(_) | Value::Message(_) | Value::List(_) | Value::Map(_) => Json::Null,
    }
}

/// The same with its numbers as [`float`] writes them.
fn with_floats(value: Json) -> Json {
    match value {
        Json::Number(number) => match number.as_f64() {
            Some(value) if number.is_f64() => float(value),
            _ => Json::Number(number),
        },
        Json::Array(items) => items.into_iter().map(with_floats).collect(),
        Json::Object(fields) => {
            let fields = fields.into_iter();
            Json::Object(fields.map(|(key, it)| (key, with_floats(it))).collect())
        }
        other => other,
    }
}

fn float(value: f64) -> Json {
    if value.fract() == 0.0 && value.abs() <= EXACT_INTEGERS {
        // A float without a fraction is written as an integer, as protobuf's own printers do.
        return (value as i64).into();
    }
    match serde_json::Number::from_f64(value) {
        Some(number) => Json::Number(number),
        None if value.is_nan() => "NaN".into(),
        None if value > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

/// 2 to the 53rd: up to here every integer is a float.
const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pack,
        pb::envoy::{
            admin::v3::{SecretsConfigDump, secrets_config_dump::DynamicSecret},
            config::{
                cluster::v3::Cluster,
                core::v3::{DataSource, data_source::Specifier},
            },
            extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, secret},
        },
        pb::google::protobuf::{Any, Duration},
    };

    #[test]
    fn floats_are_written_as_envoy_writes_them() {
        for (value, expected) in [
            (15090.0, "15090"),
            (-1.0, "-1"),
            (0.0, "0"),
            (0.25, "0.25"),
            (1e300, "1e+300"),
            (f64::NAN, "\"NaN\""),
            (f64::INFINITY, "\"Infinity\""),
            (f64::NEG_INFINITY, "\"-Infinity\""),
        ] {
            assert_eq!(float(value).to_string(), expected);
        }
        let listed = with_floats(serde_json::json!({"ports": [15090.0, 0.5, "1.0"]}));
        assert_eq!(listed.to_string(), r#"{"ports":[15090,0.5,"1.0"]}"#);
    }

    #[test]
    fn fields_come_in_order_and_unknown_types_stay_readable() {
        let cluster = Cluster {
            name: "c".into(),
            connect_timeout: Some(Duration {
                seconds: 1,
                nanos: 500_000_000,
            }),
            typed_extension_protocol_options: [(
                "z".to_owned(),
                Any {
                    type_url: "type.googleapis.com/foo.Unknown".into(),
                    value: vec![1, 2],
                },
            )]
            .into(),
            ..Cluster::default()
        };
        assert_eq!(
            Printer::new().json(&cluster).to_string(),
            "{\"name\":\"c\",\"connect_timeout\":\"1.500s\",\
             \"typed_extension_protocol_options\":{\"z\":\
             {\"@type\":\"type.googleapis.com/foo.Unknown\",\"value\":\"AQI=\"}}}"
        );
    }

    #[test]
    fn keys_are_redacted_inside_of_any() {
        let source = |text: &str| DataSource {
            specifier: Some(Specifier::InlineString(text.into())),
            ..DataSource::default()
        };
        let secret = Secret {
            name: "default".into(),
            r#type: Some(secret::Type::TlsCertificate(TlsCertificate {
                certificate_chain: Some(source("CHAIN")),
                private_key: Some(source("KEY")),
                ..TlsCertificate::default()
            })),
        };
        let dump = SecretsConfigDump {
            dynamic_active_secrets: vec![DynamicSecret {
                name: "default".into(),
                secret: Some(pack(&secret)),
                ..DynamicSecret::default()
            }],
            ..SecretsConfigDump::default()
        };
        let text = Printer::new().json(&pack(&dump)).to_string();
        assert!(
            text.contains("\"private_key\":{\"inline_string\":\"[redacted]\"}"),
            "{text}"
        );
        assert!(text.contains("CHAIN") && !text.contains("KEY"), "{text}");
    }

    #[test]
    fn an_any_in_an_any_is_not_followed_for_ever() {
        let mut nested = pack(&Cluster::default());
        for _ in 0..10_000 {
            nested = pack(&nested);
        }
        let text = Printer::new().json(&nested).to_string();
        assert!(text.contains(TOO_DEEP), "{text}");
        assert!(text.len() < 100 * MAX_DEPTH, "{}", text.len());
    }
}
