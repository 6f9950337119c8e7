//! The rules for the leaf certificate of an X.509-SVID (X509-SVID.md, sections 2 to 5 and appendix A).
//!
//! Invariant: a leaf passes only if it obeys every rule; each leaf that SPIRE issues passes. Chains,
//! validity times and revocation are judged elsewhere.

use rustls_pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, KeyUsage, ParsedExtension},
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521,
        OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519, OID_X509_EXT_BASIC_CONSTRAINTS,
        OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME,
        Oid,
    },
    public_key::{PublicKey, RSAPublicKey},
    x509::{SubjectPublicKeyInfo, X509Version},
};

use super::parse::{Extension, ParseError, extension, parse_certificate};
use crate::{IdError, SpiffeId};

/// The smallest RSA modulus that is taken, in bits (NIST SP 800-131A).
pub const MIN_RSA_BITS: usize = 2048;
/// The largest RSA modulus that is taken, in bits; verifying larger ones costs a server too much.
pub const MAX_RSA_BITS: usize = 8192;

/// Which rule of the X.509-SVID standard a leaf certificate breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    #[error("is not a parsable certificate: {0}")]
    Malformed(String),
    #[error("has no URI SAN")]
    NoUriSan,
    #[error("has {0} URI SANs; an X.509-SVID has exactly one")]
    SeveralUriSans(usize),
    #[error("has the URI SAN {san:?}, which {source}")]
    Id { san: String, source: IdError },
    #[error("has the SPIFFE ID {0:?} without a path, which names a trust domain and no workload")]
    NoPath(String),
    #[error("has an empty subject, but its SAN extension is not critical")]
    SanNotCritical,
    #[error("is a CA certificate (basic constraints cA is true)")]
    IsCa,
    #[error("has no key usage extension")]
    NoKeyUsage,
    #[error("has a key usage extension that is not critical")]
    KeyUsageNotCritical,
    #[error("lacks the key usage digitalSignature")]
    NoDigitalSignature,
    #[error("has the key usage {0}, which only a signing certificate may have")]
    SigningKeyUsage(&'static str),
    #[error("has an extended key usage without {0}")]
    ExtendedKeyUsage(&'static str),
    #[error("has an RSA key of {0} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are accepted")]
    RsaKeySize(usize),
    #[error("has an RSA key with the public exponent 1 or an even one")]
    RsaExponent,
    #[error(
        "has a key of algorithm or curve {0}; RSA, EC P-256, P-384, P-521 and Ed25519 are accepted"
    )]
    KeyAlgorithm(String),
}

impl LeafError {
    /// A short constant name of the broken rule, for logs, counters and tests.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed_certificate",
            Self::NoUriSan => "no_uri_san",
            Self::SeveralUriSans(_) => "several_uri_sans",
            Self::Id { .. } => "invalid_spiffe_id",
            Self::NoPath(_) => "spiffe_id_without_path",
            Self::SanNotCritical => "san_not_critical",
            Self::IsCa => "ca_as_leaf",
            Self::NoKeyUsage => "no_key_usage",
            Self::KeyUsageNotCritical => "key_usage_not_critical",
            Self::NoDigitalSignature => "no_digital_signature",
            Self::SigningKeyUsage(_) => "signing_key_usage",
            Self::ExtendedKeyUsage(_) => "extended_key_usage",
            Self::RsaKeySize(_) => "rsa_key_size",
            Self::RsaExponent => "rsa_exponent",
            Self::KeyAlgorithm(_) => "key_algorithm",
        }
    }
}

impl From<ParseError> for LeafError {
    fn from(error: ParseError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// Checks `leaf` against every rule for leaves and returns the SPIFFE ID that it carries.
pub fn check_leaf(leaf: &CertificateDer<'_>) -> Result<SpiffeId, LeafError> {
    check_parsed(&parse_certificate(leaf)?)
}

/// [`check_leaf`] for a certificate that is parsed already.
pub(super) fn check_parsed(certificate: &X509Certificate<'_>) -> Result<SpiffeId, LeafError> {
    if certificate.version() != X509Version::V3 {
        return Err(LeafError::Malformed("is not of version 3".into()));
    }
    let id = spiffe_id(certificate)?;
    check_basic_constraints(certificate)?;
    check_key_usage(certificate)?;
    check_extended_key_usage(certificate)?;
    check_public_key(certificate.public_key())?;
    Ok(id)
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, LeafError> {
    let Some(Extension { critical, parsed }) =
        extension(certificate, &OID_X509_EXT_SUBJECT_ALT_NAME)?
    else {
        return Err(LeafError::NoUriSan);
    };
    let ParsedExtension::SubjectAlternativeName(san) = parsed else {
        return Err(LeafError::Malformed("subject alternative name".into()));
    };
    let mut uris = Vec::new();
    for name in &san.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => {
                return Err(LeafError::Malformed("a subject alternative name".into()));
            }
            _ => {}
        }
    }
    let [uri] = uris[..] else {
        return Err(match uris.len() {
            0 => LeafError::NoUriSan,
            several => LeafError::SeveralUriSans(several),
        });
    };
    let id = SpiffeId::parse(uri).map_err(|source| LeafError::Id {
        san: uri.to_owned(),
        source,
    })?;
    if !id.is_workload() {
        return Err(LeafError::NoPath(uri.to_owned()));
    }
    // RFC 5280, section 4.2.1.6. The reverse, a critical SAN beside a subject, is only discouraged.
    if certificate.subject().iter().next().is_none() && !critical {
        return Err(LeafError::SanNotCritical);
    }
    Ok(id)
}

fn check_basic_constraints(certificate: &X509Certificate<'_>) -> Result<(), LeafError> {
    match extension(certificate, &OID_X509_EXT_BASIC_CONSTRAINTS)? {
        None => Ok(()),
        Some(Extension { parsed, .. }) => match parsed {
            ParsedExtension::BasicConstraints(constraints) if !constraints.ca => Ok(()),
            ParsedExtension::BasicConstraints(_) => Err(LeafError::IsCa),
            _ => Err(LeafError::Malformed("basic constraints".into())),
        },
    }
}

fn check_key_usage(certificate: &X509Certificate<'_>) -> Result<(), LeafError> {
    let (critical, usage) = key_usage(certificate)?.ok_or(LeafError::NoKeyUsage)?;
    if !critical {
        return Err(LeafError::KeyUsageNotCritical);
    }
    if usage.key_cert_sign() {
        return Err(LeafError::SigningKeyUsage("keyCertSign"));
    }
    if usage.crl_sign() {
        return Err(LeafError::SigningKeyUsage("cRLSign"));
    }
    if !usage.digital_signature() {
        return Err(LeafError::NoDigitalSignature);
    }
    Ok(())
}

/// Whether the extension is critical, and its flags; `None` if there is none.
pub(super) fn key_usage<'a>(
    certificate: &'a X509Certificate<'_>,
) -> Result<Option<(bool, &'a KeyUsage)>, ParseError> {
    match extension(certificate, &OID_X509_EXT_KEY_USAGE)? {
        None => Ok(None),
        Some(Extension {
            critical,
            parsed: ParsedExtension::KeyUsage(usage),
        }) => Ok(Some((critical, usage))),
        Some(_) => Err(ParseError("key usage".into())),
    }
}

fn check_extended_key_usage(certificate: &X509Certificate<'_>) -> Result<(), LeafError> {
    let Some(Extension { parsed, .. }) = extension(certificate, &OID_X509_EXT_EXTENDED_KEY_USAGE)?
    else {
        return Ok(());
    };
    let ParsedExtension::ExtendedKeyUsage(usage) = parsed else {
        return Err(LeafError::Malformed("extended key usage".into()));
    };
    if !usage.server_auth {
        return Err(LeafError::ExtendedKeyUsage("serverAuth"));
    }
    if !usage.client_auth {
        return Err(LeafError::ExtendedKeyUsage("clientAuth"));
    }
    Ok(())
}

fn check_public_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), LeafError> {
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        return match key.parsed() {
            Ok(PublicKey::RSA(rsa)) => check_rsa(&rsa),
            _ => Err(LeafError::Malformed("public key".into())),
        };
    }
    if *algorithm == OID_SIG_ED25519 {
        return Ok(());
    }
    if *algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return Err(LeafError::KeyAlgorithm(algorithm.to_id_string()));
    }
    let curve: Oid<'_> = key
        .algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.as_oid().ok())
        .ok_or_else(|| LeafError::KeyAlgorithm("EC without a named curve".into()))?;
    if ![OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521].contains(&curve) {
        return Err(LeafError::KeyAlgorithm(curve.to_id_string()));
    }
    Ok(())
}

fn check_rsa(key: &RSAPublicKey<'_>) -> Result<(), LeafError> {
    let bits = match significant(key.modulus) {
        [] => 0,
        [first, rest @ ..] => 8 * (rest.len() + 1) - first.leading_zeros() as usize,
    };
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
        return Err(LeafError::RsaKeySize(bits));
    }
    match significant(key.exponent) {
        [] | [1] => Err(LeafError::RsaExponent),
        [.., last] if last % 2 == 0 => Err(LeafError::RsaExponent),
        _ => Ok(()),
    }
}

fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}
