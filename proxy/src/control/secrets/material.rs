//! What a secret holds, read: once for each update, however many use it.

use std::{sync::Arc, time::SystemTime};

use ithildin_proto::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, secret,
};
use ithildin_tls::{Identity, Trust, Validation};
use prost::Message;

use super::{
    identity,
    validation::{self, Origin},
};
use crate::control::report::{At, ConfigErrors, Report};

/// Reads `secret` and forgets it.
pub(in crate::control) fn check(secret: &Secret) -> Result<(), ConfigErrors> {
    let report = Report::default();
    let root = format!("secret {:?}", secret.name);
    let material = Material::read(secret, &report.root(&root));
    report.finish(material).map(drop)
}

/// A secret, read.
pub(super) enum Material {
    Identity(Arc<Identity>),
    Validation(Box<Context>),
}

/// A validation context, its roots parsed once.
pub(super) struct Context {
    trust: Trust,
    /// The served context without its roots.
    rules: CertificateValidationContext,
    /// The whole of it, for users whose defaults have roots too.
    whole: CertificateValidationContext,
}

impl Material {
    pub(super) fn read(secret: &Secret, at: &At<'_>) -> Option<Self> {
        match &secret.r#type {
            Some(secret::Type::TlsCertificate(certificate)) => {
                let at = at.field("tls_certificate");
                let identity = identity::identity(certificate, &at)?;
                if identity.not_after <= SystemTime::now() {
                    at.field("certificate_chain")
                        .error("the certificate has expired");
                    return None;
                }
                Some(Self::Identity(Arc::new(identity)))
            }
            Some(secret::Type::ValidationContext(context)) => {
                let at = at.field("validation_context");
                validation::rules(context, false, &at)?;
                Some(Self::Validation(Box::new(Context {
                    trust: validation::trust(context, Origin::Served, &at)?,
                    rules: without_roots(context),
                    whole: context.clone(),
                })))
            }
            Some(secret::Type::SessionTicketKeys(_) | secret::Type::GenericSecret(_)) | None => {
                at.error("is neither a tls_certificate nor a validation_context");
                None
            }
        }
    }

    pub(super) fn identity(&self, at: &At<'_>) -> Option<Arc<Identity>> {
        match self {
            Self::Identity(identity) => Some(Arc::clone(identity)),
            Self::Validation(_) => {
                at.error("is a validation_context, but is used as a tls_certificate");
                None
            }
        }
    }

    pub(super) fn validation(&self, user: &ValidationUse, at: &At<'_>) -> Option<Validation> {
        let Self::Validation(context) = self else {
            at.error("is a tls_certificate, but is used as a validation_context");
            return None;
        };
        let at = at.field("validation_context");
        let defaults = CertificateValidationContext::decode(user.defaults.as_slice())
            .expect("a message that was just encoded decodes");
        if without_roots(&defaults) != defaults {
            let merged = merge(&defaults, &context.whole);
            return validation::validation(&merged, Origin::Served, user.match_server_name, &at);
        }
        let merged = merge(&defaults, &context.rules);
        let rules = validation::rules(&merged, user.match_server_name, &at)?;
        Some(rules.with(share(&context.trust)))
    }
}

/// How a validation context is used.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct ValidationUse {
    /// `default_validation_context`, encoded.
    pub(super) defaults: Vec<u8>,
    pub(super) match_server_name: bool,
}

/// The fields that say which roots there are, and how they are used, left out.
fn without_roots(context: &CertificateValidationContext) -> CertificateValidationContext {
    CertificateValidationContext {
        trusted_ca: None,
        crl: None,
        custom_validator_config: None,
        trust_chain_verification: 0,
        ..context.clone()
    }
}

/// The same roots once more: they are parsed once, however many clusters use them.
fn share(trust: &Trust) -> Trust {
    match trust {
        Trust::Spiffe(domains) => Trust::Spiffe(domains.clone()),
        Trust::Ca(roots) => Trust::Ca(Arc::clone(roots)),
        Trust::AcceptUntrusted => Trust::AcceptUntrusted,
    }
}

/// What protobuf's merge makes of the two, as `combined_validation_context` says: single fields of
/// `served` win, lists are joined.
fn merge(
    defaults: &CertificateValidationContext,
    served: &CertificateValidationContext,
) -> CertificateValidationContext {
    let mut merged = defaults.clone();
    merged
        .merge(served.encode_to_vec().as_slice())
        .expect("a message that was just encoded decodes");
    merged
}
