//! The agent's own servers: readiness, probes of the application, merged metrics.

use ithildin_status::{
    AppProbers, PROBERS_ENV, ProberError, SCRAPE_ENV, ScrapeTarget, TargetError,
};

use super::{env::Env, ports::Ports};
use crate::proxy::args::Args;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StatusSettings {
    /// The application's probes (`ISTIO_KUBE_APP_PROBERS`).
    pub(crate) app_probers: AppProbers,
    /// Where the application's metrics are (`ISTIO_PROMETHEUS_ANNOTATIONS`).
    pub(crate) scrape: Vec<ScrapeTarget>,
    /// Whether the data plane's metrics are among the merged (`PILOT_AGENT_MERGE_ENVOY_STATS`).
    pub(crate) merge_data_plane: bool,
    /// Whether metrics are for this host alone (`METRICS_LOCALHOST_ACCESS_ONLY`).
    pub(crate) metrics_localhost_only: bool,
    /// `--profiling`.
    pub(crate) profiling: bool,
    pub(crate) probes: ProbeSettings,
}

/// How the application's probes are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbeSettings {
    /// Offer HTTP/2 to HTTPS probes (`ISTIO_ENABLE_HTTP2_PROBING`).
    pub(crate) http2: bool,
    /// Keep connections between probes (`ENABLE_PROBE_KEEPALIVE_CONNECTIONS`).
    pub(crate) keepalive: bool,
    /// Probe localhost in place of the Pod's address (`REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION`).
    pub(crate) localhost: bool,
}

impl StatusSettings {
    pub(super) fn resolve(env: &Env, args: &Args, ports: &Ports) -> anyhow::Result<Self> {
        Ok(Self {
            app_probers: probers(env)?,
            scrape: scrape(env, ports)?,
            merge_data_plane: env.flag("PILOT_AGENT_MERGE_ENVOY_STATS", true)?,
            metrics_localhost_only: env.flag("METRICS_LOCALHOST_ACCESS_ONLY", false)?,
            profiling: args.profiling,
            probes: ProbeSettings {
                http2: env.flag("ISTIO_ENABLE_HTTP2_PROBING", true)?,
                keepalive: env.flag("ENABLE_PROBE_KEEPALIVE_CONNECTIONS", false)?,
                localhost: env.flag("REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION", false)?,
            },
        })
    }
}

fn probers(env: &Env) -> Result<AppProbers, ProberError> {
    match env.text(PROBERS_ENV) {
        Some(text) => AppProbers::parse(text),
        None => Ok(AppProbers::default()),
    }
}

fn scrape(env: &Env, ports: &Ports) -> Result<Vec<ScrapeTarget>, TargetError> {
    match env.text(SCRAPE_ENV) {
        Some(text) => ScrapeTarget::parse(text, ports.status),
        None => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{args, proxy_config::ProxyConfig};

    fn resolve(variables: &[(&str, &str)]) -> anyhow::Result<StatusSettings> {
        let env = variables.iter().copied().collect();
        let ports = Ports::resolve(&env, &ProxyConfig::default())?;
        StatusSettings::resolve(&env, &args::tests::parse(&[]).unwrap(), &ports)
    }

    #[test]
    fn defaults_are_istios() {
        let settings = resolve(&[]).unwrap();
        assert!(
            settings.merge_data_plane && !settings.metrics_localhost_only && settings.profiling
        );
        assert!(settings.probes.http2 && !settings.probes.keepalive && !settings.probes.localhost);
        assert!(settings.scrape.is_empty() && settings.app_probers == AppProbers::default());
    }

    #[test]
    fn mistakes_name_their_variable() {
        for (name, value) in [
            (PROBERS_ENV, r#"{"/livez":{}}"#),
            (SCRAPE_ENV, r#"{"scrape":"true","port":"http"}"#),
            ("PILOT_AGENT_MERGE_ENVOY_STATS", "?"),
            ("METRICS_LOCALHOST_ACCESS_ONLY", "?"),
            ("ISTIO_ENABLE_HTTP2_PROBING", "?"),
            ("ENABLE_PROBE_KEEPALIVE_CONNECTIONS", "?"),
            ("REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION", "?"),
            ("ENVOY_SECURE_METRICS_PORT", "70000"),
        ] {
            let error = format!("{:#}", resolve(&[(name, value)]).unwrap_err());
            assert!(error.starts_with(name), "{value:?}: {error}");
        }
    }
}
