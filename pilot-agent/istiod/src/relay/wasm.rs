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
    unpack,
};
use prost::Name;
use tracing::warn;

/// Replaces a module from elsewhere. Returns why, for istiod.
pub(super) fn replace(name: &str, body: &mut Any) -> Option<String> {
    if body.type_url != TypedExtensionConfig::type_url() {
        return None;
    }
    let mut extension: TypedExtensionConfig = unpack(body).ok()?;
    let config = extension.typed_config.as_ref()?;
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
