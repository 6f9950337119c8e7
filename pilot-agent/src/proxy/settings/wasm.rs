//! Wasm modules that Envoy's extensions name by URL.

use std::{collections::BTreeSet, time::Duration};

use super::env::{Env, EnvError};

/// A module that nobody asked for is removed after this (`WASM_MODULE_EXPIRY`).
const EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);
/// How often that is looked at (`WASM_PURGE_INTERVAL`).
const PURGE_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// How long one download may take (`WASM_HTTP_REQUEST_TIMEOUT`).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Downloads are tried again so often (`WASM_HTTP_REQUEST_MAX_RETRIES`).
const MAX_RETRIES: u32 = 5;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WasmSettings {
    /// Rewrite remote modules to local files (`ISTIO_AGENT_ENABLE_WASM_REMOTE_LOAD_CONVERSION`).
    pub(crate) convert: bool,
    /// Hosts to which TLS need not hold (`WASM_INSECURE_REGISTRIES`); `*` is all.
    pub(crate) insecure: BTreeSet<String>,
    pub(crate) expiry: Duration,
    pub(crate) purge_interval: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) max_retries: u32,
}

impl WasmSettings {
    pub(super) fn resolve(env: &Env) -> Result<Self, EnvError> {
        let insecure = env.text("WASM_INSECURE_REGISTRIES").unwrap_or_default();
        let insecure = insecure.split(',').map(str::trim);
        Ok(Self {
            convert: env.flag("ISTIO_AGENT_ENABLE_WASM_REMOTE_LOAD_CONVERSION", true)?,
            insecure: insecure
                .filter(|host| !host.is_empty())
                .map(str::to_owned)
                .collect(),
            expiry: env.interval("WASM_MODULE_EXPIRY", EXPIRY)?,
            purge_interval: env.interval("WASM_PURGE_INTERVAL", PURGE_INTERVAL)?,
            request_timeout: env.interval("WASM_HTTP_REQUEST_TIMEOUT", REQUEST_TIMEOUT)?,
            max_retries: env.number("WASM_HTTP_REQUEST_MAX_RETRIES", MAX_RETRIES, 0..=100)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read() {
        let settings = WasmSettings::resolve(&Env::default()).unwrap();
        assert!(settings.convert && settings.insecure.is_empty());
        assert_eq!((settings.expiry, settings.max_retries), (EXPIRY, 5));
        let env = Env::from_iter([
            ("WASM_INSECURE_REGISTRIES", "a:5000, b"),
            ("WASM_HTTP_REQUEST_TIMEOUT", "1s"),
        ]);
        let settings = WasmSettings::resolve(&env).unwrap();
        assert_eq!(settings.insecure.len(), 2);
        assert_eq!(settings.request_timeout, Duration::from_secs(1));
        for (name, value) in [
            ("ISTIO_AGENT_ENABLE_WASM_REMOTE_LOAD_CONVERSION", "?"),
            ("WASM_MODULE_EXPIRY", "0s"),
            ("WASM_PURGE_INTERVAL", "x"),
            ("WASM_HTTP_REQUEST_TIMEOUT", "1"),
            ("WASM_HTTP_REQUEST_MAX_RETRIES", "-1"),
        ] {
            let env = Env::from_iter([(name, value)]);
            assert_eq!(WasmSettings::resolve(&env).unwrap_err().name, name);
        }
    }
}
