//! Everything that arguments, environment and files say, resolved once at the start.
//!
//! One part for each neighbour that reads it. Every variable is read in this folder, so that one place
//! says what is understood.

mod ca;
mod dns;
mod drain;
mod env;
mod envoy;
mod headers;
mod identity;
mod istiod;
mod ports;
mod roots;
mod status;
mod wasm;

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    thread,
};

use anyhow::{Context, bail};
use ithildin_istio_config::{DataPlane, Interception, Locality, Node, NodeKind};
use ithildin_xds::SdsOptions;
use serde_json::{Map, Value};
use tracing::warn;

pub(crate) use self::{
    ca::{CaSettings, CertificateFiles, FileCertificates, KeyKind},
    dns::DnsSettings,
    drain::Drain,
    env::{Env, EnvError},
    envoy::{Compliance, EnvoySettings},
    identity::IdentitySettings,
    istiod::{HostPort, IstiodAuth, IstiodSettings, Keepalive},
    ports::Ports,
    roots::{PilotCertProvider, Root, RootError, RootRules},
    status::{ProbeSettings, StatusSettings},
    wasm::WasmSettings,
};
use super::{
    args::{Args, DataPlaneKind, Kind},
    metadata,
    proxy_config::ProxyConfig,
};

/// More workers than the largest machine has processors are a slip of the pen.
const MAX_CONCURRENCY: u32 = 1024;

/// The resolved configuration of the agent.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) node: Node,
    /// `sidecar~10.0.0.1~pod.namespace~domain`.
    pub(crate) node_id: String,
    pub(crate) node_cluster: String,
    pub(crate) metadata: Map<String, Value>,
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
    pub(crate) wasm: WasmSettings,
    pub(crate) status: StatusSettings,
    pub(crate) drain: Drain,
    pub(crate) envoy: EnvoySettings,
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
    /// # Errors
    /// The first thing that is wrong, with the variable, flag or file that says it.
    pub(crate) fn resolve(args: &Args, env: &Env) -> anyhow::Result<Self> {
        let proxy_config = proxy_config(args, env)?;
        let ports = Ports::resolve(env, &proxy_config)?;
        let raw = metadata::raw(env, &proxy_config.metadata)?;
        let node = node(args, env, &raw, &ports)?;
        let domain = args
            .domain
            .clone()
            .unwrap_or_else(|| format!("{}.svc.{}", node.namespace, node.cluster_domain));
        Ok(Self {
            node_id: node_id(&node, &domain),
            node_cluster: node_cluster(args, &proxy_config, &node),
            metadata: metadata::complete(raw, &node, env, &ports),
            source: match &args.config_dir {
                Some(folder) => ConfigSource::Folder(folder.clone()),
                None => ConfigSource::Istiod,
            },
            sds: identity::sds(env, &proxy_config, args.svid.clone())?,
            ports,
            concurrency: concurrency(args, env, &proxy_config)?,
            istiod: IstiodSettings::resolve(env, &proxy_config)?,
            ca: CaSettings::resolve(env, &proxy_config)?,
            identity: IdentitySettings::resolve(env, args.svid.clone())?,
            dns: DnsSettings::resolve(env, node.kind)?,
            wasm: WasmSettings::resolve(env)?,
            status: StatusSettings::resolve(env, args, &ports)?,
            drain: Drain::resolve(env, &proxy_config)?,
            envoy: EnvoySettings::resolve(env, args, &proxy_config)?,
            node,
            proxy_config,
        })
    }

    pub(crate) fn is_envoy(&self) -> bool {
        self.node.data_plane == DataPlane::Envoy
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

fn proxy_config(args: &Args, env: &Env) -> anyhow::Result<ProxyConfig> {
    let mut config = ProxyConfig::default();
    let file = &args.mesh_config;
    match fs::read_to_string(file) {
        Ok(text) => {
            let merged = config.merge_mesh(&text);
            merged.with_context(|| format!("--meshConfig {}", file.display()))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => bail!("--meshConfig {}: {error}", file.display()),
    }
    if let Some(text) = env.text("PROXY_CONFIG") {
        config.merge(text).context("PROXY_CONFIG")?;
    }
    if !config.ignored.is_empty() {
        warn!(
            keys = config.ignored.join(", "),
            "keys of the proxy configuration have no effect"
        );
    }
    Ok(config)
}

fn node(args: &Args, env: &Env, raw: &Map<String, Value>, ports: &Ports) -> anyhow::Result<Node> {
    let kind = match args.kind {
        Kind::Sidecar => NodeKind::Sidecar,
        Kind::Router => NodeKind::Router,
    };
    let name = env.text_or("POD_NAME", "proxy");
    let namespace = env.text_or("POD_NAMESPACE", "default");
    let trust_domain = env.text_or("TRUST_DOMAIN", identity::DEFAULT_TRUST_DOMAIN);
    let mut node = Node::new(kind, &name, &namespace, &trust_domain);
    node.ips = ips(env.text("INSTANCE_IP"))?;
    node.labels = metadata::labels(raw)?;
    let text = |key: &str| {
        raw.get(key)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    if let Some(id) = text("CLUSTER_ID") {
        node.cluster_id = id.to_owned();
    }
    node.locality = text("LOCALITY").map(Locality::parse);
    node.interception = match text("INTERCEPTION_MODE") {
        None | Some("REDIRECT") => Interception::Redirect,
        Some("TPROXY") => Interception::Tproxy,
        Some("NONE") => Interception::None,
        Some(other) => {
            bail!("ISTIO_META_INTERCEPTION_MODE {other:?} is none of REDIRECT, TPROXY and NONE")
        }
    };
    node.data_plane = match args.data_plane {
        DataPlaneKind::Builtin => DataPlane::Builtin,
        DataPlaneKind::Envoy => DataPlane::Envoy,
    };
    node.unprivileged = text("UNPRIVILEGED_POD") == Some("true");
    if let Some(port) = text("HTTP_PROXY_PORT") {
        node.ports.http_proxy = Some(port.parse().context("ISTIO_META_HTTP_PROXY_PORT")?);
    }
    node.ports.reserved = ports.all();
    Ok(node)
}

fn ips(given: Option<&str>) -> anyhow::Result<Vec<IpAddr>> {
    let Some(text) = given else {
        return Ok(vec![Ipv4Addr::LOCALHOST.into()]);
    };
    let parse = |ip: &str| {
        ip.trim()
            .parse()
            .with_context(|| format!("INSTANCE_IP {ip:?}"))
    };
    text.split(',').map(parse).collect()
}

fn node_id(node: &Node, domain: &str) -> String {
    let kind = match node.kind {
        NodeKind::Router => "router",
        NodeKind::Sidecar => "sidecar",
    };
    let ip = node.ips.first().map(IpAddr::to_string).unwrap_or_default();
    format!("{kind}~{ip}~{}.{}~{domain}", node.name, node.namespace)
}

/// Istio's default: `<app>.<namespace>`.
fn node_cluster(args: &Args, config: &ProxyConfig, node: &Node) -> String {
    if let Some(name) = &config.service_cluster {
        return name.clone();
    }
    match node.labels.get("app") {
        Some(app) => format!("{app}.{}", node.namespace),
        None => format!("{}.{}", args.service_cluster, node.namespace),
    }
}

fn concurrency(args: &Args, env: &Env, config: &ProxyConfig) -> anyhow::Result<usize> {
    let all = || thread::available_parallelism().map_or(1, usize::from);
    let limit = env.number("ISTIO_CPU_LIMIT", 0, 0..=u32::MAX)?;
    let configured = match (args.concurrency, config.concurrency) {
        (0, Some(configured)) => configured,
        (0, None) => limit,
        (given, _) => given,
    };
    Ok(match configured {
        0 => all(),
        n if n > MAX_CONCURRENCY => {
            bail!(
                "concurrency {n} is more than {MAX_CONCURRENCY} worker threads; 0 means one for each processor"
            )
        }
        n => n as usize,
    })
}

#[cfg(test)]
mod tests;
