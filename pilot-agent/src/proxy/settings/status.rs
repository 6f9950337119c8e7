//! The agent's own servers: readiness, probes of the application, merged metrics.

use anyhow::{Context, bail};
use serde::Deserialize;

use super::{env::Env, ports::Ports};
use crate::proxy::args::Args;

const ANNOTATIONS: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";
/// Ports of a Pod's data plane that are not the application's: its metrics are not there, or would be
/// counted twice.
const RESERVED: [u16; 9] = [
    15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15090,
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StatusSettings {
    /// `ISTIO_KUBE_APP_PROBERS`: the application's probes as JSON, by path.
    pub(crate) app_probers: Option<String>,
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScrapeTarget {
    pub(crate) port: u16,
    pub(crate) path: String,
}

impl StatusSettings {
    pub(super) fn resolve(env: &Env, args: &Args, ports: &Ports) -> anyhow::Result<Self> {
        Ok(Self {
            app_probers: env.owned("ISTIO_KUBE_APP_PROBERS"),
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

/// As the injector writes it: text throughout.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Annotations {
    scrape: String,
    path: String,
    port: String,
    targets: Vec<AnnotatedTarget>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AnnotatedTarget {
    path: String,
    port: String,
}

fn scrape(env: &Env, ports: &Ports) -> anyhow::Result<Vec<ScrapeTarget>> {
    let Some(text) = env.text(ANNOTATIONS) else {
        return Ok(Vec::new());
    };
    let annotations: Annotations = serde_json::from_str(text).context(ANNOTATIONS)?;
    if annotations.scrape == "false" {
        return Ok(Vec::new());
    }
    if !annotations.targets.is_empty() {
        let targets = annotations.targets.iter();
        return targets
            .map(|target| target_of(&target.port, &target.path, ports))
            .collect();
    }
    let port = match annotations.port.as_str() {
        "" => "80",
        port => port,
    };
    Ok(vec![target_of(port, &annotations.path, ports)?])
}

fn target_of(port: &str, path: &str, ports: &Ports) -> anyhow::Result<ScrapeTarget> {
    let number = port.parse().ok().filter(|number| *number != 0);
    let number: u16 = number.with_context(|| format!("{ANNOTATIONS}: {port:?} is not a port"))?;
    if number == ports.status || RESERVED.contains(&number) {
        bail!("{ANNOTATIONS}: port {number} is the data plane's, not the application's");
    }
    let path = match path {
        "" => "/metrics",
        path => path,
    };
    Ok(ScrapeTarget {
        port: number,
        path: path.to_owned(),
    })
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

    fn targets(annotations: &str) -> anyhow::Result<Vec<(u16, String)>> {
        let scrape = resolve(&[(ANNOTATIONS, annotations)])?.scrape;
        Ok(scrape.into_iter().map(|t| (t.port, t.path)).collect())
    }

    #[test]
    fn defaults_are_istios() {
        let settings = resolve(&[]).unwrap();
        assert!(
            settings.merge_data_plane && !settings.metrics_localhost_only && settings.profiling
        );
        assert!(settings.probes.http2 && !settings.probes.keepalive && !settings.probes.localhost);
        assert!(settings.scrape.is_empty() && settings.app_probers.is_none());
    }

    #[test]
    fn where_the_application_has_metrics() {
        for (text, expected) in [
            (
                r#"{"scrape":"true","port":"9","path":"/m"}"#,
                vec![(9, "/m")],
            ),
            (r#"{"scrape":"","port":"9"}"#, vec![(9, "/metrics")]),
            (r#"{"scrape":"true"}"#, vec![(80, "/metrics")]),
            (r#"{"scrape":"false","port":"15090"}"#, vec![]),
            (
                r#"{"scrape":"true","targets":[{"port":"1","path":"/a"},{"port":"2"}]}"#,
                vec![(1, "/a"), (2, "/metrics")],
            ),
        ] {
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(p, s)| (p, s.to_owned()))
                .collect();
            assert_eq!(targets(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_name_their_variable() {
        for (name, value) in [
            (ANNOTATIONS, "{"),
            (ANNOTATIONS, r#"{"scrape":"true","port":"http"}"#),
            (ANNOTATIONS, r#"{"scrape":"true","port":"0"}"#),
            (ANNOTATIONS, r#"{"scrape":"true","port":"015020"}"#),
            (
                ANNOTATIONS,
                r#"{"scrape":"true","targets":[{"port":"15090"}]}"#,
            ),
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
