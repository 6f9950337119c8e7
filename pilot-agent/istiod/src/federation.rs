//! Inbound listeners that also let in peers of federated trust domains, where an operator says so.
//!
//! istiod's inbound TLS contexts accept peers whose SPIFFE ID begins with the mesh's own trust domain or
//! one of its aliases. Such a context is pointed to another name of the same trust,
//! [`FEDERATED_BUNDLE`], with which our SDS also serves SAN rules for the domains that the operator
//! named, each for as long as there is a bundle for it. So a federation that comes or goes changes a
//! secret, and no listener: nothing is drained, and the order of events does not matter.
//!
//! What is left alone: outbound contexts, which name one service; contexts without SAN rules, which a
//! rule of ours would narrow; and whatever does not have istiod's form.

use ithildin_proto::{
    UnpackError, pack,
    pb::{
        envoy::{
            config::{
                core::v3::{TransportSocket, transport_socket::ConfigType},
                listener::v3::Listener,
            },
            extensions::transport_sockets::tls::v3::{
                CommonTlsContext, DownstreamTlsContext,
                common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
            },
            r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
        },
        google::protobuf::Any,
    },
    unpack,
};
use ithildin_xds::sds::{DEFAULT_BUNDLE, FEDERATED_BUNDLE};
use prost::Name;

/// How the SAN rules of a trust domain begin.
const SPIFFE: &str = "spiffe://";

/// Points the inbound TLS contexts of a listener to the trust that lets in federated domains; says how
/// many there were. A listener without any keeps its bytes.
///
/// # Errors
/// When `listener` is no listener, or a TLS context in it cannot be read.
pub fn admit_federated(listener: &mut Any) -> Result<usize, UnpackError> {
    let mut message: Listener = unpack(listener)?;
    let mut admitted = 0;
    let chains = message.filter_chains.iter_mut();
    for chain in chains.chain(&mut message.default_filter_chain) {
        if let Some(socket) = &mut chain.transport_socket {
            admitted += usize::from(admit_socket(socket)?);
        }
    }
    if admitted > 0 {
        *listener = pack(&message);
    }
    Ok(admitted)
}

fn admit_socket(socket: &mut TransportSocket) -> Result<bool, UnpackError> {
    let Some(ConfigType::TypedConfig(config)) = &mut socket.config_type else {
        return Ok(false);
    };
    if config.type_url != DownstreamTlsContext::type_url() {
        return Ok(false);
    }
    let mut context: DownstreamTlsContext = unpack(config)?;
    let admitted = context.common_tls_context.as_mut().is_some_and(admit);
    if admitted {
        *config = pack(&context);
    }
    Ok(admitted)
}

#[allow(deprecated)]
fn admit(context: &mut CommonTlsContext) -> bool {
    let Some(ValidationContextType::CombinedValidationContext(combined)) =
        &mut context.validation_context_type
    else {
        return false;
    };
    let CombinedCertificateValidationContext {
        default_validation_context: Some(rules),
        validation_context_sds_secret_config: Some(served),
        ..
    } = combined
    else {
        return false;
    };
    // The kind of rule that the served ones are of: Envoy refuses a context with both kinds.
    let names = &rules.match_subject_alt_names;
    let of_domains = !names.is_empty() && names.iter().all(is_of_domain);
    if served.name != DEFAULT_BUNDLE || !of_domains {
        return false;
    }
    served.name = FEDERATED_BUNDLE.to_owned();
    true
}

/// `spiffe://<trust domain>/` as a prefix.
fn is_of_domain(matcher: &StringMatcher) -> bool {
    match &matcher.match_pattern {
        Some(MatchPattern::Prefix(prefix)) => prefix.starts_with(SPIFFE),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
