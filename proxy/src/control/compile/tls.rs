//! Transport sockets: TLS contexts of filter chains and clusters.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use ithildin_proto::pb::{
    envoy::{
        config::core::v3::{
            ProxyProtocolConfig, TransportSocket as TransportSocketProto,
            proxy_protocol_config::Version, transport_socket::ConfigType,
        },
        extensions::transport_sockets::{
            proxy_protocol::v3::ProxyProtocolUpstreamTransport,
            raw_buffer::v3::RawBuffer,
            tls::v3::{
                CertificateValidationContext, DownstreamTlsContext, UpstreamTlsContext,
                downstream_tls_context::SessionTicketKeysType,
            },
        },
    },
    google::protobuf::Any,
};
use ithildin_tls::{ClientAuth, ClientContext, ClientParams, ServerContext, ServerParams};

use super::tls_common::{at_most_one_certificate, common_context};
use crate::{
    config::cluster::{Transport, TransportSocket},
    control::{
        any,
        report::{At, no_effect, refuse},
        secrets::{SecretKey, SecretStore},
    },
    proxy_protocol,
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

    /// A cluster's transport socket. `None` as `socket` is plaintext.
    pub(super) fn client(
        &mut self,
        name: &Arc<str>,
        socket: Option<&TransportSocketProto>,
        match_server_name: bool,
        secrets: &mut SecretStore,
        at: &At<'_>,
    ) -> Option<(TransportSocket, Vec<SecretKey>)> {
        let Some(config) = wrapper(socket) else {
            let (transport, keys) = self.transport(name, socket, match_server_name, secrets, at)?;
            return Some((transport.into(), keys));
        };
        let at = at.field("typed_config");
        let ProxyProtocolUpstreamTransport {
            config,
            transport_socket,
            allow_unspecified_address,
            tlv_as_pool_key,
        } = any::read(config, &at)?;
        // There are no TLVs, and our clients have addresses.
        no_effect!(allow_unspecified_address, tlv_as_pool_key);
        let version = proxy_version(config.unwrap_or_default(), &at.field("config"));
        let (inner, at) = (transport_socket.as_ref(), at.field("transport_socket"));
        if inner.is_none() {
            at.error("is required");
        }
        let (transport, keys) = self.transport(name, inner, match_server_name, secrets, &at)?;
        let socket = TransportSocket {
            transport,
            proxy_protocol: Some(version?),
        };
        Some((socket, keys))
    }

    fn transport(
        &mut self,
        name: &Arc<str>,
        socket: Option<&TransportSocketProto>,
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

/// What is around a transport socket, if it tells of the client by the PROXY protocol.
fn wrapper(socket: Option<&TransportSocketProto>) -> Option<&Any> {
    let ConfigType::TypedConfig(config) = socket?.config_type.as_ref()?;
    any::is::<ProxyProtocolUpstreamTransport>(config).then_some(config)
}

fn proxy_version(config: ProxyProtocolConfig, at: &At<'_>) -> Option<proxy_protocol::Version> {
    let ProxyProtocolConfig {
        version,
        pass_through_tlvs,
        added_tlvs,
    } = &config;
    refuse!(at; pass_through_tlvs, added_tlvs);
    Some(match at.enumeration("version", *version)? {
        Version::V1 => proxy_protocol::Version::V1,
        Version::V2 => proxy_protocol::Version::V2,
    })
}

/// A filter chain's TLS context, if it has one.
pub(super) fn server(
    name: &Arc<str>,
    socket: Option<&TransportSocketProto>,
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
    let mut identities = common.identities.into_iter();
    let Some(identity) = identities.next() else {
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
        alternatives: identities.collect(),
        full_scan: full_scan_certs_on_sni_mismatch.is_some_and(|value| value.value),
        validation: common.validation,
    });
    let context = at.check(context)?;
    (at.errors() == errors).then(|| Some((Arc::new(context), common.keys)))
}

/// `typed_config` of a TLS socket; `Some(None)` for plaintext.
fn socket_config<'a>(
    socket: Option<&'a TransportSocketProto>,
    at: &At<'_>,
) -> Option<Option<&'a Any>> {
    let Some(TransportSocketProto { name, config_type }) = socket else {
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
    at_most_one_certificate(&common, &at_common);
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
        identity: common.identities.into_iter().next(),
        validation,
    });
    let context = at_common.check(context)?;
    let sni = (!sni.is_empty()).then(|| Arc::from(sni.to_ascii_lowercase()));
    (at.errors() == errors).then_some((context, sni, common.keys))
}
