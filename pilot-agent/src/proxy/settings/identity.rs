//! Where identities may come from, and which is ours.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Context, anyhow, bail};
use ithildin_spiffe::{
    SvidSelector, TrustDomain,
    workload_api::{ENDPOINT_ENV, WorkloadEndpoint},
};
use ithildin_xds::SdsOptions;

use super::{env::Env, host::CREDENTIAL_SOCKET};
use crate::proxy::{identity::Demand, proxy_config::ProxyConfig};

/// Istio's trust domain where none is configured.
pub(super) const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
/// Where a Pod finds sockets and files of its identity.
const WORKLOAD_SOCKETS: &str = "./var/run/secrets/workload-spiffe-uds";
const CREDENTIAL_SOCKETS: &str = "./var/run/secrets/credential-uds";
const WORKLOAD_CREDENTIALS: &str = "./var/run/secrets/workload-spiffe-credentials";

#[derive(Clone, Debug)]
pub(crate) struct IdentitySettings {
    /// `ITHILDIN_IDENTITY`: the source, if it is not to be found by what is there.
    pub(crate) demanded: Demand,
    /// `SPIFFE_ENDPOINT_SOCKET`: the Workload API, if it is named.
    pub(crate) endpoint: Option<WorkloadEndpoint>,
    /// The socket in a Pod's `workload-spiffe-uds` folder: SPIRE's by its CSI driver, where one is
    /// mounted; otherwise the path where Istio's agent serves SDS itself.
    pub(crate) workload_socket: PathBuf,
    /// Whether `WORKLOAD_IDENTITY_SOCKET_FILE` names it otherwise than Istio does: then there must be one.
    pub(crate) workload_socket_named: bool,
    /// SDS for file certificates, where identities come from elsewhere.
    pub(crate) files_socket: PathBuf,
    /// SDS of somebody else in the Pod, for `sds://` credentials.
    pub(crate) credential_socket: PathBuf,
    /// Folder of `cert-chain.pem`, `key.pem` and `root-cert.pem`, kept by somebody else.
    pub(crate) credentials: PathBuf,
    /// `TRUST_DOMAIN`.
    pub(crate) trust_domain: String,
    /// `SERVICE_ACCOUNT`.
    pub(crate) service_account: Option<String>,
    /// `KUBERNETES_SERVICE_HOST` is set: other containers of the Pod read what we write.
    pub(crate) in_kubernetes: bool,
}

impl IdentitySettings {
    pub(super) fn resolve(env: &Env) -> anyhow::Result<Self> {
        let endpoint = env.text(ENDPOINT_ENV).map(WorkloadEndpoint::parse);
        let file = socket_file(env)?;
        let demanded = env.choice(
            "ITHILDIN_IDENTITY",
            "auto",
            &[
                ("auto", Demand::Auto),
                ("spire", Demand::Spire),
                ("files", Demand::Files),
                ("istiod", Demand::Istiod),
            ],
        )?;
        Ok(Self {
            demanded,
            endpoint: endpoint.transpose().context(ENDPOINT_ENV)?,
            workload_socket: format!("{WORKLOAD_SOCKETS}/{file}").into(),
            workload_socket_named: file != DEFAULT_SOCKET_FILE,
            files_socket: format!("{CREDENTIAL_SOCKETS}/files-socket").into(),
            credential_socket: CREDENTIAL_SOCKET.into(),
            credentials: WORKLOAD_CREDENTIALS.into(),
            trust_domain: env.text_or("TRUST_DOMAIN", DEFAULT_TRUST_DOMAIN),
            service_account: env.owned("SERVICE_ACCOUNT"),
            in_kubernetes: env.text("KUBERNETES_SERVICE_HOST").is_some(),
        })
    }
}

/// How secrets are made of the identity.
pub(super) fn sds(
    env: &Env,
    config: &ProxyConfig,
    svid: SvidSelector,
) -> anyhow::Result<SdsOptions> {
    Ok(SdsOptions {
        svid,
        pool_roots: env.flag("ITHILDIN_POOL_TRUST_ROOTS", false)?,
        federated: federated(env, config)?,
        ..SdsOptions::default()
    })
}

/// `ITHILDIN_FEDERATED_TRUST_DOMAINS`, also from `proxyMetadata`, so that one mesh configuration says it
/// for machines as well: names with commas in between.
fn federated(env: &Env, config: &ProxyConfig) -> anyhow::Result<BTreeSet<TrustDomain>> {
    const NAME: &str = "ITHILDIN_FEDERATED_TRUST_DOMAINS";
    let set = env.text(NAME);
    let set = set.or_else(|| config.metadata.get(NAME).map(String::as_str));
    let names = set.unwrap_or_default().split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(|name| TrustDomain::parse(name).map_err(|error| anyhow!("{NAME}: {name:?} {error}")))
        .collect()
}

/// Istio's name of the socket in the folder.
pub(crate) const DEFAULT_SOCKET_FILE: &str = "socket";

/// `WORKLOAD_IDENTITY_SOCKET_FILE`: a name, not a path.
pub(super) fn socket_file(env: &Env) -> anyhow::Result<String> {
    const NAME: &str = "WORKLOAD_IDENTITY_SOCKET_FILE";
    let file = env.text_or(NAME, DEFAULT_SOCKET_FILE);
    if file.contains('/') || file == "." || file == ".." {
        bail!("{NAME} {file:?} is not the name of a file in {WORKLOAD_SOCKETS}");
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(variables: &[(&str, &str)]) -> anyhow::Result<IdentitySettings> {
        IdentitySettings::resolve(&variables.iter().copied().collect())
    }

    #[test]
    fn a_socket_is_named_or_istios() {
        let settings = resolve(&[]).unwrap();
        assert!(settings.endpoint.is_none() && !settings.workload_socket_named);
        assert!(
            settings
                .workload_socket
                .ends_with("workload-spiffe-uds/socket")
        );
        assert_eq!(settings.trust_domain, "cluster.local");
        let settings = resolve(&[
            ("WORKLOAD_IDENTITY_SOCKET_FILE", "spire-agent.sock"),
            ("SPIFFE_ENDPOINT_SOCKET", "unix:///a.sock"),
            ("SERVICE_ACCOUNT", "web"),
        ])
        .unwrap();
        assert!(settings.workload_socket.ends_with("spire-agent.sock"));
        assert!(settings.workload_socket_named && settings.endpoint.is_some());
        assert_eq!(settings.service_account.as_deref(), Some("web"));
    }

    #[test]
    fn mistakes_name_their_variable() {
        for (name, value) in [
            ("SPIFFE_ENDPOINT_SOCKET", "/a.sock"),
            ("WORKLOAD_IDENTITY_SOCKET_FILE", "../socket"),
            ("WORKLOAD_IDENTITY_SOCKET_FILE", ".."),
            ("WORKLOAD_IDENTITY_SOCKET_FILE", "/run/socket"),
        ] {
            let error = format!("{:#}", resolve(&[(name, value)]).unwrap_err());
            assert!(error.starts_with(name), "{value:?}: {error}");
        }
    }
}
