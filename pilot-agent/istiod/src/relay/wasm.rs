//! Wasm filters whose module Envoy would have to fetch.
//!
//! Istio's agent fetches such modules and points Envoy to a file. Here none is fetched: Envoy could not
//! do it either, and would wait for ever. A filter that lets everything pass, or nothing, takes the
//! place of the module, as its author decided for a failure.

use ithildin_proto::{
    pack,
    pb::{
        envoy::{
            config::{
                core::v3::{TypedExtensionConfig, async_data_source::Specifier},
                rbac::v3::Rbac as Rules,
            },
            extensions::{
                filters::{
                    http::{rbac::v3::Rbac, wasm::v3::Wasm},
                    network::{rbac::v3::Rbac as NetworkRbac, wasm::v3::Wasm as NetworkWasm},
                },
                wasm::v3::{FailurePolicy, PluginConfig, plugin_config::Vm},
            },
        },
        google::protobuf::Any,
    },
    resolve, unpack,
};
use prost::Name;
use tracing::warn;

/// Replaces a module from elsewhere. Returns why, for istiod.
pub(super) fn replace(name: &str, body: &mut Any) -> Option<String> {
    if body.type_url != TypedExtensionConfig::type_url() {
        return None;
    }
    let mut extension: TypedExtensionConfig = unpack(body).ok()?;
    // An EnvoyFilter may hold the filter as JSON.
    let config = resolve(extension.typed_config.as_ref()?).ok()?;
    let config = config.as_ref();
    let (plugin, is_http) = if config.type_url == Wasm::type_url() {
        (unpack::<Wasm>(config).ok()?.config?, true)
    } else if config.type_url == NetworkWasm::type_url() {
        (unpack::<NetworkWasm>(config).ok()?.config?, false)
    } else {
        return None;
    };
    let source = remote(&plugin)?;
    let (instead, what) = match fails_open(&plugin) {
        true => (None, "everything passes"),
        // Rules that allow nobody.
        false => (Some(Rules::default()), "nothing passes"),
    };
    extension.typed_config = Some(match is_http {
        true => pack(&Rbac {
            rules: instead,
            ..Default::default()
        }),
        false => pack(&NetworkRbac {
            rules: instead,
            stat_prefix: name.to_owned(),
            ..Default::default()
        }),
    });
    *body = pack(&extension);
    let reason = format!("Wasm modules are not fetched ({source}); {what} instead");
    warn!(name, reason, "a Wasm filter is replaced");
    Some(reason)
}

fn remote(plugin: &PluginConfig) -> Option<String> {
    let Some(Vm::VmConfig(vm)) = &plugin.vm else {
        return None;
    };
    match vm.code.as_ref()?.specifier.as_ref()? {
        Specifier::Remote(remote) => Some(
            remote
                .http_uri
                .as_ref()
                .map(|uri| uri.uri.clone())
                .unwrap_or_default(),
        ),
        Specifier::Local(_) => None,
    }
}

#[allow(deprecated)]
fn fails_open(plugin: &PluginConfig) -> bool {
    plugin.fail_open || plugin.failure_policy == i32::from(FailurePolicy::FailOpen)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn extension(config: Value) -> Any {
        let extension = json!({"name": "filter", "typed_config": config});
        pack(&ithildin_proto::from_value::<TypedExtensionConfig>(extension).unwrap())
    }

    fn wasm(layer: &str, code: Value, open: bool) -> Value {
        json!({
            "@type": format!("type.googleapis.com/envoy.extensions.filters.{layer}.wasm.v3.Wasm"),
            "config": {"name": "plugin", "fail_open": open, "vm_config": {"code": code}},
        })
    }

    fn remote() -> Value {
        let uri = json!({"uri": "oci://registry.test/filter:1", "cluster": "_", "timeout": "5s"});
        json!({"remote": {"http_uri": uri, "sha256": "nil"}})
    }

    #[test]
    fn a_module_from_elsewhere_gives_way_to_what_its_author_decided() {
        let as_json = |mut config: Value| {
            let kind = config["@type"].take();
            config.as_object_mut().unwrap().remove("@type");
            json!({"@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "type_url": kind, "value": config})
        };
        for open in [true, false] {
            for config in [
                wasm("http", remote(), open),
                as_json(wasm("http", remote(), open)),
            ] {
                let mut body = extension(config);
                let reason = replace("filter", &mut body).unwrap();
                assert!(reason.contains("oci://registry.test/filter:1"), "{reason}");
                let instead: TypedExtensionConfig = unpack(&body).unwrap();
                assert_eq!(instead.name, "filter");
                let rbac: Rbac = unpack(&instead.typed_config.unwrap()).unwrap();
                assert_eq!(rbac.rules.is_none(), open, "no rules let everybody pass");
            }
            let mut body = extension(wasm("network", remote(), open));
            replace("filter", &mut body).unwrap();
            let instead: TypedExtensionConfig = unpack(&body).unwrap();
            let rbac: NetworkRbac = unpack(&instead.typed_config.unwrap()).unwrap();
            assert_eq!(rbac.rules.is_none(), open);
        }
    }

    #[test]
    fn whatever_else_is_passed_on_as_it_is() {
        let local = json!({"local": {"filename": "/etc/filter.wasm"}});
        let other = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        });
        let bodies = [
            extension(wasm("http", local, false)),
            extension(other),
            pack(&TypedExtensionConfig::default()),
            Any {
                type_url: TypedExtensionConfig::type_url(),
                value: vec![0xff],
            },
            pack(&Wasm::default()),
        ];
        for before in bodies {
            let mut body = before.clone();
            assert_eq!(replace("filter", &mut body), None);
            assert_eq!(body, before);
        }
    }
}
