//! Certificates of the workload: from istiod's CA, from files, and into files.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, bail};

use super::{
    env::Env,
    headers,
    istiod::HostPort,
    roots::{PilotCertProvider, Root, RootRules},
};
use crate::proxy::proxy_config::ProxyConfig;

/// Lifetime that is asked for (`SECRET_TTL`).
const TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Part of the lifetime that is left at renewal (`SECRET_GRACE_PERIOD_RATIO`).
const GRACE_RATIO: f64 = 0.5;
/// How far that part varies by chance, so that a fleet does not renew at once
/// (`SECRET_GRACE_PERIOD_RATIO_JITTER`).
const GRACE_JITTER: f64 = 0.01;
/// How long a changed file rests before it is read (`FILE_DEBOUNCE_DURATION`).
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Bits of RSA keys (`WORKLOAD_RSA_KEY_SIZE`).
const RSA_BITS: u32 = 2048;
/// Less is broken, more takes seconds to make.
const RSA_BITS_BOUNDS: std::ops::RangeInclusive<u32> = 2048..=8192;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CaSettings {
    /// `CA_ADDR`; istiod's where it is not set.
    pub(crate) address: HostPort,
    /// The name that the CA's certificate must have, if not the address's: `ISTIOD_SAN`, where `CA_ADDR`
    /// is not set.
    pub(crate) san: Option<String>,
    pub(crate) roots: RootRules,
    /// `CA_HEADER_*`, names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// Folder of the certificate that a virtual machine was given (`PROV_CERT`).
    pub(crate) provisioned: Option<PathBuf>,
    /// Where key and certificates are written (`OUTPUT_CERTS`).
    pub(crate) output: Option<PathBuf>,
    pub(crate) files: FileCertificates,
    /// `SECRET_TTL`.
    pub(crate) ttl: Duration,
    /// From 0 to 1.
    pub(crate) grace_ratio: f64,
    pub(crate) grace_jitter: f64,
    pub(crate) key: KeyKind,
    /// `ISTIO_META_CERT_SIGNER`.
    pub(crate) cert_signer: Option<String>,
    /// `FILE_DEBOUNCE_DURATION`.
    pub(crate) debounce: Duration,
    /// `PILOT_ENABLE_CA_CRL`: revocations beside the root are heeded.
    pub(crate) crl: bool,
}

/// Certificates that somebody else keeps in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileCertificates {
    /// `FILE_MOUNTED_CERTS`, or `CA_PROVIDER` `GkeWorkloadCertificate`: there is no CA to ask.
    pub(crate) only: bool,
    /// The workload's own, where they exist: `./etc/certs`, or those of GKE.
    pub(crate) own: CertificateFiles,
    /// `ISTIO_META_TLS_SERVER_*`, also from `proxyMetadata`.
    pub(crate) server: Option<CertificateFiles>,
    /// `ISTIO_META_TLS_CLIENT_*`, also from `proxyMetadata`.
    pub(crate) client: Option<CertificateFiles>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateFiles {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) root: PathBuf,
}

/// `ECC_SIGNATURE_ALGORITHM`, `ECC_CURVE` and `WORKLOAD_RSA_KEY_SIZE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Rsa { bits: u32 },
    P256,
    P384,
}

impl CaSettings {
    pub(super) fn resolve(env: &Env, config: &ProxyConfig) -> anyhow::Result<Self> {
        let provisioned = env.owned("PROV_CERT").map(PathBuf::from);
        let files = FileCertificates::resolve(env, config)?;
        if files.only && provisioned.is_some() {
            bail!("PROV_CERT and FILE_MOUNTED_CERTS exclude each other; set one of them");
        }
        let given = env.text("CA_ADDR");
        let address = given.unwrap_or(&config.discovery_address);
        if address.contains("googleapis.com") {
            bail!("CA_ADDR {address:?}: Google's CA is not supported; use istiod's or SPIRE");
        }
        let ratio = |name, default| env.number(name, default, 0.0..=1.0);
        Ok(Self {
            address: HostPort::parse(address).context("CA_ADDR")?,
            san: env.owned("ISTIOD_SAN").filter(|_| given.is_none()),
            roots: RootRules {
                explicit: env.text("CA_ROOT_CA").map(Root::parse),
                provider: PilotCertProvider::resolve(env),
                provisioned: provisioned.clone(),
                mounted: None,
            },
            headers: headers::with_prefix(env, "CA_HEADER_")?,
            provisioned,
            output: env.owned("OUTPUT_CERTS").map(PathBuf::from),
            files,
            ttl: env.interval("SECRET_TTL", TTL)?,
            grace_ratio: ratio("SECRET_GRACE_PERIOD_RATIO", GRACE_RATIO)?,
            grace_jitter: ratio("SECRET_GRACE_PERIOD_RATIO_JITTER", GRACE_JITTER)?,
            key: KeyKind::resolve(env)?,
            cert_signer: env.owned("ISTIO_META_CERT_SIGNER"),
            debounce: env.duration("FILE_DEBOUNCE_DURATION", DEBOUNCE)?,
            crl: env.flag("PILOT_ENABLE_CA_CRL", true)?,
        })
    }
}

impl FileCertificates {
    fn resolve(env: &Env, config: &ProxyConfig) -> anyhow::Result<Self> {
        let gke = env.choice(
            "CA_PROVIDER",
            "Citadel",
            &[("Citadel", false), ("GkeWorkloadCertificate", true)],
        )?;
        let own = match gke {
            true => CertificateFiles::within(
                "./var/run/secrets/workload-spiffe-credentials",
                ["certificates.pem", "private_key.pem", "ca_certificates.pem"],
            ),
            false => CertificateFiles::within(
                "./etc/certs",
                ["cert-chain.pem", "key.pem", "root-cert.pem"],
            ),
        };
        Ok(Self {
            only: env.flag("FILE_MOUNTED_CERTS", false)? || gke,
            own,
            server: CertificateFiles::from_metadata(env, config, "ISTIO_META_TLS_SERVER_"),
            client: CertificateFiles::from_metadata(env, config, "ISTIO_META_TLS_CLIENT_"),
        })
    }
}

impl CertificateFiles {
    fn within(folder: &str, [chain, key, root]: [&str; 3]) -> Self {
        let path = |name: &str| PathBuf::from(format!("{folder}/{name}"));
        Self {
            chain: path(chain),
            key: path(key),
            root: path(root),
        }
    }

    /// `None` unless chain or root is named.
    fn from_metadata(env: &Env, config: &ProxyConfig, prefix: &str) -> Option<Self> {
        let path = |rest: &str| {
            let name = format!("{prefix}{rest}");
            let set = env.text(&name);
            let set = set.or_else(|| config.metadata.get(&name).map(String::as_str));
            PathBuf::from(set.unwrap_or_default())
        };
        let files = Self {
            chain: path("CERT_CHAIN"),
            key: path("KEY"),
            root: path("ROOT_CERT"),
        };
        let named = !files.chain.as_os_str().is_empty() || !files.root.as_os_str().is_empty();
        named.then_some(files)
    }
}

impl KeyKind {
    fn resolve(env: &Env) -> anyhow::Result<Self> {
        let bits = env.number("WORKLOAD_RSA_KEY_SIZE", RSA_BITS, RSA_BITS_BOUNDS)?;
        let curve = env.choice(
            "ECC_CURVE",
            "P256",
            &[("P256", Self::P256), ("P384", Self::P384)],
        )?;
        match env.text("ECC_SIGNATURE_ALGORITHM") {
            None => Ok(Self::Rsa { bits }),
            Some("ECDSA") => Ok(curve),
            Some(_) => Err(env
                .error("ECC_SIGNATURE_ALGORITHM", "ECDSA or empty")
                .into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(variables: &[(&str, &str)]) -> anyhow::Result<CaSettings> {
        let env = variables.iter().copied().collect();
        CaSettings::resolve(&env, &ProxyConfig::default())
    }

    #[test]
    fn defaults_are_istios() {
        let settings = resolve(&[]).unwrap();
        assert_eq!(
            settings.address.to_string(),
            "istiod.istio-system.svc:15012"
        );
        assert_eq!(settings.ttl, TTL);
        assert_eq!((settings.grace_ratio, settings.grace_jitter), (0.5, 0.01));
        assert_eq!(settings.key, KeyKind::Rsa { bits: 2048 });
        assert!(settings.crl && !settings.files.only);
        assert_eq!(settings.files.own.key, PathBuf::from("./etc/certs/key.pem"));
        assert_eq!((settings.output, settings.files.client), (None, None));
    }

    #[test]
    fn keys() {
        let ecdsa = ("ECC_SIGNATURE_ALGORITHM", "ECDSA");
        for (variables, expected) in [
            (vec![ecdsa], KeyKind::P256),
            (vec![ecdsa, ("ECC_CURVE", "P384")], KeyKind::P384),
            (vec![("ECC_CURVE", "P384")], KeyKind::Rsa { bits: 2048 }),
            (
                vec![("WORKLOAD_RSA_KEY_SIZE", "4096")],
                KeyKind::Rsa { bits: 4096 },
            ),
        ] {
            assert_eq!(resolve(&variables).unwrap().key, expected, "{variables:?}");
        }
    }

    #[test]
    fn variables_are_read() {
        let settings = resolve(&[
            ("CA_ADDR", "ca.test:443"),
            ("ISTIOD_SAN", "istiod.test"),
            ("CA_HEADER_A", "b"),
            ("OUTPUT_CERTS", "/out"),
            ("CA_PROVIDER", "GkeWorkloadCertificate"),
            ("ISTIO_META_TLS_SERVER_CERT_CHAIN", "/s.pem"),
            ("ISTIO_META_TLS_SERVER_KEY", "/k.pem"),
        ])
        .unwrap();
        assert_eq!(settings.address.to_string(), "ca.test:443");
        assert_eq!(settings.san, None, "it is istiod's");
        assert_eq!(settings.headers["a"], "b");
        assert!(settings.files.only);
        assert!(settings.files.own.root.ends_with("ca_certificates.pem"));
        let server = settings.files.server.unwrap();
        assert_eq!(
            (server.chain, server.key),
            ("/s.pem".into(), "/k.pem".into())
        );
    }

    #[test]
    fn mistakes_name_their_variable() {
        for (name, value) in [
            ("CA_ADDR", "ca"),
            ("CA_ADDR", "meshca.googleapis.com:443"),
            ("CA_PROVIDER", "GoogleCA"),
            ("CA_HEADER_", "x"),
            ("FILE_MOUNTED_CERTS", "maybe"),
            ("SECRET_TTL", "0s"),
            ("SECRET_GRACE_PERIOD_RATIO", "1.5"),
            ("SECRET_GRACE_PERIOD_RATIO", "NaN"),
            ("SECRET_GRACE_PERIOD_RATIO_JITTER", "-0.1"),
            ("WORKLOAD_RSA_KEY_SIZE", "1024"),
            ("ECC_SIGNATURE_ALGORITHM", "EdDSA"),
            ("ECC_CURVE", "P521"),
            ("PILOT_ENABLE_CA_CRL", "?"),
            ("FILE_DEBOUNCE_DURATION", "x"),
        ] {
            let error = format!("{:#}", resolve(&[(name, value)]).unwrap_err());
            assert!(error.starts_with(name), "{value:?}: {error}");
        }
        let both = resolve(&[("PROV_CERT", "/p"), ("FILE_MOUNTED_CERTS", "true")]);
        assert!(both.unwrap_err().to_string().contains("exclude each other"));
    }
}
