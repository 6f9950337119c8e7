//! Envoy's runtime: switches that Istio sets, and the user's.

use anyhow::Context;
use ithildin_proto::pb::{
    envoy::config::bootstrap::v3::{LayeredRuntime, RuntimeLayer, runtime_layer::LayerSpecifier},
    google::protobuf::{self, Struct, value::Kind},
};
use serde_json::{Map, Value, json};

use crate::proxy::settings::{Compliance, Settings};

/// Connections that Envoy accepts at most, where nobody says it: as good as no limit.
const MAX_CONNECTIONS: i64 = i32::MAX as i64;
const MAX_CONNECTIONS_METADATA: &str = "GLOBAL_DOWNSTREAM_MAX_CONNECTIONS";
/// Istio's name of the layer.
pub(super) const GLOBAL_LAYER: &str = "global config";
/// The old way to say it.
const MAX_CONNECTIONS_RUNTIME: &str = "overload.global_downstream_max_connections";

/// In Istio's meshes a fragment does not make a request bad.
const REJECT_FRAGMENT: &str = "envoy.reloadable_features.http_reject_path_with_fragment";

/// Of what Istio sets, what the built-in proxy knows.
pub(super) fn builtin() -> LayeredRuntime {
    let kind = Some(Kind::BoolValue(false));
    let flags = [(REJECT_FRAGMENT.to_owned(), protobuf::Value { kind })];
    LayeredRuntime {
        layers: vec![RuntimeLayer {
            name: GLOBAL_LAYER.to_owned(),
            layer_specifier: Some(LayerSpecifier::StaticLayer(Struct {
                fields: flags.into(),
            })),
        }],
    }
}

pub(super) fn flags(settings: &Settings) -> Map<String, Value> {
    let defaults = json!({
        // istiod's larger route expressions; a text, as Istio has it.
        "re2.max_program_size.error_level": "32768",
        "envoy.deprecated_features:envoy.config.listener.v3.Listener.hidden_envoy_deprecated_use_original_dst": true,
        REJECT_FRAGMENT: false,
        "envoy.reloadable_features.fixed_heap_use_allocated": true,
        "envoy.reloadable_features.coalesce_lb_rebuilds_on_batch_update": false,
    });
    let mut flags = defaults.as_object().cloned().unwrap_or_default();
    if settings.envoy.compliance == Some(Compliance::Fips140_2) {
        let flag = "envoy.reloadable_features.google_grpc_disable_tls_13";
        flags.insert(flag.into(), true.into());
    }
    if !settings.envoy.strip_fragment {
        let flag = "envoy.reloadable_features.http_strip_fragment_from_path_unsafe_if_disabled";
        flags.insert(flag.into(), "false".into());
    }
    for (key, value) in &settings.proxy_config.runtime_values {
        match value.as_str() {
            // Nothing in place of a default takes the default away.
            "" => {
                flags.shift_remove(key);
            }
            "true" => {
                flags.insert(key.clone(), true.into());
            }
            "false" => {
                flags.insert(key.clone(), false.into());
            }
            text => {
                flags.insert(key.clone(), text.into());
            }
        }
    }
    flags
}

/// [`asked_connections`], or as good as no limit.
pub(super) fn max_connections(settings: &Settings) -> anyhow::Result<i64> {
    Ok(asked_connections(settings)?.unwrap_or(MAX_CONNECTIONS))
}

/// `connectionSettings` first, then `proxyMetadata`, then the runtime value.
pub(super) fn asked_connections(settings: &Settings) -> anyhow::Result<Option<i64>> {
    let config = &settings.proxy_config;
    if let Some(limit) = config.connection_limit {
        return Ok(Some(limit.into()));
    }
    let metadata = settings.metadata.get(MAX_CONNECTIONS_METADATA);
    let runtime = config.runtime_values.get(MAX_CONNECTIONS_RUNTIME);
    let (name, text) = match (metadata.and_then(Value::as_str), runtime) {
        (Some(text), _) => (MAX_CONNECTIONS_METADATA, text),
        (None, Some(text)) if !text.is_empty() => (MAX_CONNECTIONS_RUNTIME, text.as_str()),
        _ => return Ok(None),
    };
    let limit = text.parse().ok().filter(|limit| *limit > 0);
    limit
        .map(Some)
        .with_context(|| format!("{name} {text:?} is not a number of connections"))
}
