//! The DNS proxy.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use ithildin_istio_config::NodeKind;
use tracing::warn;

use super::{env::Env, istiod::HostPort};

/// Where the proxy listens (`DNS_PROXY_ADDR`).
const ADDRESS: &str = "localhost:15053";
/// How long an upstream may take (`DNS_FORWARD_TIMEOUT`).
const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);
const DNS_PORT: u16 = 53;
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where the scripts for virtual machines keep the original, when `/etc/resolv.conf` names us.
const KEPT_RESOLV_CONF: &str = "/var/lib/istio/resolv.conf";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DnsSettings {
    /// Whether there is a DNS proxy: `ISTIO_META_ENABLE_DNS_SERVER`, or `ISTIO_META_DNS_CAPTURE` on a
    /// sidecar.
    pub(crate) enabled: bool,
    pub(crate) address: HostPort,
    /// Ask all upstreams at once (`DNS_FORWARD_PARALLEL`).
    pub(crate) parallel: bool,
    pub(crate) timeout: Duration,
    /// The upstreams' file: as root on port 53 our own address is in `/etc/resolv.conf`.
    pub(crate) resolv_conf: PathBuf,
    /// Serving on port 53 as root, without traffic capture.
    pub(crate) replaces_resolver: bool,
}

impl DnsSettings {
    pub(super) fn resolve(env: &Env, kind: NodeKind) -> anyhow::Result<Self> {
        let capture = env.flag("ISTIO_META_DNS_CAPTURE", false)?;
        let server = env.flag("ISTIO_META_ENABLE_DNS_SERVER", false)?;
        let address = HostPort::parse(env.text("DNS_PROXY_ADDR").unwrap_or(ADDRESS));
        let mut address = address.context("DNS_PROXY_ADDR")?;
        let root = rustix::process::geteuid().is_root();
        if address.port == DNS_PORT && !root {
            // As Istio's agent does.
            warn!(%address, instead = ADDRESS, "DNS_PROXY_ADDR: port 53 is for root");
            address = HostPort::parse(ADDRESS)?;
        }
        let replaces_resolver = root && address.port == DNS_PORT;
        let own = replaces_resolver && Path::new(KEPT_RESOLV_CONF).exists();
        let resolv_conf = if own { KEPT_RESOLV_CONF } else { RESOLV_CONF };
        Ok(Self {
            enabled: server || (capture && kind == NodeKind::Sidecar),
            address,
            parallel: env.flag("DNS_FORWARD_PARALLEL", false)?,
            timeout: env.interval("DNS_FORWARD_TIMEOUT", FORWARD_TIMEOUT)?,
            resolv_conf: resolv_conf.into(),
            replaces_resolver,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(kind: NodeKind, variables: &[(&str, &str)]) -> anyhow::Result<DnsSettings> {
        DnsSettings::resolve(&variables.iter().copied().collect(), kind)
    }

    #[test]
    fn capture_is_for_sidecars() {
        let capture = ("ISTIO_META_DNS_CAPTURE", "true");
        let server = ("ISTIO_META_ENABLE_DNS_SERVER", "true");
        for (kind, variables, expected) in [
            (NodeKind::Sidecar, vec![], false),
            (NodeKind::Sidecar, vec![capture], true),
            (NodeKind::Router, vec![capture], false),
            (NodeKind::Router, vec![server], true),
        ] {
            let settings = resolve(kind, &variables).unwrap();
            assert_eq!(settings.enabled, expected, "{kind:?} {variables:?}");
        }
    }

    #[test]
    fn variables_are_read() {
        let settings = resolve(NodeKind::Sidecar, &[]).unwrap();
        assert_eq!(settings.address.to_string(), "localhost:15053");
        assert!(settings.resolv_conf.starts_with("/etc") && !settings.parallel);
        let variables = [
            ("DNS_PROXY_ADDR", "127.0.0.1:53"),
            ("DNS_FORWARD_TIMEOUT", "1s"),
        ];
        let settings = resolve(NodeKind::Sidecar, &variables).unwrap();
        let root = rustix::process::geteuid().is_root();
        assert_eq!(settings.replaces_resolver, root);
        assert_eq!(settings.timeout, Duration::from_secs(1));
        for (name, value) in [
            ("ISTIO_META_DNS_CAPTURE", "ALL"),
            ("ISTIO_META_ENABLE_DNS_SERVER", "?"),
            ("DNS_PROXY_ADDR", "15053"),
            ("DNS_FORWARD_PARALLEL", "?"),
            ("DNS_FORWARD_TIMEOUT", "0s"),
        ] {
            let error = resolve(NodeKind::Sidecar, &[(name, value)]).unwrap_err();
            assert!(format!("{error:#}").starts_with(name), "{error:#}");
        }
    }
}
