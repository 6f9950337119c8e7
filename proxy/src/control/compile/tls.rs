//! Transport sockets: TLS contexts of filter chains and clusters.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use ithildin_proto::pb::{
    envoy::{
        config::core::v3::{TransportSocket, transport_socket::ConfigType},
        extensions::transport_sockets::{
            raw_buffer::v3::RawBuffer,
            tls::v3::{
                CertificateValidationContext, CommonTlsContext, DownstreamTlsContext,
                SdsSecretConfig, TlsCertificate, TlsParameters, UpstreamTlsContext,
                common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
                downstream_tls_context::SessionTicketKeysType,
                tls_parameters::TlsProtocol,
            },
        },
    },
    google::protobuf::Any,
};
use ithildin_tls::{
    ClientAuth, ClientContext, ClientParams, Identity, ServerContext, ServerParams, Slot,
    TlsVersion, Validation,
};

use crate::{
    config::cluster::Transport,
    control::{
        any,
        report::{At, no_effect, refuse},
        secrets::{SecretKey, SecretStore},
    },
};

/// Contexts by what they were made from. Clusters with one TLS configuration share one, which makes
/// thousands of them cheap; a session is resumed only under the same identity and trust all the same.
#[derive(Default)]
pub(in crate::control) struct TlsContexts {
    /// By the encoded message, and whether the server's name must match.
    clients: HashMap<(Vec<u8>, bool), KnownClient>,
}

struct KnownClient {
    context: Weak<ClientContext>,
    sni: Option<Arc<str>>,
    keys: Vec<SecretKey>,
}

impl TlsContexts {
    /// Forgets contexts, so that files are read anew by what is compiled from now on.
    pub(in crate::control) fn forget(&mut self) {
        self.clients.clear();
    }

    /// A cluster's transport. `None` as `socket` is plaintext.
    pub(super) fn client(
        &mut self,
        name: &Arc<str>,
        socket: Option<&TransportSocket>,
        match_server_name: bool,
        secrets: &mut SecretStore,
        at: &At<'_>,
    ) -> Option<(Transport, Vec<SecretKey>)> {
        let Some(config) = socket_config(socket, at)? else {
            return Some((Transport::Plaintext, Vec::new()));
        };
        let at = at.field("typed_config");
        let key = (config.value.clone(), match_server_name);
        if let Some(known) = self.clients.get(&key)
            && let Some(context) = known.context.upgrade()
        {
            let sni = known.sni.clone();
            return Some((Transport::Tls { context, sni }, known.keys.clone()));
        }
        let (context, sni, keys) = client_context(name, config, match_server_name, secrets, &at)?;
        let context = Arc::new(context);
        let known = KnownClient {
            context: Arc::downgrade(&context),
            sni: sni.clone(),
            keys: keys.clone(),
        };
        self.clients.insert(key, known);
        Some((Transport::Tls { context, sni }, keys))
    }
}

/// A filter chain's TLS context, if it has one.
pub(super) fn server(
    name: &Arc<str>,
    socket: Option<&TransportSocket>,
    secrets: &mut SecretStore,
    at: &At<'_>,
) -> Option<Option<(Arc<ServerContext>, Vec<SecretKey>)>> {
    let Some(config) = socket_config(socket, at)? else {
        return Some(None);
    };
    let at = at.field("typed_config");
    if !any::is::<DownstreamTlsContext>(config) {
        at.error(format_args!(
            "type {} is not supported",
            any::type_name(config)
        ));
        return None;
    }
    let DownstreamTlsContext {
        common_tls_context,
        require_client_certificate,
        require_sni,
        disable_stateful_session_resumption,
        session_timeout,
        ocsp_staple_policy,
        full_scan_certs_on_sni_mismatch,
        prefer_client_ciphers,
        session_ticket_keys_type,
    } = any::read(config, &at)?;
    let session_ticket_keys_type = &session_ticket_keys_type;
    let errors = at.errors();
    // There is one certificate, so no scan.
    no_effect!(full_scan_certs_on_sni_mismatch);
    at.not_true("require_sni", &require_sni);
    at.unset(
        "disable_stateful_session_resumption",
        &disable_stateful_session_resumption,
    );
    at.unset("session_timeout", &session_timeout);
    at.unset("ocsp_staple_policy", &ocsp_staple_policy);
    at.unset("prefer_client_ciphers", &prefer_client_ciphers);
    match session_ticket_keys_type {
        None | Some(SessionTicketKeysType::DisableStatelessSessionResumption(false)) => {}
        Some(_) => at.error("session ticket settings are not supported"),
    }
    let at = at.field("common_tls_context");
    let common = common_tls_context.unwrap_or_default();
    let required = require_client_certificate.is_some_and(|value| value.value);
    let common = common_context(&common, false, secrets, &at)?;
    let client_auth = match (&common.validation, required) {
        (None, true) => {
            at.error(
                "require_client_certificate is true, but there is no validation context to verify \
                 it with",
            );
            return None;
        }
        (None, false) => ClientAuth::None,
        (Some(_), true) => ClientAuth::Required,
        (Some(_), false) => ClientAuth::Optional,
    };
    let Some(identity) = common.identity else {
        at.error("a server needs one of tls_certificates and tls_certificate_sds_secret_configs");
        return None;
    };
    let context = ServerContext::new(ServerParams {
        name: Arc::clone(name),
        alpn: common.alpn,
        versions: common.versions,
        cipher_suites: common.cipher_suites,
        curves: common.curves,
        client_auth,
        identity,
        validation: common.validation,
    });
    let context = at.check(context)?;
    (at.errors() == errors).then(|| Some((Arc::new(context), common.keys)))
}

/// `typed_config` of a TLS socket; `Some(None)` for plaintext.
fn socket_config<'a>(socket: Option<&'a TransportSocket>, at: &At<'_>) -> Option<Option<&'a Any>> {
    let Some(TransportSocket { name, config_type }) = socket else {
        return Some(None);
    };
    match config_type {
        Some(ConfigType::TypedConfig(config)) if any::is::<RawBuffer>(config) => Some(None),
        Some(ConfigType::TypedConfig(config)) => Some(Some(config)),
        None if name == "envoy.transport_sockets.raw_buffer" => Some(None),
        None => {
            at.field("typed_config").error("is required");
            None
        }
    }
}

type NewClient = (ClientContext, Option<Arc<str>>, Vec<SecretKey>);

fn client_context(
    name: &Arc<str>,
    config: &Any,
    match_server_name: bool,
    secrets: &mut SecretStore,
    at: &At<'_>,
) -> Option<NewClient> {
    if !any::is::<UpstreamTlsContext>(config) {
        at.error(format_args!(
            "type {} is not supported",
            any::type_name(config)
        ));
        return None;
    }
    let UpstreamTlsContext {
        common_tls_context,
        sni,
        auto_host_sni,
        auto_sni_san_validation,
        allow_renegotiation,
        max_session_keys,
        enforce_rsa_key_usage,
    } = any::read(config, at)?;
    let errors = at.errors();
    // How many sessions are kept is ours to say; that none is, is the configuration's.
    if max_session_keys.is_some_and(|max| max.value == 0) {
        at.field("max_session_keys").error("0 is not supported");
    }
    at.not_false("enforce_rsa_key_usage", &enforce_rsa_key_usage);
    at.unset("auto_host_sni", &auto_host_sni);
    at.unset("auto_sni_san_validation", &auto_sni_san_validation);
    at.unset("allow_renegotiation", &allow_renegotiation);
    let common = common_tls_context.unwrap_or_default();
    let at_common = at.field("common_tls_context");
    let common = common_context(&common, match_server_name, secrets, &at_common)?;
    let validation = match common.validation {
        Some(validation) => validation,
        // Without any context Envoy verifies nothing; saying so twice is how it is said here.
        None => SecretStore::configured_validation(
            &CertificateValidationContext::default(),
            match_server_name,
            &at_common.field("validation_context"),
        )?,
    };
    let context = ClientContext::new(ClientParams {
        name: Arc::clone(name),
        alpn: common.alpn,
        versions: common.versions,
        cipher_suites: common.cipher_suites,
        curves: common.curves,
        identity: common.identity,
        validation,
    });
    let context = at_common.check(context)?;
    let sni = (!sni.is_empty()).then(|| Arc::from(sni.to_ascii_lowercase()));
    (at.errors() == errors).then_some((context, sni, common.keys))
}

/// What both sides share.
struct Common {
    alpn: Vec<Vec<u8>>,
    versions: (TlsVersion, TlsVersion),
    cipher_suites: Vec<String>,
    curves: Vec<String>,
    identity: Option<Arc<Slot<Identity>>>,
    validation: Option<Arc<Slot<Validation>>>,
    keys: Vec<SecretKey>,
}

fn common_context(
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
        identity: None,
        validation: None,
        keys: Vec::new(),
    };
    common.identity = identity(
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

fn identity(
    configured: &[TlsCertificate],
    served: &[SdsSecretConfig],
    secrets: &mut SecretStore,
    keys: &mut Vec<SecretKey>,
    at: &At<'_>,
) -> Option<Arc<Slot<Identity>>> {
    match (configured, served) {
        ([], []) => None,
        ([certificate], []) => {
            secrets.configured_identity(certificate, &at.index("tls_certificates", 0))
        }
        ([], [config]) => {
            let at = at.index("tls_certificate_sds_secret_configs", 0);
            let (key, slot) = secrets.served_identity(config, &at)?;
            keys.push(key);
            Some(slot)
        }
        ([], _) => {
            at.field("tls_certificate_sds_secret_configs")
                .error("more than one certificate is not supported");
            None
        }
        _ => {
            at.field("tls_certificates")
                .error("more than one certificate is not supported");
            None
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
    let range = (
        version(
            minimum,
            *tls_minimum_protocol_version,
            TlsVersion::Tls12,
            at,
        ),
        version(
            maximum,
            *tls_maximum_protocol_version,
            TlsVersion::Tls13,
            at,
        ),
    );
    if range.0 > range.1 {
        at.field(minimum)
            .error("is higher than tls_maximum_protocol_version");
    }
    range
}

fn version(name: &str, value: i32, auto: TlsVersion, at: &At<'_>) -> TlsVersion {
    match at.enumeration(name, value) {
        Some(TlsProtocol::TlsAuto) | None => auto,
        Some(TlsProtocol::TlSv12) => TlsVersion::Tls12,
        Some(TlsProtocol::TlSv13) => TlsVersion::Tls13,
        Some(TlsProtocol::TlSv10 | TlsProtocol::TlSv11) => {
            at.field(name)
                .error("TLSv1_0 and TLSv1_1 are not supported; the lowest is TLSv1_2");
            auto
        }
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
