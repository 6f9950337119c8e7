//! Peers that are not ours: Envoy, SPIRE, istiod, openssl.

use std::path::PathBuf;

/// The real Envoy that `tests/run` installs. `None`, said on standard error, without one.
pub fn envoy(test: &str) -> Option<PathBuf> {
    from_env(test, "ENVOY_BIN")
}

/// The binaries of a real SPIRE, `(server, agent)`.
pub fn spire(test: &str) -> Option<(PathBuf, PathBuf)> {
    let server = from_env(test, "SPIRE_SERVER_BIN")?;
    Some((server, from_env(test, "SPIRE_AGENT_BIN")?))
}

/// A real istiod.
pub fn pilot_discovery(test: &str) -> Option<PathBuf> {
    from_env(test, "PILOT_DISCOVERY_BIN")
}

/// Istio's tool for operators.
pub fn istioctl(test: &str) -> Option<PathBuf> {
    from_env(test, "ISTIOCTL_BIN")
}

/// Istio's own agent, and the template of Envoy's bootstrap that it reads.
pub fn stock_agent(test: &str) -> Option<(PathBuf, PathBuf)> {
    let agent = from_env(test, "PILOT_AGENT_STOCK_BIN")?;
    Some((agent, from_env(test, "ENVOY_BOOTSTRAP_TEMPLATE")?))
}

fn from_env(test: &str, variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        eprintln!("SKIPPED {test}: {variable} is not set");
    }
    path
}
