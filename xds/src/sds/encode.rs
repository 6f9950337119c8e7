//! Identities and bundles as Envoy's `Secret`.
//!
//! Invariants: a validation context is never empty, never pools the roots of two trust domains, and
//! carries no SAN matcher (Envoy would merge it with the configured ones, which widens them).

use ithildin_proto::{
    pack,
    pb::envoy::{
        config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{
            CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate,
            secret, spiffe_cert_validator_config,
        },
    },
};
use ithildin_spiffe::{
    IdentitySnapshot, X509Bundle, X509Svid,
    x509::{certificates_to_pem, crls_to_pem},
};

use super::{crl::Crls, tombstone, validator::Validator};

/// Envoy's name of its SPIFFE validator.
const SPIFFE_VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";

/// A `tls_certificate` with the chain and the key inline.
pub(super) fn certificate(name: &str, svid: &X509Svid) -> Secret {
    let chain = certificates_to_pem(&svid.chain);
    let key = svid.key.to_pem();
    pem_certificate(name, chain.into_bytes(), key.as_bytes().to_vec())
}

/// The same from PEM.
pub(super) fn pem_certificate(name: &str, chain: Vec<u8>, key: Vec<u8>) -> Secret {
    named(
        name,
        secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline(chain)),
            private_key: Some(inline(key)),
            ..Default::default()
        }),
    )
}

/// A validation context for `bundles`, each bound to its trust domain. `None` if none has a root.
///
/// With [`Validator::TrustedCa`] only the first one with a root is in it.
pub(super) fn validation<'a>(
    name: &str,
    bundles: impl IntoIterator<Item = &'a X509Bundle>,
    snapshot: &IdentitySnapshot,
    validator: Validator,
) -> Option<Secret> {
    let mut bundles = bundles
        .into_iter()
        .filter(|b| !b.roots.is_empty())
        .peekable();
    bundles.peek()?;
    let crls = Crls::of(snapshot);
    Some(match validator {
        Validator::Spiffe => spiffe_context(
            name,
            bundles.map(|bundle| {
                let mut pem = bundle.to_pem();
                pem.push_str(&crls_to_pem(&crls.for_bundle(bundle)));
                (bundle.trust_domain.as_str(), pem)
            }),
        ),
        Validator::TrustedCa => {
            let bundle = bundles.next()?;
            let crls = crls.for_bundle(bundle);
            let crl = (!crls.is_empty()).then(|| inline(crls_to_pem(&crls).into_bytes()));
            pem_validation(name, bundle.to_pem().into_bytes(), crl)
        }
    })
}

/// `trusted_ca` from PEM, which must hold a certificate.
pub(super) fn pem_validation(name: &str, roots: Vec<u8>, crl: Option<DataSource>) -> Secret {
    context(
        name,
        CertificateValidationContext {
            trusted_ca: Some(inline(roots)),
            crl,
            ..Default::default()
        },
    )
}

/// Trusts nobody. It has the validator of what it replaces: Envoy's SPIFFE validator demands a client
/// certificate where `trusted_ca` alone would not.
pub(super) fn no_trust(name: &str, trust_domain: &str, validator: Validator) -> Secret {
    let roots = tombstone::authority();
    match validator {
        Validator::Spiffe => spiffe_context(name, [(trust_domain, roots.to_owned())]),
        Validator::TrustedCa => pem_validation(name, roots.into(), None),
    }
}

/// Proves nothing.
pub(super) fn no_certificate(name: &str) -> Secret {
    let leaf = tombstone::leaf();
    pem_certificate(
        name,
        leaf.chain.clone().into(),
        leaf.key.as_bytes().to_vec(),
    )
}

fn spiffe_context<'a>(name: &str, bundles: impl IntoIterator<Item = (&'a str, String)>) -> Secret {
    let config = SpiffeCertValidatorConfig {
        trust_domains: bundles
            .into_iter()
            .map(|(name, pem)| spiffe_cert_validator_config::TrustDomain {
                name: name.into(),
                trust_bundle: Some(inline(pem.into_bytes())),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    context(
        name,
        CertificateValidationContext {
            custom_validator_config: Some(TypedExtensionConfig {
                name: SPIFFE_VALIDATOR.into(),
                typed_config: Some(pack(&config)),
            }),
            ..Default::default()
        },
    )
}

fn context(name: &str, context: CertificateValidationContext) -> Secret {
    named(name, secret::Type::ValidationContext(context))
}

fn named(name: &str, content: secret::Type) -> Secret {
    Secret {
        name: name.into(),
        r#type: Some(content),
    }
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(bytes)),
        ..Default::default()
    }
}
