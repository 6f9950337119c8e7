//! Everything that arguments, environment and files say, resolved once at the start.
//!
//! One part for each neighbour that reads it. Every variable is read in this folder, so that one place
//! says what is understood.

mod ca;
mod dns;
mod drain;
mod effect;
mod env;
mod envoy;
mod headers;
mod host;
mod identity;
mod istiod;
mod node;
mod ports;
mod roots;
mod status;
mod wasm;

use std::{collections::BTreeMap, fmt, fs, path::PathBuf, thread};

use anyhow::{Context, bail};
use ithildin_istio_config::{DataPlane, Node};
use ithildin_istiod::discovery;
use ithildin_proto::pb::envoy::config::core::v3 as core;
use ithildin_xds::SdsOptions;
use serde_json::{Map, Value, json};

pub(crate) use self::{
    ca::{CaSettings, CertificateFiles, KeyKind},
    dns::DnsSettings,
    drain::Drain,
    env::Env,
    envoy::{Compliance, EnvoySettings},
    host::Host,
    identity::IdentitySettings,
    istiod::{HostPort, IstiodAuth, IstiodSettings},
    ports::Ports,
    roots::{Root, RootError},
    status::StatusSettings,
};
use super::{
    args::{Args, DataPlaneKind, Kind},
    metadata::{self, Labels, Typed},
    proxy_config::{ControlPlaneAuth, Layers, ProxyConfig},
};

/// More workers than the largest machine has processors are a slip of the pen.
const MAX_CONCURRENCY: u32 = 1024;

/// The resolved configuration of the agent.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) node: Node,
    pub(crate) kind: Kind,
    /// `sidecar~10.0.0.1~pod.namespace~domain`.
    pub(crate) node_id: String,
    pub(crate) node_cluster: String,
    pub(crate) metadata: Map<String, Value>,
    /// The Pod's annotations.
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) source: ConfigSource,
    pub(crate) ports: Ports,
    pub(crate) proxy_config: ProxyConfig,
    /// Worker threads; at least 1.
    pub(crate) concurrency: usize,
    pub(crate) sds: SdsOptions,
    pub(crate) istiod: IstiodSettings,
    pub(crate) ca: CaSettings,
    pub(crate) identity: IdentitySettings,
    pub(crate) dns: DnsSettings,
    pub(crate) status: StatusSettings,
    pub(crate) drain: Drain,
    pub(crate) envoy: EnvoySettings,
    /// Wasm modules for Envoy, unless it fetches them itself.
    pub(crate) wasm: Option<ithildin_wasm::Options>,
    /// What was said and nothing acts on, by name.
    pub(crate) without_effect: Vec<String>,
}

/// Where the data plane's configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConfigSource {
    /// A folder of Istio and Kubernetes YAML (`--configDir`).
    Folder(PathBuf),
    /// istiod at `discoveryAddress`.
    Istiod,
}

impl Settings {
    /// Resolves them on this host.
    ///
    /// # Errors
    /// The first thing that is wrong, with the variable, flag or file that says it.
    pub(crate) fn resolve(args: &Args, env: &Env) -> anyhow::Result<Self> {
        Self::resolve_on(args, env, &Host::discover())
    }

    pub(crate) fn resolve_on(args: &Args, env: &Env, host: &Host) -> anyhow::Result<Self> {
        let layers = layers(args, env, host)?;
        let proxy_config = layers.resolve().context("the proxy configuration")?;
        let ports = Ports::resolve(env, &proxy_config)?;
        let mut raw = metadata::raw(env, &proxy_config.metadata)?;
        if host.credential_socket {
            raw.insert("credential".into(), "true".into());
        }
        let labels = Labels::resolve(env, &mut raw, host.labels.as_ref())?;
        let ips = node::ips(args, env, host)?;
        let node = node::node(args, env, &raw, &labels, &ports, ips)?;
        let domain = args
            .domain
            .clone()
            .unwrap_or_else(|| format!("{}.svc.{}", node.namespace, node.cluster_domain));
        let envoy = EnvoySettings::resolve(env, args, &proxy_config, &layers)?;
        let drain = Drain::resolve(env, &proxy_config)?;
        let istiod = IstiodSettings::resolve(env, &proxy_config)?;
        let source = source(args)?;
        let node_cluster = node::cluster(args, &proxy_config, &node, &raw);
        let typed = Typed {
            name: &node.name,
            namespace: &node.namespace,
            service_account: env.text("SERVICE_ACCOUNT"),
            ips: &node.ips,
            labels: &labels,
            annotations: &host.annotations,
            ports: &ports,
            envoy: &envoy,
            proxy_config: &proxy_config.json,
            exit_on_zero: drain.until_idle,
            sts_port: args.legacy.sts_port,
            pilot_san: pilot_san(&istiod),
        };
        Ok(Self {
            metadata: typed.complete(raw),
            annotations: host.annotations.clone(),
            kind: args.kind,
            node_id: node::id(args.kind, &node, &domain),
            node_cluster,
            source,
            sds: identity::sds(env, &proxy_config, args.svid.clone())?,
            ports,
            concurrency: concurrency(&proxy_config)?,
            istiod,
            ca: CaSettings::resolve(env, &proxy_config)?,
            identity: IdentitySettings::resolve(env)?,
            dns: DnsSettings::resolve(env, node.kind)?,
            status: StatusSettings::resolve(env, args, &ports)?,
            drain,
            wasm: wasm::resolve(env)?,
            without_effect: effect::without_effect(args, env, &layers, &proxy_config, &envoy),
            envoy,
            node,
            proxy_config,
        })
    }

    /// The node of the first request to istiod. Built by hand: reading it from JSON would take the
    /// descriptors of all of Envoy's messages.
    pub(crate) fn xds_node(&self) -> core::Node {
        let here = self.node.locality.clone().unwrap_or_default();
        core::Node {
            locality: Some(core::Locality {
                region: here.region,
                zone: here.zone,
                sub_zone: here.sub_zone,
            }),
            ..discovery::node(&self.node_id, &self.node_cluster, &self.metadata)
        }
    }

    /// The same as JSON, for Envoy's bootstrap.
    pub(crate) fn node_json(&self) -> Value {
        let mut locality = Map::new();
        if let Some(here) = &self.node.locality {
            for (key, value) in [
                ("region", &here.region),
                ("zone", &here.zone),
                ("sub_zone", &here.sub_zone),
            ] {
                if !value.is_empty() {
                    locality.insert(key.to_owned(), value.as_str().into());
                }
            }
        }
        json!({
            "id": self.node_id,
            "cluster": self.node_cluster,
            "locality": locality,
            "metadata": self.metadata,
        })
    }

    /// Whether configuration and secrets are served to another process: Envoy, or with `DISABLE_ENVOY`
    /// whoever comes.
    pub(crate) fn is_envoy(&self) -> bool {
        self.node.data_plane == DataPlane::Envoy || self.envoy.disabled
    }

    /// Whether there is an Envoy, whose bootstrap has listeners for metrics and readiness.
    pub(crate) fn runs_envoy(&self) -> bool {
        self.is_envoy() && !self.envoy.disabled
    }
}

/// One line for the log; there is nothing secret in it.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ports {
            admin,
            status,
            health,
            prometheus,
            ..
        } = self.ports;
        write!(
            f,
            "node {}, cluster {}, data plane {:?}, configuration ",
            self.node_id, self.node_cluster, self.node.data_plane
        )?;
        match &self.source {
            ConfigSource::Folder(folder) => write!(f, "{}", folder.display())?,
            ConfigSource::Istiod => write!(f, "istiod at {}", self.istiod.address)?,
        }
        if let Some(endpoint) = &self.identity.endpoint {
            write!(f, ", Workload API {endpoint}")?;
        }
        write!(
            f,
            ", trust domain {}, ports admin {admin} status {status} health {health} prometheus {prometheus}, \
             concurrency {}, interception {:?}, labels {:?}, drain {:?}",
            self.node.trust_domain,
            self.concurrency,
            self.node.interception,
            self.node.labels,
            self.drain,
        )
    }
}

/// Istio's defaults, the mesh file, `PROXY_CONFIG` and the Pod's annotations, the later on top; flags and
/// limits where these leave something open.
fn layers(args: &Args, env: &Env, host: &Host) -> anyhow::Result<Layers> {
    let mut layers = Layers::new();
    let file = &args.mesh_config;
    match fs::read_to_string(file) {
        Ok(text) => {
            let merged = layers.merge_mesh(&text);
            merged.with_context(|| format!("--meshConfig {}", file.display()))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => bail!("--meshConfig {}: {error}", file.display()),
    }
    if let Some(text) = env.text("PROXY_CONFIG") {
        layers.merge(text).context("PROXY_CONFIG")?;
    }
    let annotation = |name: &'static str| Some((name, host.annotation(name)?));
    if let Some((name, text)) = annotation("proxy.istio.io/config") {
        layers
            .merge(text)
            .with_context(|| format!("annotation {name}"))?;
    }
    let limit = env.number("ISTIO_CPU_LIMIT", 0, 0..=MAX_CONCURRENCY)?;
    if args.concurrency != 0 {
        layers
            .set("concurrency", args.concurrency)
            .context("--concurrency")?;
    } else if limit != 0 && !layers.is_set("concurrency") {
        layers
            .set("concurrency", limit)
            .context("ISTIO_CPU_LIMIT")?;
    }
    for (annotated, field) in [
        ("sidecar.istio.io/discoveryAddress", "discoveryAddress"),
        ("status.sidecar.istio.io/port", "statusPort"),
    ] {
        if let Some((name, value)) = annotation(annotated) {
            let set = layers.set(field, value);
            set.with_context(|| format!("annotation {name}"))?;
        }
    }
    if let Some(file) = &args.template_file
        && !layers.is_given("customConfigFile")
    {
        layers.set("proxyBootstrapTemplatePath", file.display().to_string())?;
    }
    Ok(layers)
}

fn source(args: &Args) -> anyhow::Result<ConfigSource> {
    let known = matches!(args.kind, Kind::Sidecar | Kind::Router);
    match &args.config_dir {
        Some(_) if !known => {
            bail!(
                "a {} is configured by istiod: leave --configDir out",
                args.kind.as_str()
            )
        }
        Some(folder) => Ok(ConfigSource::Folder(folder.clone())),
        None if !known && args.data_plane == DataPlaneKind::Builtin => {
            bail!("a {} needs --dataPlane envoy", args.kind.as_str())
        }
        None => Ok(ConfigSource::Istiod),
    }
}

/// The name that istiod's certificate has: a forwarded port on this host leads to the usual one.
fn pilot_san(istiod: &IstiodSettings) -> Option<String> {
    match (istiod.auth, istiod.address.host.as_str()) {
        (ControlPlaneAuth::None, _) => None,
        (ControlPlaneAuth::MutualTls, "localhost") => Some("istiod.istio-system.svc".into()),
        (ControlPlaneAuth::MutualTls, host) => Some(host.into()),
    }
}

fn concurrency(config: &ProxyConfig) -> anyhow::Result<usize> {
    Ok(match config.concurrency {
        None | Some(0) => thread::available_parallelism().map_or(1, usize::from),
        Some(n) if n > MAX_CONCURRENCY => {
            bail!(
                "concurrency {n} is more than {MAX_CONCURRENCY} worker threads; 0 means one for each processor"
            )
        }
        Some(n) => n as usize,
    })
}

#[cfg(test)]
mod documented;
#[cfg(test)]
mod tests;
