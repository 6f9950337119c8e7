//! Wasm modules that the agent fetches for Envoy.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use ithildin_wasm::{Network, Options};

use super::env::Env;

/// Where Istio's agent has them (`ITHILDIN_DATA_DIR`).
const FOLDER: &str = "/var/lib/istio/data";
/// `WASM_MODULE_EXPIRY`.
const EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);
/// `WASM_PURGE_INTERVAL`.
const PURGE_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// `WASM_HTTP_REQUEST_TIMEOUT`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// `WASM_HTTP_REQUEST_MAX_RETRIES`, and the most that it may say: the pauses between them double.
const ATTEMPTS: u32 = 5;
const MAX_ATTEMPTS: u32 = 100;
/// `ISTIO_WASM_MAX_BINARY_SIZE_BYTES`, and the most that it may say: it fills the disk.
const BYTES: u64 = 256 << 20;
const MAX_BYTES: u64 = 16 << 30;

/// How modules are fetched. `None`: Envoy does it itself, if it can.
pub(super) fn resolve(env: &Env) -> anyhow::Result<Option<Options>> {
    if !env.flag("ISTIO_AGENT_ENABLE_WASM_REMOTE_LOAD_CONVERSION", true)? {
        return Ok(None);
    }
    let blocked = words(env, "BLOCKED_CIDRS_IN_WASM_FETCH").map(str::parse::<Network>);
    let blocked = blocked.collect::<Result<_, _>>();
    Ok(Some(Options {
        folder: env.text_or("ITHILDIN_DATA_DIR", FOLDER).into(),
        expiry: env.interval("WASM_MODULE_EXPIRY", EXPIRY)?,
        purge_interval: env.interval("WASM_PURGE_INTERVAL", PURGE_INTERVAL)?,
        request_timeout: env.interval("WASM_HTTP_REQUEST_TIMEOUT", REQUEST_TIMEOUT)?,
        attempts: env.number("WASM_HTTP_REQUEST_MAX_RETRIES", ATTEMPTS, 1..=MAX_ATTEMPTS)?,
        insecure: words(env, "WASM_INSECURE_REGISTRIES")
            .map(Into::into)
            .collect(),
        blocked: blocked.context("BLOCKED_CIDRS_IN_WASM_FETCH")?,
        max_bytes: env.number("ISTIO_WASM_MAX_BINARY_SIZE_BYTES", BYTES, 1..=MAX_BYTES)?,
        docker_config: env.owned("DOCKER_CONFIG").map(PathBuf::from),
    }))
}

/// What commas separate.
fn words<'a>(env: &'a Env, name: &str) -> impl Iterator<Item = &'a str> {
    let words = env.text(name).unwrap_or_default().split(',');
    words.map(str::trim).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> anyhow::Result<Option<Options>> {
        resolve(&variables.iter().copied().collect())
    }

    #[test]
    fn defaults_are_istios() {
        let options = options(&[]).unwrap().unwrap();
        assert_eq!(options.folder.to_str(), Some("/var/lib/istio/data"));
        assert_eq!(options.expiry.as_secs(), 86_400);
        assert_eq!(options.purge_interval.as_secs(), 3600);
        assert_eq!(options.request_timeout.as_secs(), 15);
        assert_eq!((options.attempts, options.max_bytes), (5, 256 << 20));
        assert!(options.insecure.is_empty() && options.blocked.is_empty());
        assert_eq!(options.docker_config, None);
    }

    #[test]
    fn variables_are_read() {
        let read = options(&[
            ("WASM_INSECURE_REGISTRIES", "localhost:5000, r.test,"),
            ("WASM_MODULE_EXPIRY", "1h"),
            ("WASM_PURGE_INTERVAL", "1m"),
            ("WASM_HTTP_REQUEST_TIMEOUT", "2s"),
            ("WASM_HTTP_REQUEST_MAX_RETRIES", "7"),
            ("BLOCKED_CIDRS_IN_WASM_FETCH", "10.0.0.0/8,::1/128"),
            ("ISTIO_WASM_MAX_BINARY_SIZE_BYTES", "1000"),
            ("ITHILDIN_DATA_DIR", "/data"),
            ("DOCKER_CONFIG", "/docker"),
        ]);
        let read = read.unwrap().unwrap();
        let insecure: Vec<_> = read.insecure.iter().map(String::as_str).collect();
        assert_eq!(insecure, ["localhost:5000", "r.test"]);
        assert_eq!(read.expiry, Duration::from_secs(3600));
        assert_eq!(read.purge_interval, Duration::from_secs(60));
        assert_eq!(read.request_timeout, Duration::from_secs(2));
        assert_eq!((read.attempts, read.max_bytes), (7, 1000));
        assert_eq!(read.blocked.len(), 2);
        assert_eq!(read.folder.to_str(), Some("/data"));
        assert_eq!(read.docker_config, Some("/docker".into()));
        let off = [("ISTIO_AGENT_ENABLE_WASM_REMOTE_LOAD_CONVERSION", "false")];
        assert!(options(&off).unwrap().is_none());
    }

    #[test]
    fn mistakes_name_their_variable() {
        for (name, value) in [
            ("ISTIO_AGENT_ENABLE_WASM_REMOTE_LOAD_CONVERSION", "?"),
            ("WASM_MODULE_EXPIRY", "0s"),
            ("WASM_PURGE_INTERVAL", "1"),
            ("WASM_HTTP_REQUEST_TIMEOUT", "-1s"),
            ("WASM_HTTP_REQUEST_MAX_RETRIES", "0"),
            ("BLOCKED_CIDRS_IN_WASM_FETCH", "10.0.0.0"),
            ("ISTIO_WASM_MAX_BINARY_SIZE_BYTES", "1k"),
        ] {
            let error = options(&[(name, value)]).unwrap_err();
            assert!(format!("{error:#}").starts_with(name), "{error:#}");
        }
    }
}
