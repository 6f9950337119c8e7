//! The command line that Envoy is started with: the one of Istio's agent, word by word.

use std::{fs, net::IpAddr, os::unix::process::CommandExt, path::Path, process::Command};

use anyhow::Context;
use ithildin_proto::yaml;
use tracing::warn;

use crate::proxy::settings::{Compliance, Settings};

/// Istio's user of the data plane.
pub(super) const PROXY_USER: u32 = 1337;
/// How often Envoy writes its access logs, where nobody says it.
const FLUSH_INTERVAL_MS: u128 = 1000;
/// Ciphers of TLS 1.2 that FIPS allows to Envoy's gRPC client.
const FIPS_CIPHERS: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
                            ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384";

/// # Errors
/// An override that cannot be read.
pub(super) fn command(settings: &Settings, bootstrap: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(&settings.envoy.binary);
    command.args(arguments(settings, bootstrap)?);
    let compliance = settings.envoy.compliance;
    if matches!(
        compliance,
        Some(Compliance::Fips140_2 | Compliance::Fips140_3)
    ) {
        command.env("GRPC_SSL_CIPHER_SUITES", FIPS_CIPHERS);
    }
    if settings.dns.replaces_resolver {
        command.uid(PROXY_USER).gid(PROXY_USER);
    }
    Ok(command)
}

fn arguments(settings: &Settings, bootstrap: &Path) -> anyhow::Result<Vec<String>> {
    let config = &settings.proxy_config;
    let envoy = &settings.envoy;
    let ipv6 = settings.node.ips.iter().all(IpAddr::is_ipv6);
    let flush = config.file_flush_interval;
    let flush = flush.map_or(FLUSH_INTERVAL_MS, |interval| interval.as_millis());
    let mut words = vec!["-c".to_owned(), bootstrap.display().to_string()];
    let mut add = |added: &[&str]| words.extend(added.iter().map(|word| (*word).to_owned()));
    add(&[
        "--drain-time-s",
        &config.drain_duration.as_secs().to_string(),
    ]);
    add(&["--drain-strategy", "immediate"]);
    add(&["--local-address-ip-version", if ipv6 { "v6" } else { "v4" }]);
    add(&["--file-flush-interval-msec", &flush.to_string()]);
    add(&["--disable-hot-restart", "--allow-unknown-static-fields"]);
    if config.file_flush_min_size_kb > 0 {
        let size = config.file_flush_min_size_kb.to_string();
        add(&["--file-flush-min-size-kb", &size]);
    }
    let (level, components) = levels(&envoy.log_level);
    if let Some(level) = level {
        add(&["-l", &level]);
    }
    let components = match components.is_empty() {
        true => envoy.component_log_level.clone(),
        false => components.join(","),
    };
    if !components.is_empty() {
        add(&["--component-log-level", &components]);
    }
    if envoy.skip_deprecated_logs {
        add(&["--skip-deprecated-logs"]);
    }
    if envoy.core_dump {
        add(&["--enable-core-dump"]);
    }
    if let Some(path) = &envoy.bootstrap_override {
        let text = overridden(path, envoy.host_ip.as_deref());
        let text = text.with_context(|| format!("ISTIO_BOOTSTRAP_OVERRIDE {}", path.display()))?;
        add(&["--config-yaml", &text]);
    }
    if let Some(concurrency) = config.concurrency.filter(|concurrency| *concurrency > 0) {
        add(&["--concurrency", &concurrency.to_string()]);
    }
    Ok(words)
}

/// The level, and those of components, from `info,misc:error`.
fn levels(text: &str) -> (Option<String>, Vec<String>) {
    let mut level = None;
    let mut components = Vec::new();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        match word.matches(':').count() {
            0 => level = Some(word.to_owned()),
            1 => components.push(word.to_owned()),
            _ => warn!(word, "no level of Envoy's logs: left out"),
        }
    }
    (level, components)
}

/// The override as JSON, with this host's address in it.
fn overridden(path: &Path, host_ip: Option<&str>) -> anyhow::Result<String> {
    let text = fs::read_to_string(path)?;
    let mut value = yaml::load(&with_host_ip(&text, host_ip.unwrap_or_default()))?;
    // The order of Istio's agent, for whoever compares command lines.
    value.sort_all_objects();
    Ok(value.to_string())
}

fn with_host_ip(text: &str, ip: &str) -> String {
    const VARIABLE: &str = "$(HOST_IP)";
    match ip.contains(':') {
        // In `[..]:port`, whether or not somebody wrote the brackets.
        true => {
            let bracketed = format!("[{ip}]");
            let text = text.replace(&format!("[{VARIABLE}]"), &bracketed);
            text.replace(VARIABLE, &bracketed)
        }
        false => text.replace(VARIABLE, ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{args, settings::Host};

    const DEFAULT: &str = "-c b.json --drain-time-s 45 --drain-strategy immediate \
        --local-address-ip-version v4 --file-flush-interval-msec 1000 --disable-hot-restart \
        --allow-unknown-static-fields -l warning --skip-deprecated-logs";

    fn words(args: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<String> {
        let args = args::tests::parse(args)?;
        let env = variables.iter().copied().collect();
        let settings = Settings::resolve_on(&args, &env, &Host::default())?;
        Ok(arguments(&settings, Path::new("b.json"))?.join(" "))
    }

    #[test]
    fn arguments_are_istios() {
        let config = "PROXY_CONFIG";
        for (args, variables, from, to) in [
            (&[][..], &[][..], "", ""),
            (&["--concurrency=3"], &[], "logs", "logs --concurrency 3"),
            (
                &[],
                &[("ISTIO_CPU_LIMIT", "2")],
                "logs",
                "logs --concurrency 2",
            ),
            (
                &["--proxyLogLevel", "info,misc:error,http:debug"],
                &[],
                "-l warning",
                "-l info --component-log-level misc:error,http:debug",
            ),
            (
                &[
                    "--proxyLogLevel=info,misc:error",
                    "--proxyComponentLogLevel=a:debug",
                ],
                &[],
                "-l warning",
                "-l info --component-log-level misc:error",
            ),
            (
                &["--proxyComponentLogLevel=a:debug"],
                &[],
                "-l warning",
                "-l warning --component-log-level a:debug",
            ),
            (&["--proxyLogLevel="], &[], " -l warning", ""),
            (&[], &[("INSTANCE_IP", "fd00::1")], "v4", "v4"),
            (
                &[],
                &[("ENVOY_SKIP_DEPRECATED_LOGS", "false")],
                " --skip-deprecated-logs",
                "",
            ),
            (
                &[],
                &[("ISTIO_ENVOY_ENABLE_CORE_DUMP", "true")],
                "logs",
                "logs --enable-core-dump",
            ),
            (&[], &[(config, "drainDuration: 1m")], "-s 45", "-s 60"),
            (
                &[],
                &[(config, "{fileFlushInterval: 250ms, fileFlushMinSizeKb: 64}")],
                "1000 --disable-hot-restart --allow-unknown-static-fields",
                "250 --disable-hot-restart --allow-unknown-static-fields --file-flush-min-size-kb 64",
            ),
        ] {
            let expected = match from {
                "" => DEFAULT.to_owned(),
                from => DEFAULT.replace(from, to),
            };
            assert_eq!(
                words(args, variables).unwrap(),
                expected,
                "{args:?} {variables:?}"
            );
        }
    }

    #[test]
    fn version_6_if_there_is_nothing_else() {
        let variables = [("INSTANCE_IP", "fd00::1"), ("PROXY_CONFIG", "")];
        let words = words(&["--configDir=x"], &variables).unwrap();
        assert!(words.contains("--local-address-ip-version v6"), "{words}");
    }

    #[test]
    fn the_override_is_merged_by_envoy() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("override.yaml");
        fs::write(&file, "watchdog: {}\nadmin:\n  address: $(HOST_IP)\n").unwrap();
        let variables = [
            ("ISTIO_BOOTSTRAP_OVERRIDE", file.to_str().unwrap()),
            ("HOST_IP", "10.0.0.9"),
        ];
        let words = words(&[], &variables).unwrap();
        let expected = r#"--config-yaml {"admin":{"address":"10.0.0.9"},"watchdog":{}}"#;
        assert!(words.ends_with(expected), "{words}");
        let missing = [("ISTIO_BOOTSTRAP_OVERRIDE", "/nonexistent")];
        let error = format!("{:#}", self::words(&[], &missing).unwrap_err());
        assert!(error.starts_with("ISTIO_BOOTSTRAP_OVERRIDE"), "{error}");
        let v6 = with_host_ip("a: $(HOST_IP):1 [$(HOST_IP)]:2", "fd00::1");
        assert_eq!(v6, "a: [fd00::1]:1 [fd00::1]:2");
    }

    #[test]
    fn compliance_limits_ciphers() {
        for (policy, limited) in [
            ("", false),
            ("fips-140-2", true),
            ("fips-140-3", true),
            ("pqc", false),
        ] {
            let args = args::tests::parse(&[]).unwrap();
            let env = [("COMPLIANCE_POLICY", policy)].into_iter().collect();
            let settings = Settings::resolve_on(&args, &env, &Host::default()).unwrap();
            let command = command(&settings, Path::new("b")).unwrap();
            assert_eq!(command.get_envs().count() > 0, limited, "{policy}");
        }
    }
}
