//! The shape of log records for collectors of OpenTelemetry.

use ithildin_proto::pb::opentelemetry::proto::common::v1::{
    AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value as ValueProto,
};

use super::access_log;
use crate::{access_log::service::Value, control::report::At, istio::Node};

/// Formats in their shape.
pub(super) fn value(config: &AnyValue, at: &At<'_>) -> Option<Value> {
    match &config.value {
        Some(ValueProto::StringValue(format)) => {
            let at = at.field("string_value");
            access_log::template(format, &at).map(Value::Text)
        }
        Some(ValueProto::ArrayValue(ArrayValue { values })) => {
            let at = at.field("array_value");
            let values = values.iter().enumerate();
            let values = values.filter_map(|(i, it)| value(it, &at.index("values", i)));
            Some(Value::List(values.collect()))
        }
        Some(ValueProto::KvlistValue(list)) => {
            Some(Value::Fields(fields(list, &at.field("kvlist_value"))))
        }
        _ => {
            at.error("must be a string, an array or a list of keys and values");
            None
        }
    }
}

pub(super) fn fields(config: &KeyValueList, at: &At<'_>) -> Vec<(Box<str>, Value)> {
    let KeyValueList { values } = config;
    let pairs = values.iter().enumerate();
    let pairs = pairs.filter_map(|(i, pair)| {
        let at = at.index("values", i);
        let KeyValue {
            key,
            value,
            key_strindex,
        } = pair;
        at.unset("key_strindex", key_strindex);
        let Some(config) = value else {
            at.field("value").error("is required");
            return None;
        };
        Some((
            key.as_str().into(),
            self::value(config, &at.field("value"))?,
        ))
    });
    pairs.collect()
}

/// What all records are of: the log's name and our node, unless that is not wanted, and what is configured, which
/// comes in place of what has its name.
pub(super) fn resource(
    builtin: Option<(&str, &Node)>,
    configured: Option<&KeyValueList>,
) -> Vec<KeyValue> {
    let mut attributes = Vec::new();
    if let Some((log, node)) = builtin {
        let zone = node.locality().map_or("", |it| it.zone.as_str());
        let labels = [
            ("log_name", log),
            ("zone_name", zone),
            ("cluster_name", &*node.cluster),
            ("node_name", &*node.id),
        ];
        attributes.extend(labels.map(|(key, value)| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue {
                value: Some(ValueProto::StringValue(value.to_owned())),
            }),
            ..KeyValue::default()
        }));
    }
    for pair in configured.into_iter().flat_map(|it| &it.values) {
        match attributes.iter_mut().find(|known| known.key == pair.key) {
            Some(known) => known.clone_from(pair),
            None => attributes.push(pair.clone()),
        }
    }
    attributes
}
