//! istiod's CA as the settings say it.

use std::path::PathBuf;

use anyhow::{Context, bail};
use ithildin_istiod::{
    ca::{CaOptions, Expected, KeyKind, Rotation},
    dial::{
        Address, CallHeaders, ClientCertificate, ClientFiles, Endpoint, Options, PLAINTEXT_PORT,
        Roots, Tls, Transport, server_name,
    },
};
use ithildin_spiffe::TrustDomain;
use tracing::warn;

use crate::proxy::settings::{self, Root, RootError, Settings};

/// Of a certificate for a virtual machine (`PROV_CERT`).
const PROVISIONED_CHAIN: &str = "cert-chain.pem";
const PROVISIONED_KEY: &str = "key.pem";
/// The ConfigMap `istio-ca-crl`, as the injection template mounts it.
const CRL: &str = "./var/run/secrets/istio/crl/ca-crl.pem";

/// How the CA is reached.
///
/// # Errors
/// What keeps it from being called at all, with the variable that says it.
pub(super) fn endpoint(settings: &Settings) -> anyhow::Result<Endpoint> {
    let (ca, istiod) = (&settings.ca, &settings.istiod);
    let address = Address {
        host: ca.address.host.clone(),
        port: ca.address.port,
    };
    let transport = match address.port {
        PLAINTEXT_PORT => Transport::Plaintext,
        _ => Transport::Tls(Tls {
            server_name: server_name(&address, ca.san.as_deref().unwrap_or_default())
                .context("CA_ADDR")?,
            roots: roots(settings)?,
            client: client(settings),
        }),
    };
    let headers = ca.headers.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let cluster = istiod.cluster_id.as_deref().unwrap_or_default();
    Ok(Endpoint::new(Options {
        address,
        transport,
        headers: CallHeaders::new(Some(istiod.token.clone()), cluster, headers)
            .context("CA_HEADER_*")?,
        keepalive: istiod.keepalive.interval,
        keepalive_timeout: istiod.keepalive.timeout,
    }))
}

/// What is asked of it.
///
/// # Errors
/// A setting that makes no request, with its variable.
pub(super) fn options(settings: &Settings) -> anyhow::Result<CaOptions> {
    let (ca, identity) = (&settings.ca, &settings.identity);
    let trust_domain = TrustDomain::parse(&identity.trust_domain)
        .map_err(|error| anyhow::anyhow!("TRUST_DOMAIN {:?} {error}", identity.trust_domain))?;
    let key = match ca.key {
        settings::KeyKind::P256 => KeyKind::EcdsaP256,
        settings::KeyKind::P384 => KeyKind::EcdsaP384,
        settings::KeyKind::Rsa { bits } => KeyKind::rsa(bits).with_context(|| {
            format!("WORKLOAD_RSA_KEY_SIZE {bits} is none of 2048, 3072, 4096 and 8192")
        })?,
    };
    Ok(CaOptions {
        expected: Expected {
            trust_domain,
            namespace: settings.node.namespace.clone(),
            service_account: identity.service_account.clone(),
        },
        key,
        ttl: ca.ttl,
        signer: ca.cert_signer.clone(),
        rotation: Rotation {
            grace_ratio: ca.grace_ratio,
            grace_jitter: ca.grace_jitter,
        },
        crl: crl(settings),
    })
}

/// Where the CA's revocations are, or will be.
pub(super) fn crl(settings: &Settings) -> Option<PathBuf> {
    settings.ca.crl.then(|| PathBuf::from(CRL))
}

/// A root that is not there yet is read once it is: mounts may be late.
fn roots(settings: &Settings) -> anyhow::Result<Roots> {
    match settings.ca.roots.for_ca() {
        Ok(Root::System) => Ok(Roots::System),
        Ok(Root::File(path)) => Ok(Roots::File(path)),
        Err(RootError::Missing { path, .. }) => {
            warn!(root = %path.display(), "the root that vouches for the CA is not there yet");
            Ok(Roots::File(path))
        }
        Err(error @ RootError::NoProvider { .. }) => bail!(error),
    }
}

fn client(settings: &Settings) -> ClientCertificate {
    match &settings.ca.provisioned {
        None => ClientCertificate::None,
        Some(folder) => ClientCertificate::Files(ClientFiles {
            certificate: folder.join(PROVISIONED_CHAIN),
            key: folder.join(PROVISIONED_KEY),
        }),
    }
}
