//! What the servers are started with.

use std::fmt;

use crate::{metrics::ScrapeTarget, probe::ProbeOptions};

/// See each field.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub ports: Ports,
    /// `ENVOY_STATUS_PORT_ENABLE_PROXY_PROTOCOL`: connections to the health port begin with its header.
    pub health_proxy_protocol: bool,
    /// `METRICS_LOCALHOST_ACCESS_ONLY`: metrics are for clients on this host alone.
    pub local_metrics: bool,
    /// `--profiling`: whether `/debug/pprof` is there.
    pub profiling: bool,
    /// The data plane's metrics are at this port's `/stats/prometheus`, on this host.
    pub data_plane_metrics: u16,
    /// `PILOT_AGENT_MERGE_ENVOY_STATS`, and there is a data plane.
    pub merge_data_plane: bool,
    /// The workload's own metrics; [`ScrapeTarget::parse`].
    pub scrape_targets: Vec<ScrapeTarget>,
    pub probes: ProbeOptions,
}

/// Where to listen; what is `None` is not served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    pub status: Option<u16>,
    /// Envoy has a listener of its own here, which asks the status port.
    pub health: Option<u16>,
    /// Envoy has a listener of its own here too.
    pub prometheus: Option<u16>,
}

/// Which server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Status,
    Health,
    Prometheus,
}

impl Port {
    /// Where its number comes from.
    pub fn origin(self) -> &'static str {
        match self {
            Self::Status => "statusPort of PROXY_CONFIG",
            Self::Health => "ENVOY_STATUS_PORT",
            Self::Prometheus => "ENVOY_PROMETHEUS_PORT",
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status => "status",
            Self::Health => "health",
            Self::Prometheus => "prometheus",
        })
    }
}
