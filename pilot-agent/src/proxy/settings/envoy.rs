//! What concerns the data plane's process and its bootstrap.

use std::path::PathBuf;

use super::{env::Env, identity};
use crate::proxy::{
    args::Args,
    proxy_config::{Layers, ProxyConfig},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EnvoySettings {
    /// `binaryPath` where a layer of the proxy configuration has it, else `ENVOY_BIN`.
    pub(crate) binary: PathBuf,
    /// `--proxyLogLevel`.
    pub(crate) log_level: String,
    /// `--proxyComponentLogLevel`.
    pub(crate) component_log_level: String,
    /// One JSON object per line of the log (`--log_as_json`).
    pub(crate) log_as_json: bool,
    /// No data plane at all: the agent serves identities and configuration (`DISABLE_ENVOY`).
    pub(crate) disabled: bool,
    /// A template for the bootstrap: `ISTIO_BOOTSTRAP`, else `proxyBootstrapTemplatePath`, which
    /// `--templateFile` sets.
    pub(crate) template: Option<PathBuf>,
    /// Merged into the bootstrap (`ISTIO_BOOTSTRAP_OVERRIDE`).
    pub(crate) bootstrap_override: Option<PathBuf>,
    /// Where ejections of endpoints are logged (`--outlierLogPath`).
    pub(crate) outlier_log: Option<String>,
    /// `ENVOY_SKIP_DEPRECATED_LOGS`.
    pub(crate) skip_deprecated_logs: bool,
    /// `ISTIO_ENVOY_ENABLE_CORE_DUMP`.
    pub(crate) core_dump: bool,
    /// `ISTIO_DUAL_STACK`.
    pub(crate) dual_stack: bool,
    /// Readiness behind the PROXY protocol (`ENVOY_STATUS_PORT_ENABLE_PROXY_PROTOCOL`).
    pub(crate) health_proxy_protocol: bool,
    /// `ISTIO_META_ENABLE_SELF_DISCOVERY`.
    pub(crate) self_discovery: bool,
    /// `PEER_METADATA_DISCOVERY`, where it is said.
    pub(crate) metadata_discovery: Option<bool>,
    /// Envoy strips `#fragment` from paths; else it refuses them
    /// (`HTTP_STRIP_FRAGMENT_FROM_PATH_UNSAFE_IF_DISABLED`).
    pub(crate) strip_fragment: bool,
    pub(crate) compliance: Option<Compliance>,
    /// `WORKLOAD_IDENTITY_SOCKET_FILE`.
    pub(crate) workload_socket_file: String,
    /// `HOST_IP`, for `$(HOST_IP)` in the override.
    pub(crate) host_ip: Option<String>,
}

/// `COMPLIANCE_POLICY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compliance {
    Fips140_2,
    Fips140_3,
    PostQuantum,
}

impl EnvoySettings {
    pub(super) fn resolve(
        env: &Env,
        args: &Args,
        config: &ProxyConfig,
        layers: &Layers,
    ) -> anyhow::Result<Self> {
        let binary = match env.text("ENVOY_BIN") {
            Some(path) if !layers.is_given("binaryPath") => path.into(),
            _ => config.binary_path.clone(),
        };
        let template = env.owned("ISTIO_BOOTSTRAP").map(PathBuf::from);
        let compliance = env.choice(
            "COMPLIANCE_POLICY",
            "",
            &[
                ("", None),
                ("fips-140-2", Some(Compliance::Fips140_2)),
                ("fips-140-3", Some(Compliance::Fips140_3)),
                ("pqc", Some(Compliance::PostQuantum)),
            ],
        )?;
        Ok(Self {
            binary,
            log_level: args.proxy_log_level.clone(),
            component_log_level: args.proxy_component_log_level.clone(),
            log_as_json: args.log_as_json,
            disabled: env.flag("DISABLE_ENVOY", false)?,
            template: template.or_else(|| config.template.clone()),
            bootstrap_override: env.owned("ISTIO_BOOTSTRAP_OVERRIDE").map(PathBuf::from),
            outlier_log: args.outlier_log_path.clone(),
            skip_deprecated_logs: env.flag("ENVOY_SKIP_DEPRECATED_LOGS", true)?,
            core_dump: env.flag("ISTIO_ENVOY_ENABLE_CORE_DUMP", false)?,
            dual_stack: env.flag("ISTIO_DUAL_STACK", false)?,
            health_proxy_protocol: env.flag("ENVOY_STATUS_PORT_ENABLE_PROXY_PROTOCOL", false)?,
            self_discovery: env.flag("ISTIO_META_ENABLE_SELF_DISCOVERY", false)?,
            metadata_discovery: env.optional_flag("PEER_METADATA_DISCOVERY")?,
            strip_fragment: env.flag("HTTP_STRIP_FRAGMENT_FROM_PATH_UNSAFE_IF_DISABLED", true)?,
            compliance,
            workload_socket_file: identity::socket_file(env)?,
            host_ip: env.owned("HOST_IP"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::args;

    const TEMPLATE: &str = "/b";

    fn resolve(words: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<EnvoySettings> {
        let env = variables.iter().copied().collect();
        let args = args::tests::parse(words)?;
        EnvoySettings::resolve(&env, &args, &ProxyConfig::default(), &Layers::new())
    }

    #[test]
    fn defaults_are_istios() {
        let settings = resolve(&[], &[]).unwrap();
        assert_eq!(settings.binary, PathBuf::from("/usr/local/bin/envoy"));
        assert_eq!(settings.log_level, "warning");
        assert!(settings.skip_deprecated_logs && settings.strip_fragment);
        assert!(!settings.disabled && !settings.core_dump && !settings.dual_stack);
        assert_eq!(
            (settings.compliance, settings.metadata_discovery),
            (None, None)
        );
        assert_eq!(
            (settings.template, settings.workload_socket_file.as_str()),
            (None, "socket")
        );
    }

    #[test]
    fn who_wins() {
        let settings = resolve(
            &["--templateFile", "/t", "--outlierLogPath=/dev/stdout"],
            &[
                ("ISTIO_BOOTSTRAP", TEMPLATE),
                ("ENVOY_BIN", "/envoy"),
                ("COMPLIANCE_POLICY", "fips-140-2"),
                ("PEER_METADATA_DISCOVERY", "false"),
            ],
        )
        .unwrap();
        assert_eq!(settings.template, Some(TEMPLATE.into()));
        assert_eq!(settings.binary, PathBuf::from("/envoy"));
        assert_eq!(settings.outlier_log.as_deref(), Some("/dev/stdout"));
        assert_eq!(settings.compliance, Some(Compliance::Fips140_2));
        assert_eq!(settings.metadata_discovery, Some(false));
    }

    #[test]
    fn mistakes_name_their_variable() {
        for name in [
            "DISABLE_ENVOY",
            "ENVOY_SKIP_DEPRECATED_LOGS",
            "ISTIO_ENVOY_ENABLE_CORE_DUMP",
            "ISTIO_DUAL_STACK",
            "ENVOY_STATUS_PORT_ENABLE_PROXY_PROTOCOL",
            "ISTIO_META_ENABLE_SELF_DISCOVERY",
            "PEER_METADATA_DISCOVERY",
            "HTTP_STRIP_FRAGMENT_FROM_PATH_UNSAFE_IF_DISABLED",
            "COMPLIANCE_POLICY",
        ] {
            let error = format!("{:#}", resolve(&[], &[(name, "?")]).unwrap_err());
            assert!(error.starts_with(name), "{name}: {error}");
        }
    }
}
