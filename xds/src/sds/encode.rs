//! Identities and bundles as Envoy's `Secret`.
//!
//! Invariants: a validation context is never empty; it pools the roots of two trust domains only where
//! nobody said whose they are, or an operator asked for it; and but for the one that is there for that
//! it carries no SAN matcher (Envoy would merge it with the configured ones, which widens them).

use ithildin_proto::{
    pack,
    pb::envoy::{
        config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{
            CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate,
            secret, spiffe_cert_validator_config,
        },
        r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
    },
    unpack,
};
use ithildin_spiffe::{
    IdentitySnapshot, TrustDomain, X509Bundle, X509Svid,
    x509::{certificates_from_pem, certificates_to_pem, crls_to_pem},
};
use zeroize::Zeroizing;

use super::{crl::Crls, file_identity::pooled_pem, tombstone, validator::Validator};

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

/// `trusted_ca` with every root of every trust domain, and every CRL. `None` if there is no root.
pub(super) fn pooled(name: &str, snapshot: &IdentitySnapshot) -> Option<Secret> {
    let bound = snapshot.bundles.values().flat_map(|bundle| &bundle.roots);
    let roots: Vec<_> = bound.chain(&snapshot.unbound_roots).cloned().collect();
    if roots.is_empty() {
        return None;
    }
    let crls = &snapshot.crls;
    let crl = (!crls.is_empty()).then(|| inline(crls_to_pem(crls).into_bytes()));
    Some(pem_validation(name, pooled_pem(roots).into(), crl))
}

/// Lets in peers of `domains` beside those that the context's user names: Envoy adds the SAN rules of
/// a served context to the configured ones. They are of the deprecated kind, which is the one that
/// istiod sends; the two kinds do not go together.
#[allow(deprecated)]
pub(super) fn admit<'a>(secret: &mut Secret, domains: impl IntoIterator<Item = &'a TrustDomain>) {
    let Some(secret::Type::ValidationContext(context)) = &mut secret.r#type else {
        return;
    };
    context.match_subject_alt_names = domains
        .into_iter()
        .map(|domain| StringMatcher {
            match_pattern: Some(MatchPattern::Prefix(format!("{}/", domain.id()))),
            ..Default::default()
        })
        .collect();
}

/// The roots and the CRLs of a context that [`pem_validation`] made.
pub(super) fn trusted_ca(secret: &Secret) -> (&[u8], Option<&DataSource>) {
    let Some(secret::Type::ValidationContext(context)) = &secret.r#type else {
        return (&[], None);
    };
    let roots = match context.trusted_ca.as_ref().map(|ca| &ca.specifier) {
        Some(Some(Specifier::InlineBytes(roots))) => roots.as_slice(),
        _ => &[],
    };
    (roots, context.crl.as_ref())
}

/// Chain and key of a certificate, in PEM; `None` if `secret` is none.
pub fn certificate_pem(secret: &Secret) -> Option<(Vec<u8>, Zeroizing<Vec<u8>>)> {
    let Some(secret::Type::TlsCertificate(certificate)) = &secret.r#type else {
        return None;
    };
    let chain = bytes(certificate.certificate_chain.as_ref()?)?;
    let key = bytes(certificate.private_key.as_ref()?)?;
    Some((chain.to_vec(), Zeroizing::new(key.to_vec())))
}

/// The roots of a validation context, in PEM; `None` if it has none. Of roots that are each bound to a
/// trust domain those of the first, our own: a file cannot keep them apart.
pub fn roots_pem(secret: &Secret) -> Option<Vec<u8>> {
    let Some(secret::Type::ValidationContext(context)) = &secret.r#type else {
        return None;
    };
    let own;
    let pem = match &context.custom_validator_config {
        Some(custom) => {
            let config: SpiffeCertValidatorConfig = unpack(custom.typed_config.as_ref()?).ok()?;
            own = config.trust_domains.into_iter().next()?.trust_bundle?;
            bytes(&own)?
        }
        None => bytes(context.trusted_ca.as_ref()?)?,
    };
    // Without the CRLs that the bundle may hold.
    let roots = certificates_from_pem(pem).ok()?;
    Some(certificates_to_pem(&roots).into_bytes())
}

fn bytes(source: &DataSource) -> Option<&[u8]> {
    match &source.specifier {
        Some(Specifier::InlineBytes(bytes)) => Some(bytes),
        _ => None,
    }
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

pub(super) fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(bytes)),
        ..Default::default()
    }
}
