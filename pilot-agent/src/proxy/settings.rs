//! Everything that arguments, environment and files say, resolved once at the start.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use ithildin_istio_config::{DataPlane, Interception, Locality, Node, NodeKind};
use ithildin_spiffe::workload_api::{ENDPOINT_ENV, EndpointError, WorkloadEndpoint};
use ithildin_xds::SdsOptions;
use serde_json::{Map, Value};
use tracing::warn;

use super::{
    args::{Args, DataPlaneKind, Kind},
    duration, metadata,
    proxy_config::ProxyConfig,
};

/// Istio's trust domain where none is configured.
const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
const DEFAULT_HEALTH_PORT: u16 = 15021;
const DEFAULT_PROMETHEUS_PORT: u16 = 15090;
/// More workers than the largest machine has processors are a slip of the pen.
const MAX_CONCURRENCY: u32 = 1024;
/// Istio's `MINIMUM_DRAIN_DURATION`.
const DEFAULT_MINIMUM_DRAIN: Duration = Duration::from_secs(5);

/// The resolved configuration of the agent.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) node: Node,
    /// `sidecar~10.0.0.1~pod.namespace~domain`.
    pub(crate) node_id: String,
    pub(crate) node_cluster: String,
    pub(crate) metadata: Map<String, Value>,
    pub(crate) config_dir: PathBuf,
    pub(crate) workload_api: WorkloadEndpoint,
    pub(crate) sds: SdsOptions,
    pub(crate) ports: Ports,
    pub(crate) proxy_config: ProxyConfig,
    /// Worker threads; at least 1.
    pub(crate) concurrency: usize,
    pub(crate) drain: Drain,
    pub(crate) envoy: EnvoySettings,
    /// The workload's own metrics, to be merged.
    pub(crate) scrape: Option<Scrape>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    /// The data plane's admin, on loopback.
    pub(crate) admin: u16,
    /// The agent's own server.
    pub(crate) status: u16,
    /// Readiness for the kubelet.
    pub(crate) health: u16,
    /// The data plane's metrics.
    pub(crate) prometheus: u16,
}

/// How the end goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drain {
    pub(crate) termination: Duration,
    /// End when no connection is left, but not before `minimum`.
    pub(crate) until_idle: bool,
    pub(crate) minimum: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct EnvoySettings {
    pub(crate) binary: PathBuf,
    pub(crate) delta: bool,
    pub(crate) log_level: String,
    pub(crate) component_log_level: String,
}

/// Where the workload's metrics are (`ISTIO_PROMETHEUS_ANNOTATIONS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scrape {
    pub(crate) port: u16,
    pub(crate) path: String,
}

/// Environment variables by name.
pub(crate) type Env = BTreeMap<String, String>;

impl Settings {
    /// # Errors
    /// The first thing that is wrong, with the variable, flag or file that says it.
    pub(crate) fn resolve(args: &Args, env: &Env) -> anyhow::Result<Self> {
        let proxy_config = proxy_config(args, env)?;
        let ports = Ports {
            admin: proxy_config.proxy_admin_port,
            status: proxy_config.status_port,
            health: port(env, "ENVOY_STATUS_PORT", DEFAULT_HEALTH_PORT)?,
            prometheus: port(env, "ENVOY_PROMETHEUS_PORT", DEFAULT_PROMETHEUS_PORT)?,
        };
        ports.check()?;
        let raw = metadata::raw(env, &proxy_config.metadata)?;
        let node = node(args, env, &raw, &ports)?;
        let given = |name: &str| env.get(name).filter(|value| !value.is_empty());
        let domain = args
            .domain
            .clone()
            .unwrap_or_else(|| format!("{}.svc.{}", node.namespace, node.cluster_domain));
        let workload_api = given(ENDPOINT_ENV).ok_or(EndpointError::NotSet)?;
        Ok(Self {
            node_id: node_id(&node, &domain),
            node_cluster: node_cluster(args, &proxy_config, &node),
            metadata: metadata::complete(raw, &node, env, &ports),
            config_dir: args.config_dir.clone(),
            workload_api: WorkloadEndpoint::parse(workload_api).context(ENDPOINT_ENV)?,
            sds: SdsOptions {
                svid: args.svid.clone(),
                ..SdsOptions::default()
            },
            ports,
            concurrency: concurrency(args, env, &proxy_config)?,
            drain: drain(env, &proxy_config)?,
            envoy: EnvoySettings {
                binary: envoy_binary(env, &proxy_config),
                delta: flag(env, "ISTIO_DELTA_XDS", true)?,
                log_level: args.proxy_log_level.clone(),
                component_log_level: args.proxy_component_log_level.clone(),
            },
            scrape: scrape(env)?,
            node,
            proxy_config,
        })
    }

    pub(crate) fn is_envoy(&self) -> bool {
        self.node.data_plane == DataPlane::Envoy
    }
}

impl Ports {
    /// Each has a number of its own, and none leaves the choice to the kernel: others must find them.
    fn check(&self) -> anyhow::Result<()> {
        let ports = [
            ("proxyAdminPort of PROXY_CONFIG", self.admin),
            ("statusPort of PROXY_CONFIG", self.status),
            ("ENVOY_STATUS_PORT", self.health),
            ("ENVOY_PROMETHEUS_PORT", self.prometheus),
        ];
        for (index, (name, number)) in ports.iter().enumerate() {
            if *number == 0 {
                bail!("{name} 0 is not a port; choose one from 1 to 65535");
            }
            if let Some((other, _)) = ports[..index].iter().find(|(_, used)| used == number) {
                bail!("{name} and {other} are both {number}; give them different ports");
            }
        }
        Ok(())
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
        } = self.ports;
        write!(
            f,
            "node {}, cluster {}, data plane {:?}, configuration {}, Workload API {}, trust domain {}, \
             ports admin {admin} status {status} health {health} prometheus {prometheus}, \
             concurrency {}, interception {:?}, labels {:?}, drain {:?}",
            self.node_id,
            self.node_cluster,
            self.node.data_plane,
            self.config_dir.display(),
            self.workload_api,
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
    if let Some(text) = env.get("PROXY_CONFIG") {
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
    let given = |name: &str| env.get(name).filter(|value| !value.is_empty());
    let or = |name: &str, default: &str| given(name).map_or(default, String::as_str).to_owned();
    let name = or("POD_NAME", "proxy");
    let namespace = or("POD_NAMESPACE", "default");
    let mut node = Node::new(
        kind,
        &name,
        &namespace,
        &or("TRUST_DOMAIN", DEFAULT_TRUST_DOMAIN),
    );
    node.ips = ips(given("INSTANCE_IP"))?;
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
    node.ports.reserved = vec![ports.admin, ports.status, ports.health, ports.prometheus];
    Ok(node)
}

fn ips(given: Option<&String>) -> anyhow::Result<Vec<IpAddr>> {
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
    let limit = match env.get("ISTIO_CPU_LIMIT").filter(|text| !text.is_empty()) {
        Some(text) => text
            .parse()
            .with_context(|| format!("ISTIO_CPU_LIMIT {text:?}"))?,
        None => 0,
    };
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

fn drain(env: &Env, config: &ProxyConfig) -> anyhow::Result<Drain> {
    let minimum = match env
        .get("MINIMUM_DRAIN_DURATION")
        .filter(|text| !text.is_empty())
    {
        Some(text) => duration::parse(text).context("MINIMUM_DRAIN_DURATION")?,
        None => DEFAULT_MINIMUM_DRAIN,
    };
    Ok(Drain {
        termination: config.termination_drain_duration,
        until_idle: flag(env, "EXIT_ON_ZERO_ACTIVE_CONNECTIONS", false)?,
        minimum,
    })
}

fn envoy_binary(env: &Env, config: &ProxyConfig) -> PathBuf {
    let from_env = env.get("ENVOY_BIN").filter(|path| !path.is_empty());
    config
        .binary_path
        .clone()
        .or_else(|| from_env.map(PathBuf::from))
        .unwrap_or_else(|| "envoy".into())
}

fn scrape(env: &Env) -> anyhow::Result<Option<Scrape>> {
    const NAME: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";
    let Some(text) = env.get(NAME).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let value: Value = serde_json::from_str(text).context(NAME)?;
    let field = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    if field("scrape") != "true" {
        return Ok(None);
    }
    let or = |text: &str, default: &str| match text {
        "" => default.to_owned(),
        text => text.to_owned(),
    };
    let port = or(field("port"), "80");
    Ok(Some(Scrape {
        port: port
            .parse()
            .with_context(|| format!("{NAME}: port {port:?}"))?,
        path: or(field("path"), "/metrics"),
    }))
}

fn port(env: &Env, name: &str, default: u16) -> anyhow::Result<u16> {
    match env.get(name).filter(|text| !text.is_empty()) {
        Some(text) => text
            .parse()
            .with_context(|| format!("{name} {text:?} is not a port")),
        None => Ok(default),
    }
}

fn flag(env: &Env, name: &str, default: bool) -> anyhow::Result<bool> {
    match env.get(name).map(String::as_str) {
        None | Some("") => Ok(default),
        Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => bail!("{name} {other:?} is neither true nor false"),
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
