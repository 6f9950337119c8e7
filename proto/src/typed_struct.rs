//! `TypedStruct`: a message as JSON inside of `Any`, for receivers that may not know its type.
//! istiod sends Istio's own filters so (`udpa.type.v1`, `xds.type.v3`).

use std::borrow::Cow;

use envoy_types::pb::google::protobuf::{Any, Struct, Value, value::Kind};
use prost::Name;
use serde_json::{Map, Number, Value as Json};

use crate::{
    ParseErrors,
    istio::typed_struct::{udpa, xds},
    parse::Encoder,
    pool::Pool,
    unpack,
    yaml::Document,
};

/// `any` with the message itself in it, where a `TypedStruct` holds one.
///
/// A type that is neither Envoy's nor Istio's keeps its name and loses its value, so that whoever
/// refuses it can say what it is.
///
/// # Errors
/// The wrapper is malformed, or what is in it does not fit the type.
pub fn resolve(any: &Any) -> Result<Cow<'_, Any>, ParseErrors> {
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    let malformed = |error: crate::UnpackError| ParseErrors(vec![error.to_string()]);
    let (type_url, value) = if name == udpa::TypedStruct::full_name() {
        let wrapper: udpa::TypedStruct = unpack(any).map_err(malformed)?;
        (wrapper.type_url, wrapper.value)
    } else if name == xds::TypedStruct::full_name() {
        let wrapper: xds::TypedStruct = unpack(any).map_err(malformed)?;
        (wrapper.type_url, wrapper.value)
    } else {
        return Ok(Cow::Borrowed(any));
    };
    let value = encode(&type_url, value.unwrap_or_default())?;
    Ok(Cow::Owned(Any { type_url, value }))
}

fn encode(type_url: &str, value: Struct) -> Result<Vec<u8>, ParseErrors> {
    let name = type_url.rsplit('/').next().unwrap_or_default();
    let mut pool = Pool::istio();
    if pool.message(name).is_none() {
        pool = Pool::load();
    }
    let Some(descriptor) = pool.message(name) else {
        return Ok(Vec::new());
    };
    let document = Document::from_json(json(Value {
        kind: Some(Kind::StructValue(value)),
    }))
    .map_err(|error| ParseErrors(vec![error.to_string()]))?;
    Encoder::new(&pool)
        .takes_any_text()
        .encode(descriptor, document.root())
}

/// A value of a `Struct` as JSON.
pub fn json(value: Value) -> Json {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(flag)) => Json::Bool(flag),
        Some(Kind::NumberValue(number)) => self::number(number),
        Some(Kind::StringValue(text)) => Json::String(text),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(json).collect(),
        Some(Kind::StructValue(fields)) => {
            let fields = fields.fields.into_iter();
            let fields: Map<_, _> = fields.map(|(name, value)| (name, json(value))).collect();
            Json::Object(fields)
        }
    }
}

/// A whole number stays one: fields of integer types take nothing else.
fn number(number: f64) -> Json {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        return Json::Number((number as i64).into());
    }
    Number::from_f64(number).map_or(Json::Null, Json::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        from_yaml,
        istio::{metadata_exchange::MetadataExchange, peer_metadata, stats::PluginConfig},
        pack,
    };

    fn text(text: &str) -> Value {
        Value {
            kind: Some(Kind::StringValue(text.into())),
        }
    }

    fn wrapped(type_url: &str, fields: &[(&str, Value)]) -> Any {
        let fields = fields.iter();
        pack(&udpa::TypedStruct {
            type_url: type_url.into(),
            value: Some(Struct {
                fields: fields.map(|(k, v)| (k.to_string(), v.clone())).collect(),
            }),
        })
    }

    #[test]
    fn numbers_and_truth_values_do_for_texts() {
        let url = "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange";
        for (kind, expected) in [
            (Kind::BoolValue(true), "true"),
            (Kind::NumberValue(12.0), "12"),
        ] {
            let any = wrapped(url, &[("protocol", Value { kind: Some(kind) })]);
            let any = resolve(&any).expect("Envoy takes it");
            let config: MetadataExchange = unpack(&any).expect("the type that it says");
            assert_eq!(config.protocol, expected);
        }
        let list = Kind::ListValue(Default::default());
        let any = wrapped(url, &[("protocol", Value { kind: Some(list) })]);
        assert!(resolve(&any).is_err());
    }

    #[test]
    fn the_message_inside_is_found() {
        let url = "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange";
        let on = Value {
            kind: Some(Kind::BoolValue(true)),
        };
        let any = wrapped(
            url,
            &[
                ("protocol", text("istio-peer-exchange")),
                ("enable_discovery", on),
            ],
        );
        let any = resolve(&any).expect("it fits");
        let config: MetadataExchange = unpack(&any).expect("the type that it says");
        assert_eq!(config.protocol, "istio-peer-exchange");
        assert!(config.enable_discovery);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_path() {
        let url = "type.googleapis.com/stats.PluginConfig";
        let error = resolve(&wrapped(url, &[("metrics", text("all"))])).expect_err("not a list");
        assert!(error.to_string().contains("metrics"), "{error}");
        let error = resolve(&wrapped(url, &[("nonsense", text("1"))])).expect_err("no such field");
        assert!(error.to_string().contains("nonsense"), "{error}");
    }

    #[test]
    fn an_unknown_type_keeps_its_name() {
        let url = "type.googleapis.com/example.Unknown";
        let any = wrapped(url, &[("a", text("b"))]);
        let any = resolve(&any).expect("nothing to check");
        assert_eq!(any.type_url, url);
        assert!(any.value.is_empty());
    }

    #[test]
    fn other_messages_stay_as_they_are() {
        let any = pack(&PluginConfig::default());
        assert!(matches!(resolve(&any), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn yaml_speaks_of_istios_messages() {
        let config: peer_metadata::Config = from_yaml(
            "downstream_discovery: [{istio_headers: {}}, {workload_discovery: {}}]\n\
             downstream_propagation: [{istio_headers: {}}]",
        )
        .expect("it is known");
        assert_eq!(config.downstream_discovery.len(), 2);
    }
}
