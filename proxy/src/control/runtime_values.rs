//! What of the bootstrap's runtime we act on: its flags say how Envoy behaves, and few of them are asked for
//! by those who only know Envoy. Source: Envoy, "Runtime".

use ithildin_proto::pb::{
    envoy::config::bootstrap::v3::{Bootstrap, runtime_layer::LayerSpecifier},
    google::protobuf::{Struct, Value, value::Kind},
};

/// Set to `false` by Istio, in whose meshes a fragment does not make a request bad.
const REJECT_FRAGMENT: &str = "envoy.reloadable_features.http_reject_path_with_fragment";

/// Whether the fragment of a request's target is left out. Else the request is refused, as with Envoy.
pub(super) fn strips_fragment(bootstrap: &Bootstrap) -> bool {
    let rejects = value(bootstrap, REJECT_FRAGMENT).and_then(|value| value.kind.as_ref());
    match rejects {
        Some(Kind::BoolValue(rejects)) => !rejects,
        Some(Kind::StringValue(rejects)) => rejects == "false",
        _ => false,
    }
}

/// The value of a key in the static layers, of which later ones go before earlier ones.
pub(super) fn value<'a>(bootstrap: &'a Bootstrap, key: &str) -> Option<&'a Value> {
    let layers = &bootstrap.layered_runtime.as_ref()?.layers;
    layers
        .iter()
        .rev()
        .find_map(|layer| match &layer.layer_specifier {
            Some(LayerSpecifier::StaticLayer(fields)) => find(fields, key),
            _ => None,
        })
}

/// The value of `key`, whose parts may be nested.
fn find<'a>(fields: &'a Struct, key: &str) -> Option<&'a Value> {
    if let Some(value) = fields.fields.get(key) {
        return Some(value);
    }
    let (outer, inner) = key.split_once('.')?;
    match &fields.fields.get(outer)?.kind {
        Some(Kind::StructValue(fields)) => find(fields, inner),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ithildin_proto::from_yaml;

    use super::*;

    #[test]
    fn later_layers_go_first() {
        let strips = |layers: &str| {
            let text = format!("layered_runtime: {{layers: [{layers}]}}");
            strips_fragment(&from_yaml(&text).unwrap())
        };
        let layer =
            |value: &str| format!("{{name: a, static_layer: {{{REJECT_FRAGMENT}: {value}}}}}");
        assert!(strips(&layer("false")));
        assert!(strips(&layer("\"false\"")));
        assert!(strips(&format!("{}, {}", layer("true"), layer("false"))));
        assert!(!strips(&format!("{}, {}", layer("false"), layer("true"))));
        assert!(!strips(""));
    }
}
