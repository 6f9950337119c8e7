//! `CommonTlsContext`: what servers and clients have in common.

use std::sync::Arc;

use ithildin_proto::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, TlsCertificate, TlsParameters,
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    tls_parameters::TlsProtocol,
};
use ithildin_tls::{Identity, Slot, TlsVersion, Validation};

use crate::control::{
    report::{At, no_effect, refuse},
    secrets::{SecretKey, SecretStore},
};

/// What both sides share.
pub(super) struct Common {
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) versions: (TlsVersion, TlsVersion),
    pub(super) cipher_suites: Vec<String>,
    pub(super) curves: Vec<String>,
    /// Of which a client takes one only.
    pub(super) identities: Vec<Arc<Slot<Identity>>>,
    pub(super) validation: Option<Arc<Slot<Validation>>>,
    pub(super) keys: Vec<SecretKey>,
}

pub(super) fn common_context(
    config: &CommonTlsContext,
    match_server_name: bool,
    secrets: &mut SecretStore,
    at: &At<'_>,
) -> Option<Common> {
    let CommonTlsContext {
        tls_params,
        tls_certificates,
        tls_certificate_sds_secret_configs,
        tls_certificate_provider_instance,
        custom_tls_certificate_selector,
        tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance,
        alpn_protocols,
        custom_handshaker,
        key_log,
        validation_context_type,
    } = config;
    let errors = at.errors();
    refuse!(
        at;
        tls_certificate_provider_instance, custom_tls_certificate_selector,
        tls_certificate_certificate_provider, tls_certificate_certificate_provider_instance,
        custom_handshaker, key_log,
    );
    let params = tls_params.clone().unwrap_or_default();
    let mut common = Common {
        alpn: alpn(alpn_protocols, at),
        versions: versions(&params, &at.field("tls_params")),
        cipher_suites: split(&params.cipher_suites, &['[', ']', '|']),
        // Commonly written as one string, as OpenSSL takes them.
        curves: split(&params.ecdh_curves, &[':', ',']),
        identities: Vec::new(),
        validation: None,
        keys: Vec::new(),
    };
    common.identities = identities(
        tls_certificates,
        tls_certificate_sds_secret_configs,
        secrets,
        &mut common.keys,
        at,
    );
    if let Some(context) = validation_context_type {
        validation(context, match_server_name, &mut common, secrets, at);
    }
    (at.errors() == errors).then_some(common)
}

fn identities(
    configured: &[TlsCertificate],
    served: &[SdsSecretConfig],
    secrets: &mut SecretStore,
    keys: &mut Vec<SecretKey>,
    at: &At<'_>,
) -> Vec<Arc<Slot<Identity>>> {
    if !configured.is_empty() && !served.is_empty() {
        at.field("tls_certificates")
            .error("cannot stand beside tls_certificate_sds_secret_configs");
        return Vec::new();
    }
    let mut slots = Vec::new();
    for (index, certificate) in configured.iter().enumerate() {
        let at = at.index("tls_certificates", index);
        slots.extend(secrets.configured_identity(certificate, &at));
    }
    for (index, config) in served.iter().enumerate() {
        let at = at.index("tls_certificate_sds_secret_configs", index);
        if let Some((key, slot)) = secrets.served_identity(config, &at) {
            keys.push(key);
            slots.push(slot);
        }
    }
    slots
}

/// A client has one certificate to show, or none.
pub(super) fn at_most_one_certificate(config: &CommonTlsContext, at: &At<'_>) {
    for (field, count) in [
        ("tls_certificates", config.tls_certificates.len()),
        (
            "tls_certificate_sds_secret_configs",
            config.tls_certificate_sds_secret_configs.len(),
        ),
    ] {
        if count > 1 {
            at.field(field)
                .error("more than one certificate is not supported in a client");
        }
    }
}

fn validation(
    context: &ValidationContextType,
    match_server_name: bool,
    common: &mut Common,
    secrets: &mut SecretStore,
    at: &At<'_>,
) {
    let served = match context {
        ValidationContextType::ValidationContext(context) => {
            let at = at.field("validation_context");
            common.validation = SecretStore::configured_validation(context, match_server_name, &at);
            return;
        }
        ValidationContextType::ValidationContextSdsSecretConfig(config) => {
            let at = at.field("validation_context_sds_secret_config");
            let defaults = CertificateValidationContext::default();
            secrets.served_validation(config, &defaults, match_server_name, &at)
        }
        ValidationContextType::CombinedValidationContext(combined) => {
            let at = at.field("combined_validation_context");
            combined_validation(combined, match_server_name, secrets, &at)
        }
        ValidationContextType::ValidationContextCertificateProvider(_)
        | ValidationContextType::ValidationContextCertificateProviderInstance(_) => {
            at.error("certificate providers are not supported as validation context");
            None
        }
    };
    if let Some((key, slot)) = served {
        common.keys.push(key);
        common.validation = Some(slot);
    }
}

fn combined_validation(
    config: &CombinedCertificateValidationContext,
    match_server_name: bool,
    secrets: &mut SecretStore,
    at: &At<'_>,
) -> Option<(SecretKey, Arc<Slot<Validation>>)> {
    let CombinedCertificateValidationContext {
        default_validation_context,
        validation_context_sds_secret_config,
        validation_context_certificate_provider,
        validation_context_certificate_provider_instance,
    } = config;
    refuse!(
        at;
        validation_context_certificate_provider, validation_context_certificate_provider_instance,
    );
    let Some(served) = validation_context_sds_secret_config else {
        at.field("validation_context_sds_secret_config")
            .error("is required");
        return None;
    };
    let defaults = default_validation_context.clone().unwrap_or_default();
    secrets.served_validation(served, &defaults, match_server_name, at)
}

fn alpn(protocols: &[String], at: &At<'_>) -> Vec<Vec<u8>> {
    // As Envoy does: each entry may hold several, with commas.
    let names = protocols.iter().flat_map(|names| names.split(','));
    names
        .map(str::trim)
        .filter(|name| {
            let fits = (1..=255).contains(&name.len());
            if !fits {
                at.field("alpn_protocols")
                    .error(format_args!("{name:?} is not from 1 to 255 bytes long"));
            }
            fits
        })
        .map(|name| name.as_bytes().to_vec())
        .collect()
}

fn versions(params: &TlsParameters, at: &At<'_>) -> (TlsVersion, TlsVersion) {
    let TlsParameters {
        tls_minimum_protocol_version,
        tls_maximum_protocol_version,
        cipher_suites,
        ecdh_curves,
        signature_algorithms,
        compliance_policies,
    } = params;
    // Read by the caller.
    no_effect!(cipher_suites, ecdh_curves);
    refuse!(at; signature_algorithms, compliance_policies);
    let minimum = "tls_minimum_protocol_version";
    let maximum = "tls_maximum_protocol_version";
    const OLD: &str = "TLSv1_0 and TLSv1_1 are not supported; the lowest is TLSv1_2";
    let lowest = version(
        minimum,
        *tls_minimum_protocol_version,
        TlsVersion::Tls12,
        at,
    );
    let highest = version(
        maximum,
        *tls_maximum_protocol_version,
        TlsVersion::Tls13,
        at,
    );
    // It admits what we have, too.
    if lowest.is_none() {
        at.field(minimum).warn(OLD);
    }
    if highest.is_none() {
        at.field(maximum).error(OLD);
    }
    let range = (
        lowest.unwrap_or(TlsVersion::Tls12),
        highest.unwrap_or(TlsVersion::Tls13),
    );
    if range.0 > range.1 {
        at.field(minimum)
            .error("is higher than tls_maximum_protocol_version");
    }
    range
}

/// `None` for those that are older than ours.
fn version(name: &str, value: i32, auto: TlsVersion, at: &At<'_>) -> Option<TlsVersion> {
    match at.enumeration(name, value) {
        Some(TlsProtocol::TlsAuto) | None => Some(auto),
        Some(TlsProtocol::TlSv12) => Some(TlsVersion::Tls12),
        Some(TlsProtocol::TlSv13) => Some(TlsVersion::Tls13),
        Some(TlsProtocol::TlSv10 | TlsProtocol::TlSv11) => None,
    }
}

fn split(texts: &[String], separators: &[char]) -> Vec<String> {
    let parts = texts.iter().flat_map(|text| text.split(separators));
    parts
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}
