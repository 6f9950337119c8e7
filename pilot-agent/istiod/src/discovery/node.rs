//! The node as istiod reads it: who the proxy is, and metadata that Istio calls by name.

use std::collections::HashMap;

use ithildin_proto::pb::{
    envoy::config::core::v3::Node,
    google::protobuf::{ListValue, Struct, Value, value::Kind},
};
use serde_json::Map;

/// What we call ourselves where an Envoy says `envoy`.
const USER_AGENT: &str = "ithildin";

/// The node with metadata as JSON. Numbers become doubles, as everywhere in `Struct`.
pub fn node(id: &str, cluster: &str, metadata: &Map<String, serde_json::Value>) -> Node {
    Node {
        id: id.to_owned(),
        cluster: cluster.to_owned(),
        metadata: Some(structure(metadata)),
        user_agent_name: USER_AGENT.to_owned(),
        ..Default::default()
    }
}

fn structure(object: &Map<String, serde_json::Value>) -> Struct {
    let fields = object
        .iter()
        .map(|(key, field)| (key.clone(), value(field)));
    Struct {
        fields: fields.collect::<HashMap<_, _>>(),
    }
}

fn value(json: &serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(flag) => Kind::BoolValue(*flag),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(items) => Kind::ListValue(ListValue {
            values: items.iter().map(value).collect(),
        }),
        serde_json::Value::Object(object) => Kind::StructValue(structure(object)),
    };
    Value { kind: Some(kind) }
}
