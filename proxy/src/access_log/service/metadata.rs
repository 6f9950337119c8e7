//! What filters left, as `envoy.config.core.v3.Metadata`.

use ithildin_proto::pb::{
    envoy::config::core::v3::Metadata,
    google::protobuf::{ListValue, NullValue, Struct, Value as ValueProto, value::Kind},
};
use serde_json::{Map, Value};

use crate::metadata::DynamicMetadata;

/// `None`: they left nothing.
pub(super) fn message(metadata: &DynamicMetadata) -> Option<Metadata> {
    let spaces = metadata.iter();
    let message = Metadata {
        filter_metadata: spaces
            .map(|(name, fields)| (name.to_owned(), object(fields)))
            .collect(),
        ..Metadata::default()
    };
    (!message.filter_metadata.is_empty()).then_some(message)
}

pub(super) fn object(fields: &Map<String, Value>) -> Struct {
    let fields = fields.iter();
    Struct {
        fields: fields.map(|(name, it)| (name.clone(), value(it))).collect(),
    }
}

fn value(it: &Value) -> ValueProto {
    let kind = match it {
        Value::Null => Kind::NullValue(NullValue::NullValue.into()),
        Value::Bool(it) => Kind::BoolValue(*it),
        Value::Number(it) => Kind::NumberValue(it.as_f64().unwrap_or_default()),
        Value::String(it) => Kind::StringValue(it.clone()),
        Value::Array(items) => Kind::ListValue(ListValue {
            values: items.iter().map(value).collect(),
        }),
        Value::Object(fields) => Kind::StructValue(object(fields)),
    };
    ValueProto { kind: Some(kind) }
}
