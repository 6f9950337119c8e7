//! The connection to istiod, and what we do with the stream.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, bail};

use super::{
    env::Env,
    headers,
    roots::{PilotCertProvider, Root, RootRules},
};
use crate::proxy::proxy_config::{ControlPlaneAuth, ProxyConfig};

/// Where the kubelet projects the token for istiod (audience `istio-ca`).
const THIRD_PARTY_TOKEN: &str = "./var/run/secrets/tokens/istio-token";
/// How often an idle connection is asked whether it lives (`GRPC_KEEPALIVE_INTERVAL`).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long the answer may take (`GRPC_KEEPALIVE_TIMEOUT`).
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Istio's control plane, as this agent reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IstiodSettings {
    /// `discoveryAddress` of the proxy configuration.
    pub(crate) address: HostPort,
    /// `controlPlaneAuthPolicy`: whether TLS is spoken.
    pub(crate) auth: ControlPlaneAuth,
    /// The name that istiod's certificate must have, if not the address's (`ISTIOD_SAN`).
    pub(crate) san: Option<String>,
    /// Which roots vouch for istiod (`XDS_ROOT_CA` and what else may say it).
    pub(crate) roots: RootRules,
    /// Folder of a certificate that a virtual machine was given (`PROV_CERT`); it holds `cert-chain.pem`,
    /// `key.pem` and `root-cert.pem`.
    pub(crate) provisioned: Option<PathBuf>,
    /// `XDS_HEADER_*`: metadata of each stream, names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// The `ClusterID` header (`ISTIO_META_CLUSTER_ID`).
    pub(crate) cluster_id: Option<String>,
    /// What we show of ourselves besides the token (`ITHILDIN_ISTIOD_AUTH`).
    pub(crate) shown: IstiodAuth,
    /// The token that each stream and call carries; it is read anew each time.
    pub(crate) token: PathBuf,
    pub(crate) keepalive: Keepalive,
    /// Incremental xDS (`ISTIO_DELTA_XDS`).
    pub(crate) delta: bool,
    /// Ask istiod for a mesh-wide trust bundle (`PROXY_CONFIG_XDS_AGENT`).
    pub(crate) proxy_config_updates: bool,
    /// Where a bootstrap for proxyless gRPC is written (`GRPC_XDS_BOOTSTRAP`).
    pub(crate) grpc_bootstrap: PathBuf,
}

/// How istiod knows us. The token goes with each call in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IstiodAuth {
    /// The token alone, or with it the certificate of `PROV_CERT`.
    Token,
    /// Our SVID: istiod must trust SPIRE. Where `XDS_ROOT_CA` is not set, the bundle of our trust domain
    /// vouches for istiod in turn.
    Svid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keepalive {
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
}

/// A name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl IstiodSettings {
    pub(super) fn resolve(env: &Env, config: &ProxyConfig) -> anyhow::Result<Self> {
        check_credentials(env)?;
        let provisioned = env.owned("PROV_CERT").map(PathBuf::from);
        let address = HostPort::parse(&config.discovery_address);
        Ok(Self {
            address: address.context("discoveryAddress of the proxy configuration")?,
            auth: config.control_plane_auth,
            san: env.owned("ISTIOD_SAN"),
            roots: RootRules {
                explicit: env.text("XDS_ROOT_CA").map(Root::parse),
                provider: PilotCertProvider::resolve(env),
                provisioned: provisioned.clone(),
                mounted: mounted_root(env, config)?,
            },
            provisioned,
            headers: headers::with_prefix(env, "XDS_HEADER_")?,
            cluster_id: env.owned("ISTIO_META_CLUSTER_ID"),
            shown: shown(env)?,
            token: THIRD_PARTY_TOKEN.into(),
            keepalive: Keepalive {
                interval: env.interval("GRPC_KEEPALIVE_INTERVAL", KEEPALIVE_INTERVAL)?,
                timeout: env.interval("GRPC_KEEPALIVE_TIMEOUT", KEEPALIVE_TIMEOUT)?,
            },
            delta: env.flag("ISTIO_DELTA_XDS", true)?,
            proxy_config_updates: env.flag("PROXY_CONFIG_XDS_AGENT", false)?,
            grpc_bootstrap: env
                .text_or(
                    "GRPC_XDS_BOOTSTRAP",
                    "./etc/istio/proxy/grpc-bootstrap.json",
                )
                .into(),
        })
    }
}

fn shown(env: &Env) -> anyhow::Result<IstiodAuth> {
    const NAME: &str = "ITHILDIN_ISTIOD_AUTH";
    match env.text(NAME) {
        None | Some("token") => Ok(IstiodAuth::Token),
        Some("svid") => Ok(IstiodAuth::Svid),
        Some(other) => bail!("{NAME} {other:?} is neither token nor svid"),
    }
}

/// Tokens come from a file. `first-party-jwt` means the same today; other policies mean no token, which
/// a missing file says as well.
fn check_credentials(env: &Env) -> anyhow::Result<()> {
    match env.text("CREDENTIAL_FETCHER_TYPE") {
        None | Some("JWT") => Ok(()),
        Some(other) => {
            bail!("CREDENTIAL_FETCHER_TYPE {other:?} is not supported; use JWT, a token in a file")
        }
    }
}

/// The root for mounted certificates, of which the environment or `proxyMetadata` tells.
fn mounted_root(env: &Env, config: &ProxyConfig) -> anyhow::Result<Option<PathBuf>> {
    if !env.flag("FILE_MOUNTED_CERTS", false)? {
        return Ok(None);
    }
    const NAME: &str = "ISTIO_META_TLS_CLIENT_ROOT_CERT";
    let path = env.text(NAME).map(str::to_owned);
    let path = path.or_else(|| config.metadata.get(NAME).cloned());
    Ok(Some(path.unwrap_or_default().into()))
}

impl HostPort {
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let wrong = || format!("{text:?} is not of the form host:port");
        let (host, port) = text.rsplit_once(':').with_context(wrong)?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        if host.is_empty() || (bracketed.is_none() && host.contains([':', '[', ']', '/'])) {
            bail!(wrong());
        }
        let port = port.parse().ok().filter(|port| *port != 0);
        Ok(Self {
            host: host.to_owned(),
            port: port.with_context(wrong)?,
        })
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(variables: &[(&str, &str)]) -> anyhow::Result<IstiodSettings> {
        let env = variables.iter().copied().collect();
        IstiodSettings::resolve(&env, &ProxyConfig::default())
    }

    #[test]
    fn defaults_are_istios() {
        let settings = resolve(&[]).unwrap();
        assert_eq!(
            settings.address.to_string(),
            "istiod.istio-system.svc:15012"
        );
        assert_eq!(settings.auth, ControlPlaneAuth::MutualTls);
        assert!(settings.delta && !settings.proxy_config_updates);
        assert_eq!(settings.keepalive.interval, Duration::from_secs(30));
        assert!(settings.headers.is_empty());
        assert_eq!(settings.token.to_str(), Some(THIRD_PARTY_TOKEN));
    }

    #[test]
    fn variables_are_read() {
        let settings = resolve(&[
            ("ISTIOD_SAN", "istiod.test"),
            ("XDS_ROOT_CA", "SYSTEM"),
            ("XDS_HEADER_X-Team", "a b"),
            ("ISTIO_META_CLUSTER_ID", "c1"),
            ("ISTIO_DELTA_XDS", "false"),
            ("GRPC_KEEPALIVE_INTERVAL", "1m"),
            ("FILE_MOUNTED_CERTS", "true"),
            ("ISTIO_META_TLS_CLIENT_ROOT_CERT", "/root.pem"),
        ])
        .unwrap();
        assert_eq!(settings.san.as_deref(), Some("istiod.test"));
        assert_eq!(settings.roots.explicit, Some(Root::System));
        assert_eq!(settings.roots.mounted, Some("/root.pem".into()));
        assert_eq!(settings.headers["x-team"], "a b");
        assert_eq!(settings.cluster_id.as_deref(), Some("c1"));
        assert!(!settings.delta);
        assert_eq!(settings.keepalive.interval, Duration::from_secs(60));
    }

    #[test]
    fn mistakes_name_their_variable() {
        for (name, value) in [
            ("GRPC_KEEPALIVE_INTERVAL", "0s"),
            ("GRPC_KEEPALIVE_TIMEOUT", "10"),
            ("ISTIO_DELTA_XDS", "maybe"),
            ("PROXY_CONFIG_XDS_AGENT", "2"),
            ("XDS_HEADER_", "x"),
            ("XDS_HEADER_a b", "x"),
            ("XDS_HEADER_A", "a\nb"),
            ("CREDENTIAL_FETCHER_TYPE", "GoogleComputeEngine"),
        ] {
            let error = format!("{:#}", resolve(&[(name, value)]).unwrap_err());
            assert!(error.starts_with(name), "{value:?}: {error}");
        }
    }

    #[test]
    fn addresses() {
        for (text, host, port) in [
            (
                "istiod.istio-system.svc:15012",
                "istiod.istio-system.svc",
                15012,
            ),
            ("[::1]:15010", "::1", 15010),
            ("10.0.0.1:1", "10.0.0.1", 1),
        ] {
            let parsed = HostPort::parse(text).unwrap();
            assert_eq!((parsed.host.as_str(), parsed.port), (host, port));
            assert_eq!(parsed.to_string(), text);
        }
        for text in [
            "",
            "istiod",
            ":15012",
            "istiod:",
            "istiod:0",
            "::1:15012",
            "a:70000",
            "http://a:1",
        ] {
            assert!(HostPort::parse(text).is_err(), "{text}");
        }
    }
}
