//! TLS contexts of both sides.

use std::time::Duration;

use ithildin_proto::{
    pack,
    pb::envoy::{
        config::core::v3::TransportSocket,
        extensions::transport_sockets::{
            raw_buffer::v3::RawBuffer,
            tls::v3::{
                CertificateValidationContext, CommonTlsContext, DownstreamTlsContext,
                SdsSecretConfig, TlsParameters, UpstreamTlsContext,
                common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
                tls_parameters::TlsProtocol as Version,
            },
        },
        r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
    },
};

use super::wire::{grpc, on, transport_socket};
use crate::model::{ServerTls, ServerTlsMode, TlsProtocol};

/// Name of the workload's own certificate.
const WORKLOAD_SECRET: &str = "default";
/// Name of the bundles that verify peers of the mesh.
const ROOT_SECRET: &str = "ROOTCA";
/// Name of the roots of the operating system.
const SYSTEM_ROOT: &str = "system";

/// How long a TLS handshake of a client may take.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// What servers of HTTP offer.
const HTTP_ALPN: [&str; 2] = ["h2", "http/1.1"];

/// The cipher suites of Istio's inbound listeners.
const INBOUND_CIPHERS: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
];

/// mTLS with the workload's identity, as client.
pub(super) fn istio_mutual(
    sds_cluster: &str,
    sni: String,
    sans: impl IntoIterator<Item = String>,
    http2: bool,
) -> TransportSocket {
    let alpn: &[&str] = if http2 { &["istio", "h2"] } else { &["istio"] };
    upstream(UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(params_1_2_to_1_3()),
            ..common(
                sds_cluster,
                Some(WORKLOAD_SECRET),
                Some((ROOT_SECRET, sans)),
                alpn,
            )
        }),
        sni,
        ..UpstreamTlsContext::default()
    })
}

/// Files that a client names in a DestinationRule.
pub(super) struct ClientFiles<'a> {
    /// Chain and key; `None` with mode SIMPLE.
    pub certificate: Option<(&'a str, &'a str)>,
    /// `None`: the roots of the operating system.
    pub roots: Option<&'a str>,
}

/// TLS with files, as client.
pub(super) fn from_files(
    sds_cluster: &str,
    files: &ClientFiles<'_>,
    sni: String,
    sans: impl IntoIterator<Item = String>,
    http2: bool,
) -> TransportSocket {
    let alpn: &[&str] = if http2 { &["h2"] } else { &[] };
    let certificate = files
        .certificate
        .map(|(chain, key)| file_certificate(chain, key));
    let roots = file_root(files.roots.unwrap_or(SYSTEM_ROOT));
    upstream(UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(params_1_2_to_1_3()),
            ..common(
                sds_cluster,
                certificate.as_deref(),
                Some((&roots, sans)),
                alpn,
            )
        }),
        sni,
        ..UpstreamTlsContext::default()
    })
}

/// Plaintext, where a match needs to say so.
pub(super) fn plaintext() -> TransportSocket {
    transport_socket("envoy.transport_sockets.raw_buffer", pack(&RawBuffer {}))
}

/// A sidecar's own port: mTLS with any peer that the bundles verify.
pub(super) fn inbound(sds_cluster: &str) -> TransportSocket {
    let no_sans = std::iter::empty();
    downstream(DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                cipher_suites: INBOUND_CIPHERS.map(str::to_owned).to_vec(),
                ..params_1_2_to_1_3()
            }),
            ..common(
                sds_cluster,
                Some(WORKLOAD_SECRET),
                Some((ROOT_SECRET, no_sans)),
                &HTTP_ALPN,
            )
        }),
        require_client_certificate: on(true),
        ..DownstreamTlsContext::default()
    })
}

/// A server of a Gateway. The modes that need files have them, by validation.
pub(super) fn server(sds_cluster: &str, tls: &ServerTls) -> TransportSocket {
    let sans = tls.subject_alt_names.iter().cloned();
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let own = file_certificate(&text(&tls.server_certificate), &text(&tls.private_key));
    let roots = file_root(&text(&tls.ca_certificates));
    let (certificate, roots) = match tls.mode {
        ServerTlsMode::IstioMutual => (WORKLOAD_SECRET, Some((ROOT_SECRET, sans))),
        ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {
            (own.as_str(), Some((roots.as_str(), sans)))
        }
        ServerTlsMode::Simple | ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
            (own.as_str(), None)
        }
    };
    let required = matches!(tls.mode, ServerTlsMode::IstioMutual | ServerTlsMode::Mutual);
    downstream(DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: server_params(tls),
            ..common(sds_cluster, Some(certificate), roots, &HTTP_ALPN)
        }),
        require_client_certificate: on(required),
        ..DownstreamTlsContext::default()
    })
}

fn server_params(tls: &ServerTls) -> Option<TlsParameters> {
    let params = TlsParameters {
        tls_minimum_protocol_version: version(tls.min_protocol_version).into(),
        tls_maximum_protocol_version: version(tls.max_protocol_version).into(),
        cipher_suites: tls.cipher_suites.clone(),
        ..TlsParameters::default()
    };
    (params != TlsParameters::default()).then_some(params)
}

fn version(version: TlsProtocol) -> Version {
    match version {
        TlsProtocol::Auto => Version::TlsAuto,
        TlsProtocol::V1_0 => Version::TlSv10,
        TlsProtocol::V1_1 => Version::TlSv11,
        TlsProtocol::V1_2 => Version::TlSv12,
        TlsProtocol::V1_3 => Version::TlSv13,
    }
}

fn params_1_2_to_1_3() -> TlsParameters {
    TlsParameters {
        tls_minimum_protocol_version: Version::TlSv12.into(),
        tls_maximum_protocol_version: Version::TlSv13.into(),
        ..TlsParameters::default()
    }
}

fn common(
    sds_cluster: &str,
    certificate: Option<&str>,
    roots: Option<(&str, impl IntoIterator<Item = String>)>,
    alpn: &[&str],
) -> CommonTlsContext {
    let validation = roots.map(|(name, sans)| {
        ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
            default_validation_context: Some(accepting(sans)),
            validation_context_sds_secret_config: Some(secret(sds_cluster, name)),
            ..CombinedCertificateValidationContext::default()
        })
    });
    CommonTlsContext {
        tls_certificate_sds_secret_configs: certificate
            .map(|name| secret(sds_cluster, name))
            .into_iter()
            .collect(),
        validation_context_type: validation,
        alpn_protocols: alpn.iter().map(|&protocol| protocol.to_owned()).collect(),
        ..CommonTlsContext::default()
    }
}

/// The field is deprecated in Envoy for one that also names the kind of SAN, but it is the one
/// that istiod sends.
#[expect(deprecated, reason = "istiod sends this field, not its successor")]
fn accepting(sans: impl IntoIterator<Item = String>) -> CertificateValidationContext {
    CertificateValidationContext {
        match_subject_alt_names: sans
            .into_iter()
            .map(|san| StringMatcher {
                match_pattern: Some(MatchPattern::Exact(san)),
                ..StringMatcher::default()
            })
            .collect(),
        ..CertificateValidationContext::default()
    }
}

fn secret(sds_cluster: &str, name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(grpc(sds_cluster)),
    }
}

fn file_certificate(chain: &str, key: &str) -> String {
    format!("file-cert:{chain}~{key}")
}

fn file_root(path: &str) -> String {
    format!("file-root:{path}")
}

fn upstream(context: UpstreamTlsContext) -> TransportSocket {
    transport_socket("envoy.transport_sockets.tls", pack(&context))
}

fn downstream(context: DownstreamTlsContext) -> TransportSocket {
    transport_socket("envoy.transport_sockets.tls", pack(&context))
}
