//! The arguments of `pilot-agent proxy`: Istio's, and a few of our own.

use std::path::PathBuf;

use clap::ValueEnum;
use ithildin_spiffe::SvidSelector;

use crate::svid;

/// Run a proxy: identity, secrets, configuration and the data plane
///
/// A router is a gateway; a sidecar serves one workload in both directions. Configuration comes from
/// istiod, or from a folder of Istio and Kubernetes YAML, which is followed. Identities come from the
/// SPIFFE Workload API, from files or from istiod's CA. Flags and variables are those of Istio's agent;
/// flags that nobody knows are left out, and named in a warning.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  Beside a workload under istiod, as Istio's injection template starts it:
    pilot-agent proxy sidecar --domain $POD_NAMESPACE.svc.cluster.local --proxyLogLevel=warning
  A gateway on a folder of YAML, with a real Envoy:
    ISTIO_META_LABELS=istio=ingressgateway pilot-agent proxy router --configDir ./istio --dataPlane envoy
  Beside a workload without istiod, which calls the proxy's ports:
    ISTIO_META_INTERCEPTION_MODE=NONE pilot-agent proxy sidecar --configDir ./istio

Environment (as Istio's agent reads it; pilot-agent/COMPATIBILITY.md has all of it):
  SPIFFE_ENDPOINT_SOCKET      the Workload API: unix:///path or tcp://ip:port
  ITHILDIN_IDENTITY           auto (by what is there), spire, files or istiod
  PROXY_CONFIG                YAML: configPath, binaryPath, proxyAdminPort (15000), statusPort (15020),
                              concurrency, drainDuration (45s), terminationDrainDuration (5s), proxyMetadata
  ENVOY_STATUS_PORT           readiness for the kubelet, /healthz/ready (15021)
  ENVOY_PROMETHEUS_PORT       the data plane's metrics, /stats/prometheus (15090)
  POD_NAME, POD_NAMESPACE, INSTANCE_IP, TRUST_DOMAIN
  ISTIO_META_LABELS           outside a Pod, the labels by which Gateways and workloads are selected: a=b,c=d
  ISTIO_META_*                node metadata, such as ISTIO_META_INTERCEPTION_MODE=NONE
  ISTIO_METAJSON_*            the same as JSON objects, such as ISTIO_METAJSON_LABELS={\"app\":\"web\"}
  EXIT_ON_ZERO_ACTIVE_CONNECTIONS, MINIMUM_DRAIN_DURATION
  ISTIO_BOOTSTRAP_OVERRIDE    YAML that Envoy merges into its bootstrap
  ENVOY_BIN                   Envoy, if PROXY_CONFIG has no binaryPath

Two agents run on one host if their ports differ: proxyAdminPort, statusPort, ENVOY_STATUS_PORT and
ENVOY_PROMETHEUS_PORT.")]
pub(crate) struct Args {
    #[arg(value_name = "TYPE", value_enum, default_value = "sidecar")]
    pub(crate) kind: Kind,
    /// Folder of Istio and Kubernetes YAML
    ///
    /// Without it, istiod at discoveryAddress is asked.
    #[arg(long = "configDir", value_name = "DIR")]
    pub(crate) config_dir: Option<PathBuf>,
    /// What carries the traffic
    #[arg(
        long = "dataPlane",
        env = "ITHILDIN_DATA_PLANE",
        value_enum,
        default_value = "builtin"
    )]
    pub(crate) data_plane: DataPlaneKind,
    /// Which SVID is ours: a SPIFFE ID, hint:<hint>, trust-domain:<name>, or default for the first
    #[arg(
        long,
        env = "ITHILDIN_SVID",
        value_name = "SELECTOR",
        default_value = "default",
        value_parser = svid::parse
    )]
    pub(crate) svid: SvidSelector,
    /// DNS domain of the node; <namespace>.svc.cluster.local by default
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// Mesh configuration, of which defaultConfig is read
    #[arg(
        long = "meshConfig",
        value_name = "FILE",
        default_value = "./etc/istio/config/mesh"
    )]
    pub(crate) mesh_config: PathBuf,
    /// Worker threads; 0 leaves it to PROXY_CONFIG
    #[arg(long, default_value_t = 0)]
    pub(crate) concurrency: u32,
    /// Envoy's log level
    #[arg(
        long = "proxyLogLevel",
        value_name = "LEVEL",
        default_value = "warning"
    )]
    pub(crate) proxy_log_level: String,
    /// Envoy's log levels by component, such as http:debug
    #[arg(
        long = "proxyComponentLogLevel",
        value_name = "LEVELS",
        default_value = ""
    )]
    pub(crate) proxy_component_log_level: String,
    /// Envoy's --service-cluster
    #[arg(
        long = "serviceCluster",
        value_name = "NAME",
        default_value = "istio-proxy"
    )]
    pub(crate) service_cluster: String,
    /// A bootstrap of your own in place of the generated one
    #[arg(long = "templateFile", value_name = "FILE")]
    pub(crate) template_file: Option<PathBuf>,
    /// Where Envoy logs ejected endpoints
    #[arg(long = "outlierLogPath", value_name = "FILE")]
    pub(crate) outlier_log_path: Option<String>,
    /// Profiles of the agent over HTTP, to this host alone
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub(crate) profiling: bool,
    /// `--log_as_json`, which is a flag of all commands
    #[arg(skip)]
    pub(crate) log_as_json: bool,
    #[command(flatten)]
    pub(crate) legacy: Legacy,
}

/// Flags of Istio's agent that old manifests pass and that have nothing to act on here.
#[derive(Debug, clap::Args)]
pub(crate) struct Legacy {
    /// It is told to istiod, and nothing listens there
    #[arg(
        long = "stsPort",
        value_name = "PORT",
        hide = true,
        default_value_t = 0
    )]
    pub(crate) sts_port: u16,
    #[arg(long = "tokenManagerPlugin", hide = true)]
    token_manager_plugin: Option<String>,
    /// What was on the command line and is not known; it is no argument itself
    #[arg(skip)]
    pub(crate) unknown: Vec<String>,
}

impl Args {
    /// What was given and has no effect, as it was written.
    pub(crate) fn without_effect(&self) -> Vec<String> {
        let mut names = self.legacy.unknown.clone();
        if self.legacy.sts_port != 0 {
            names.push("--stsPort".to_owned());
        }
        if self.legacy.token_manager_plugin.is_some() {
            names.push("--tokenManagerPlugin".to_owned());
        }
        if self.data_plane == DataPlaneKind::Builtin {
            let envoys = [
                ("--templateFile", self.template_file.is_some()),
                ("--outlierLogPath", self.outlier_log_path.is_some()),
            ];
            let given = envoys.into_iter().filter(|(_, given)| *given);
            names.extend(given.map(|(name, _)| name.to_owned()));
        }
        names
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Beside one workload
    Sidecar,
    /// A gateway
    Router,
    /// A waypoint of an ambient mesh, from istiod, with the data plane envoy
    Waypoint,
    #[value(hide = true)]
    Ztunnel,
    #[value(name = "agentgateway", hide = true)]
    AgentGateway,
}

impl Kind {
    /// As in the node id.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Router => "router",
            Self::Waypoint => "waypoint",
            Self::Ztunnel => "ztunnel",
            Self::AgentGateway => "agentgateway",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DataPlaneKind {
    /// The proxy in this process
    Builtin,
    /// Envoy as a child process
    Envoy,
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    /// The arguments of `pilot-agent proxy` with these words.
    pub(crate) fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        let fixed = ["proxy", "--meshConfig", "/nonexistent/mesh"];
        Command::try_parse_from(fixed.iter().chain(words)).map(|command| command.args)
    }
}
