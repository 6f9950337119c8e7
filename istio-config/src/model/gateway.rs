//! `networking.istio.io` Gateway.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::value::Unsupported;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Gateway {
    pub servers: Vec<Server>,
    pub selector: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Server {
    pub port: GatewayPort,
    /// An address instead of all of them.
    pub bind: Option<String>,
    /// `host`, `namespace/host`, `./host` or `*/host`.
    pub hosts: Vec<String>,
    pub tls: Option<ServerTls>,
    pub name: String,
    #[serde(rename = "defaultEndpoint")]
    _default_endpoint: Option<Unsupported>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct GatewayPort {
    pub number: u16,
    pub name: String,
    pub protocol: String,
    #[serde(rename = "targetPort")]
    _target_port: Option<Unsupported>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ServerTls {
    pub https_redirect: bool,
    pub mode: ServerTlsMode,
    /// Paths of PEM files on the proxy's file system.
    pub server_certificate: Option<String>,
    pub private_key: Option<String>,
    pub ca_certificates: Option<String>,
    /// Accepted SANs of client certificates, exact; empty: any.
    pub subject_alt_names: Vec<String>,
    pub min_protocol_version: TlsProtocol,
    pub max_protocol_version: TlsProtocol,
    pub cipher_suites: Vec<String>,
    #[serde(rename = "credentialName")]
    _credential_name: Option<Unsupported>,
    #[serde(rename = "credentialNames")]
    _credential_names: Option<Unsupported>,
    #[serde(rename = "caCertCredentialName")]
    _ca_cert_credential_name: Option<Unsupported>,
    #[serde(rename = "tlsCertificates")]
    _tls_certificates: Option<Unsupported>,
    #[serde(rename = "caCrl")]
    _ca_crl: Option<Unsupported>,
    #[serde(rename = "verifyCertificateSpki")]
    _verify_certificate_spki: Option<Unsupported>,
    #[serde(rename = "verifyCertificateHash")]
    _verify_certificate_hash: Option<Unsupported>,
    #[serde(rename = "insecureSkipVerify")]
    _insecure_skip_verify: Option<Unsupported>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum ServerTlsMode {
    #[default]
    Passthrough,
    Simple,
    Mutual,
    AutoPassthrough,
    IstioMutual,
    OptionalMutual,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum TlsProtocol {
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    #[serde(rename = "TLSV1_0")]
    V1_0,
    #[serde(rename = "TLSV1_1")]
    V1_1,
    #[serde(rename = "TLSV1_2")]
    V1_2,
    #[serde(rename = "TLSV1_3")]
    V1_3,
}

impl ServerTls {
    /// Whether anything is set that a plaintext server has no use for.
    pub(crate) fn has_more_than_redirect(&self) -> bool {
        self.mode != ServerTlsMode::default()
            || self.server_certificate.is_some()
            || self.private_key.is_some()
            || self.ca_certificates.is_some()
            || !self.subject_alt_names.is_empty()
            || !self.cipher_suites.is_empty()
            || self.min_protocol_version != TlsProtocol::Auto
            || self.max_protocol_version != TlsProtocol::Auto
    }
}

impl ServerTlsMode {
    /// As users write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Passthrough => "PASSTHROUGH",
            Self::Simple => "SIMPLE",
            Self::Mutual => "MUTUAL",
            Self::AutoPassthrough => "AUTO_PASSTHROUGH",
            Self::IstioMutual => "ISTIO_MUTUAL",
            Self::OptionalMutual => "OPTIONAL_MUTUAL",
        }
    }
}
