//! Wasm filters whose module is elsewhere: what they want of it, and what Envoy gets in their place.
//!
//! Envoy gets the filter with a file in it, and nothing of what istiod told the agent by it: the pull secret
//! above all. Without the module it gets a filter that lets everything pass, or nothing, as the author of the
//! filter decided for a failure.
//!
//! Source: Istio's `pkg/wasm/convert.go` and `pilot/pkg/model/extensions.go`.

use std::{path::Path, time::Duration};

use ithildin_proto::{
    pack,
    pb::{
        envoy::{
            config::{
                core::v3::{
                    AsyncDataSource, DataSource, RemoteDataSource, TypedExtensionConfig,
                    async_data_source, data_source,
                },
                rbac::v3::Rbac as Rules,
            },
            extensions::{
                filters::{
                    http::{rbac::v3::Rbac, wasm::v3::Wasm},
                    network::{rbac::v3::Rbac as NetworkRbac, wasm::v3::Wasm as NetworkWasm},
                },
                wasm::v3::{FailurePolicy, PluginConfig, VmConfig, plugin_config::Vm},
            },
        },
        google::protobuf::Any,
    },
    resolve, unpack,
};
use ithildin_wasm::{PullPolicy, Request};
use prost::Name;

/// What istiod tells the agent, and nobody else, by the environment of a module.
const FOR_THE_AGENT: &str = "ISTIO_META_";
const SECRET: &str = "ISTIO_META_WASM_IMAGE_PULL_SECRET";
const POLICY: &str = "ISTIO_META_WASM_IMAGE_PULL_POLICY";
const VERSION: &str = "ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION";
/// istiod's checksum of modules that have none: Envoy's API wants one.
const NO_CHECKSUM: &str = "nil";
/// Where a filter does not say how long a fetch may take; istiod says 30 s.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that it may say: istiod waits for an answer meanwhile.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
/// The counters of the filters that stand in for one whose module is missing.
const ALLOWED: &str = "wasm-default-allow";
const DENIED: &str = "wasm-default-deny";

/// A filter whose module is elsewhere.
#[derive(Clone, Debug)]
pub(super) struct RemoteFilter {
    name: String,
    plugin: PluginConfig,
    is_http: bool,
}

impl RemoteFilter {
    /// `None` if `body` is anything else.
    ///
    /// # Errors
    /// When it is a Wasm filter that cannot be read.
    pub(super) fn of(body: &Any) -> Result<Option<Self>, String> {
        if body.type_url != TypedExtensionConfig::type_url() {
            return Ok(None);
        }
        let extension: TypedExtensionConfig = unpack(body).map_err(|error| error.to_string())?;
        let Some(config) = &extension.typed_config else {
            return Ok(None);
        };
        // An EnvoyFilter may hold the filter as JSON. What is wrong with others, Envoy says.
        let Ok(config) = resolve(config) else {
            return Ok(None);
        };
        let config = config.as_ref();
        let (plugin, is_http) = if config.type_url == Wasm::type_url() {
            let filter = unpack::<Wasm>(config).map_err(|error| error.to_string())?;
            (filter.config, true)
        } else if config.type_url == NetworkWasm::type_url() {
            let filter = unpack::<NetworkWasm>(config).map_err(|error| error.to_string())?;
            (filter.config, false)
        } else {
            return Ok(None);
        };
        let filter = plugin.map(|plugin| Self {
            name: extension.name,
            plugin,
            is_http,
        });
        Ok(filter.filter(|filter| filter.remote().is_some()))
    }

    /// What is to be fetched for the resource of this name.
    ///
    /// # Errors
    /// When the filter does not say enough.
    pub(super) fn request(&self, resource: &str) -> Result<Request, &'static str> {
        let uri = self.remote().and_then(|remote| remote.http_uri.as_ref());
        let uri = uri.ok_or("the filter has no http_uri")?;
        let checksum = self
            .remote()
            .map(|remote| remote.sha256.to_ascii_lowercase());
        let told = |name: &str| {
            let environment = self.vm()?.environment_variables.as_ref()?;
            environment.key_values.get(name).cloned()
        };
        let pull_secret = told(SECRET).map(Into::into);
        if pull_secret
            .as_ref()
            .is_some_and(|secret: &zeroize::Zeroizing<String>| secret.is_empty())
        {
            return Err("istiod has no pull secret for the filter's imagePullSecret");
        }
        let timeout = uri.timeout.as_ref().map(|given| {
            let seconds = u64::try_from(given.seconds).unwrap_or_default();
            Duration::new(seconds, u32::try_from(given.nanos).unwrap_or_default())
        });
        Ok(Request {
            url: uri.uri.clone(),
            checksum: checksum.filter(|it| !it.is_empty() && it != NO_CHECKSUM),
            resource: resource.to_owned(),
            resource_version: told(VERSION).unwrap_or_default(),
            pull_secret,
            policy: match told(POLICY).as_deref() {
                Some("IfNotPresent") => PullPolicy::IfNotPresent,
                Some("Always") => PullPolicy::Always,
                _ => PullPolicy::Unspecified,
            },
            timeout: timeout
                .filter(|it| !it.is_zero())
                .unwrap_or(TIMEOUT)
                .min(MAX_TIMEOUT),
        })
    }

    /// The filter with the module from a file.
    pub(super) fn with_module(mut self, path: &Path) -> Any {
        if let Some(Vm::VmConfig(vm)) = &mut self.plugin.vm {
            vm.code = Some(AsyncDataSource {
                specifier: Some(async_data_source::Specifier::Local(DataSource {
                    specifier: Some(data_source::Specifier::Filename(
                        path.to_string_lossy().into_owned(),
                    )),
                    ..Default::default()
                })),
            });
            if let Some(environment) = &mut vm.environment_variables {
                let variables = &mut environment.key_values;
                variables.retain(|name, _| !name.starts_with(FOR_THE_AGENT));
                if variables.is_empty() && environment.host_env_keys.is_empty() {
                    vm.environment_variables = None;
                }
            }
        }
        let config = Some(self.plugin);
        let filter = match self.is_http {
            true => pack(&Wasm { config }),
            false => pack(&NetworkWasm { config }),
        };
        extension(self.name, filter)
    }

    /// What stands in for the filter when there is no module.
    pub(super) fn without_module(self) -> Any {
        let (rules, counters) = match self.fails_open() {
            true => (None, ALLOWED),
            // Rules that allow nobody.
            false => (Some(Rules::default()), DENIED),
        };
        let filter = match self.is_http {
            true => pack(&Rbac {
                rules,
                rules_stat_prefix: counters.to_owned(),
                ..Default::default()
            }),
            false => pack(&NetworkRbac {
                rules,
                stat_prefix: counters.to_owned(),
                ..Default::default()
            }),
        };
        extension(self.name, filter)
    }

    /// Whether everything passes while there is no module.
    #[allow(deprecated)]
    pub(super) fn fails_open(&self) -> bool {
        match FailurePolicy::try_from(self.plugin.failure_policy) {
            Ok(FailurePolicy::Unspecified) => self.plugin.fail_open,
            policy => policy == Ok(FailurePolicy::FailOpen),
        }
    }

    fn vm(&self) -> Option<&VmConfig> {
        match &self.plugin.vm {
            Some(Vm::VmConfig(vm)) => Some(vm),
            None => None,
        }
    }

    fn remote(&self) -> Option<&RemoteDataSource> {
        match self.vm()?.code.as_ref()?.specifier.as_ref()? {
            async_data_source::Specifier::Remote(remote) => Some(remote),
            async_data_source::Specifier::Local(_) => None,
        }
    }
}

fn extension(name: String, filter: Any) -> Any {
    pack(&TypedExtensionConfig {
        name,
        typed_config: Some(filter),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn resource(config: Value) -> Any {
        let extension = json!({"name": "filter", "typed_config": config});
        pack(&ithildin_proto::from_value::<TypedExtensionConfig>(extension).unwrap())
    }

    fn wasm(layer: &str, vm: &Value, more: &[(&str, Value)]) -> Value {
        let mut config = json!({"name": "plugin", "vm_config": vm});
        for (name, value) in more {
            config[*name] = value.clone();
        }
        json!({
            "@type": format!("type.googleapis.com/envoy.extensions.filters.{layer}.wasm.v3.Wasm"),
            "config": config,
        })
    }

    /// As istiod sends it.
    fn vm(variables: &Value) -> Value {
        let uri = json!({"uri": "oci://registry.test/filter:1", "cluster": "_", "timeout": "30s"});
        json!({
            "code": {"remote": {"http_uri": uri, "sha256": "nil"}},
            "environment_variables": {"key_values": variables},
        })
    }

    fn as_json(mut config: Value) -> Value {
        let kind = config["@type"].take();
        config.as_object_mut().unwrap().remove("@type");
        json!({"@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "type_url": kind, "value": config})
    }

    fn filter(config: Value) -> RemoteFilter {
        RemoteFilter::of(&resource(config)).unwrap().unwrap()
    }

    fn typed(body: &Any) -> Any {
        let extension: TypedExtensionConfig = unpack(body).unwrap();
        assert_eq!(extension.name, "filter");
        extension.typed_config.unwrap()
    }

    #[test]
    fn without_its_module_a_filter_gives_way_to_what_its_author_decided() {
        let policy = |it: &str| ("failure_policy", json!(it));
        let open = |it: bool| ("fail_open", json!(it));
        for (said, passes) in [
            (vec![], false),
            (vec![open(true)], true),
            (vec![policy("FAIL_OPEN")], true),
            (vec![policy("FAIL_CLOSED"), open(true)], false),
            (vec![policy("FAIL_RELOAD")], false),
        ] {
            let http = wasm("http", &vm(&json!({})), &said);
            for config in [http.clone(), as_json(http)] {
                let rbac: Rbac = unpack(&typed(&filter(config).without_module())).unwrap();
                assert_eq!(
                    rbac.rules.is_none(),
                    passes,
                    "no rules let everybody pass: {said:?}"
                );
                let expected = if passes {
                    "wasm-default-allow"
                } else {
                    "wasm-default-deny"
                };
                assert_eq!(rbac.rules_stat_prefix, expected);
            }
            let network = filter(wasm("network", &vm(&json!({})), &said));
            let rbac: NetworkRbac = unpack(&typed(&network.without_module())).unwrap();
            assert_eq!(rbac.rules.is_none(), passes);
        }
    }

    #[test]
    fn envoy_gets_a_file_and_nothing_of_what_is_for_the_agent() {
        let told = json!({SECRET: "s3cret", POLICY: "Always", VERSION: "7", "MODE": "x"});
        for layer in ["http", "network"] {
            let filter = filter(wasm(layer, &vm(&told), &[("root_id", json!("r"))]));
            let request = filter.request("ns.filter").unwrap();
            assert_eq!(request.url, "oci://registry.test/filter:1");
            assert_eq!(
                (request.checksum, request.policy),
                (None, PullPolicy::Always)
            );
            assert_eq!(request.resource_version, "7");
            assert_eq!(request.pull_secret.unwrap().as_str(), "s3cret");
            assert_eq!(request.timeout, Duration::from_secs(30));
            let body = filter.with_module(Path::new("/data/m.wasm"));
            let bytes = String::from_utf8_lossy(&body.value).into_owned();
            assert!(
                !bytes.contains("s3cret") && !bytes.contains("ISTIO_META"),
                "{bytes}"
            );
            assert!(
                bytes.contains("MODE") && bytes.contains("/data/m.wasm"),
                "{bytes}"
            );
            assert!(!bytes.contains("registry.test"), "{bytes}");
            assert_eq!(RemoteFilter::of(&body).map(|it| it.is_none()), Ok(true));
        }
        let only = filter(wasm("http", &vm(&json!({VERSION: "7"})), &[]));
        let wasm: Wasm = unpack(&typed(&only.with_module(Path::new("/m")))).unwrap();
        let Some(Vm::VmConfig(vm)) = wasm.config.unwrap().vm else {
            panic!("no VM");
        };
        assert!(vm.environment_variables.is_none());
    }

    #[test]
    fn a_filter_that_does_not_say_enough_has_no_request() {
        let secret = filter(wasm("http", &vm(&json!({SECRET: ""})), &[]));
        assert!(secret.request("f").unwrap_err().contains("pull secret"));
        let nowhere = json!({"code": {"remote": {"sha256": "x"}}});
        let nowhere = filter(wasm("http", &nowhere, &[]));
        assert!(nowhere.request("f").unwrap_err().contains("http_uri"));
    }

    #[test]
    fn whatever_else_is_passed_on_as_it_is() {
        let local = json!({"code": {"local": {"filename": "/etc/filter.wasm"}}});
        let other = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        });
        for body in [
            resource(wasm("http", &local, &[])),
            resource(other),
            pack(&TypedExtensionConfig::default()),
            pack(&Wasm::default()),
        ] {
            assert!(RemoteFilter::of(&body).unwrap().is_none());
        }
        let broken = Any {
            type_url: Wasm::type_url(),
            value: vec![0xff],
        };
        assert!(RemoteFilter::of(&extension("filter".into(), broken)).is_err());
    }
}
