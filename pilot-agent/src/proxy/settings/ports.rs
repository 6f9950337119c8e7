//! Our ports and the data plane's.

use anyhow::bail;

use super::env::Env;
use crate::proxy::proxy_config::ProxyConfig;

const DEFAULT_HEALTH_PORT: u16 = 15021;
const DEFAULT_PROMETHEUS_PORT: u16 = 15090;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    /// The data plane's admin, on loopback.
    pub(crate) admin: u16,
    /// The agent's own server; 0 for none.
    pub(crate) status: u16,
    /// Readiness for the kubelet.
    pub(crate) health: u16,
    /// The data plane's metrics.
    pub(crate) prometheus: u16,
    /// The data plane's metrics over mutual TLS (`ENVOY_SECURE_METRICS_PORT`).
    pub(crate) secure_metrics: Option<u16>,
    /// All metrics, merged, over mutual TLS (`ENVOY_SECURE_MERGED_METRICS_PORT`).
    pub(crate) secure_merged_metrics: Option<u16>,
}

impl Ports {
    pub(super) fn resolve(env: &Env, config: &ProxyConfig) -> anyhow::Result<Self> {
        let ports = Self {
            admin: config.proxy_admin_port,
            status: config.status_port,
            health: env.port("ENVOY_STATUS_PORT", DEFAULT_HEALTH_PORT)?,
            prometheus: env.port("ENVOY_PROMETHEUS_PORT", DEFAULT_PROMETHEUS_PORT)?,
            secure_metrics: env.optional_port("ENVOY_SECURE_METRICS_PORT")?,
            secure_merged_metrics: env.optional_port("ENVOY_SECURE_MERGED_METRICS_PORT")?,
        };
        ports.check()?;
        Ok(ports)
    }

    /// Those that listeners of the mesh must not take.
    pub(crate) fn all(&self) -> Vec<u16> {
        let mut all = vec![self.admin, self.status, self.health, self.prometheus];
        all.retain(|port| *port != 0);
        all.extend(self.secure_metrics);
        all.extend(self.secure_merged_metrics);
        all
    }

    /// Each has a number of its own, and none leaves the choice to the kernel: others must find them.
    fn check(&self) -> anyhow::Result<()> {
        let ports = [
            ("proxyAdminPort of PROXY_CONFIG", Some(self.admin)),
            (
                "statusPort of PROXY_CONFIG",
                (self.status != 0).then_some(self.status),
            ),
            ("ENVOY_STATUS_PORT", Some(self.health)),
            ("ENVOY_PROMETHEUS_PORT", Some(self.prometheus)),
            ("ENVOY_SECURE_METRICS_PORT", self.secure_metrics),
            (
                "ENVOY_SECURE_MERGED_METRICS_PORT",
                self.secure_merged_metrics,
            ),
        ];
        for (index, (name, number)) in ports.iter().enumerate() {
            let Some(number) = number else { continue };
            if *number == 0 {
                bail!("{name} 0 is not a port; choose one from 1 to 65535");
            }
            let taken = ports[..index].iter();
            if let Some((other, _)) = taken.clone().find(|(_, used)| *used == Some(*number)) {
                bail!("{name} and {other} are both {number}; give them different ports");
            }
        }
        Ok(())
    }
}
