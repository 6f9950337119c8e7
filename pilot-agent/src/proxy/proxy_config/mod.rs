//! Istio's `ProxyConfig`: its layers, their merge, and what this agent reads of it.
//!
//! A field of a later layer replaces that of an earlier one, whole; only `proxyMetadata` is merged by its
//! keys, and `proxyHeaders` by its parts. The result goes to istiod with the node, so all fields are
//! kept, also those that only istiod acts on.

mod normal;
mod print;
mod schema;
mod typed;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, bail};
use ithildin_proto::yaml;
use ithildin_status::WorkloadProbe;
use serde_json::{Map, Value, json};

use self::schema::PROXY_CONFIG;
pub(crate) use self::typed::{
    ClusterName, ControlPlaneAuth, RemoteService, StatsMatcher, TcpKeepalive, TlsMode, TlsSettings,
    Tracer, Tracing, TracingServiceName,
};
use super::settings::HostPort;

/// Where its image has Envoy.
pub(crate) const DEFAULT_BINARY: &str = "/usr/local/bin/envoy";

/// The effective values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProxyConfig {
    /// Where sockets and the generated bootstrap go.
    pub(crate) config_path: PathBuf,
    /// Envoy's binary.
    pub(crate) binary_path: PathBuf,
    pub(crate) cluster_name: ClusterName,
    /// Where istiod is.
    pub(crate) discovery_address: String,
    pub(crate) control_plane_auth: ControlPlaneAuth,
    pub(crate) proxy_admin_port: u16,
    pub(crate) status_port: u16,
    /// 0: as many as there are processors.
    pub(crate) concurrency: Option<u32>,
    pub(crate) drain_duration: Duration,
    pub(crate) termination_drain_duration: Duration,
    /// Environment of the proxy; `ISTIO_META_*` among it is node metadata.
    pub(crate) metadata: BTreeMap<String, String>,
    /// A bootstrap that is used as it is.
    pub(crate) custom_config_file: Option<PathBuf>,
    /// A template for the bootstrap.
    pub(crate) template: Option<PathBuf>,
    pub(crate) statsd_udp_address: Option<String>,
    pub(crate) tracing: Option<Tracing>,
    pub(crate) metrics_service: Option<RemoteService>,
    pub(crate) access_log_service: Option<RemoteService>,
    pub(crate) runtime_values: BTreeMap<String, String>,
    pub(crate) extra_stat_tags: Vec<String>,
    pub(crate) stats_matcher: StatsMatcher,
    pub(crate) stats_compression: bool,
    pub(crate) file_flush_interval: Option<Duration>,
    pub(crate) file_flush_min_size_kb: u32,
    /// `connectionSettings.globalDownstreamConnectionLimit`.
    pub(crate) connection_limit: Option<u32>,
    /// How a workload outside of Kubernetes is known to be healthy.
    pub(crate) readiness_probe: Option<WorkloadProbe>,
    /// All of it in protobuf's JSON.
    pub(crate) json: Map<String, Value>,
}

/// The layers so far.
#[derive(Clone, Debug)]
pub(crate) struct Layers {
    fields: Map<String, Value>,
    /// Fields that a layer on top of the defaults has.
    given: BTreeSet<String>,
    /// Paths of fields that Istio's API does not have.
    unknown: Vec<String>,
}

impl Layers {
    /// Istio's defaults.
    pub(crate) fn new() -> Self {
        let defaults = json!({
            "configPath": "./etc/istio/proxy",
            "binaryPath": DEFAULT_BINARY,
            "serviceCluster": "istio-proxy",
            "drainDuration": "45s",
            "terminationDrainDuration": "5s",
            "proxyAdminPort": 15000,
            "controlPlaneAuthPolicy": "MUTUAL_TLS",
            "discoveryAddress": "istiod.istio-system.svc:15012",
            "statNameLength": 189,
            "statusPort": 15020,
        });
        Self {
            fields: defaults.as_object().cloned().unwrap_or_default(),
            given: BTreeSet::new(),
            unknown: Vec::new(),
        }
    }

    /// Takes the fields that `text`, YAML or JSON, has.
    pub(crate) fn merge(&mut self, text: &str) -> anyhow::Result<()> {
        match document(text)? {
            Some(document) => self.merge_value(document),
            None => Ok(()),
        }
    }

    /// Takes the fields of `defaultConfig` in a mesh configuration.
    pub(crate) fn merge_mesh(&mut self, text: &str) -> anyhow::Result<()> {
        let document = document(text)?;
        let config = match document {
            Some(Value::Object(mut mesh)) => {
                let camel = mesh.remove("defaultConfig");
                camel.or_else(|| mesh.remove("default_config"))
            }
            Some(_) => bail!("must be a mapping of keys to values"),
            None => None,
        };
        match config {
            None | Some(Value::Null) => Ok(()),
            Some(config) => self.merge_value(config).context("defaultConfig"),
        }
    }

    /// Sets one field by its name in JSON.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<Value>) -> anyhow::Result<()> {
        let mut object = Map::new();
        object.insert(name.to_owned(), value.into());
        self.merge_value(Value::Object(object))
    }

    /// Whether a layer on top of the defaults has the field.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.given.contains(name)
    }

    /// Whether the field has a value, by default or by a layer.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// Paths of fields that Istio's API does not have.
    pub(crate) fn unknown(&self) -> &[String] {
        &self.unknown
    }

    fn merge_value(&mut self, value: Value) -> anyhow::Result<()> {
        let layer = normal::object(PROXY_CONFIG, value, "", &mut self.unknown)?;
        for field in PROXY_CONFIG {
            let Some(mut value) = layer.get(&field.json_name()).cloned() else {
                continue;
            };
            self.given.insert(field.json_name());
            let before = self.fields.get(&field.json_name());
            if let (
                "proxy_metadata" | "proxy_headers",
                Value::Object(new),
                Some(Value::Object(old)),
            ) = (field.name, &mut value, before)
            {
                for (key, value) in old {
                    new.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
            normal::put(PROXY_CONFIG, field, value, &mut self.fields);
        }
        Ok(())
    }

    /// The effective values.
    ///
    /// # Errors
    /// A field with a value that makes no sense, by its name.
    pub(crate) fn resolve(&self) -> anyhow::Result<ProxyConfig> {
        let config = typed::resolve(&self.fields)?;
        check(&config)?;
        Ok(ProxyConfig {
            json: normal::without_defaults(PROXY_CONFIG, &self.fields),
            ..config
        })
    }
}

impl ProxyConfig {
    /// For the log: without secrets.
    pub(crate) fn to_yaml(&self) -> String {
        print::yaml(&self.json)
    }
}

fn document(text: &str) -> anyhow::Result<Option<Value>> {
    let mut documents = yaml::documents(text)?;
    match documents.len() {
        0 => Ok(None),
        1 => Ok(documents.pop()),
        n => bail!("expected one YAML document, found {n}"),
    }
}

fn check(config: &ProxyConfig) -> anyhow::Result<()> {
    for (name, path) in [
        ("configPath", &config.config_path),
        ("binaryPath", &config.binary_path),
    ] {
        if path.as_os_str().is_empty() {
            bail!("{name}: must be a path");
        }
    }
    if config.drain_duration.subsec_nanos() != 0 || config.drain_duration.is_zero() {
        bail!("drainDuration: must be at least one second, and whole seconds");
    }
    let address = |name: &str, text: &str| {
        HostPort::parse(text)
            .map(drop)
            .with_context(|| name.to_owned())
    };
    address("discoveryAddress", &config.discovery_address)?;
    if let Some(text) = &config.statsd_udp_address {
        address("statsdUdpAddress", text)?;
    }
    if let Some(text) = config.tracing.as_ref().and_then(Tracing::address) {
        address("tracing", text)?;
    }
    if let Some(Tracer::Lightstep { access_token, .. }) =
        config.tracing.as_ref().map(|tracing| &tracing.tracer)
        && access_token.is_empty()
    {
        bail!("tracing.lightstep.accessToken: must be set");
    }
    for (name, service) in [
        ("envoyMetricsService.address", &config.metrics_service),
        ("envoyAccessLogService.address", &config.access_log_service),
    ] {
        if let Some(service) = service {
            address(name, &service.address)?;
        }
    }
    Ok(())
}

#[cfg(test)]
impl Default for ProxyConfig {
    fn default() -> Self {
        Layers::new().resolve().expect("the defaults are good")
    }
}

#[cfg(test)]
mod tests;
