//! The rules for signing certificates: what stands between a leaf and its root.

use rustls_pki_types::CertificateDer;
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME},
};

use super::{
    leaf::key_usage,
    parse::{Extension, ParseError, extension, parse_certificate},
};
use crate::{IdError, SpiffeId, TrustDomain};

/// Which rule of the X.509-SVID standard a signing certificate breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    #[error("is not a parsable certificate: {0}")]
    Malformed(#[from] ParseError),
    #[error("is not a CA certificate")]
    NotCa,
    #[error("lacks the key usage keyCertSign")]
    NoKeyCertSign,
    #[error("has the URI SAN {san:?}, which {source}")]
    Id { san: String, source: IdError },
    #[error("has the SPIFFE ID {0:?} with a path; a signing certificate's has none")]
    Path(String),
    #[error("is of the trust domain {found}, but the leaf is of {leaf}")]
    TrustDomain { found: String, leaf: TrustDomain },
}

impl SigningError {
    /// A short constant name of the broken rule, for logs, counters and tests.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed_certificate",
            Self::NotCa => "issuer_not_ca",
            Self::NoKeyCertSign => "issuer_key_usage",
            Self::Id { .. } => "issuer_spiffe_id",
            Self::Path(_) => "issuer_spiffe_id_path",
            Self::TrustDomain { .. } => "issuer_trust_domain",
        }
    }
}

/// Checks that `certificate` may sign leaves of `leaf`'s trust domain. A URI SAN of another scheme is
/// no SPIFFE ID and is passed over: upstream CAs of companies have them.
pub fn check_signing(
    certificate: &CertificateDer<'_>,
    leaf: &TrustDomain,
) -> Result<(), SigningError> {
    let parsed = parse_certificate(certificate)?;
    match extension(&parsed, &OID_X509_EXT_BASIC_CONSTRAINTS)? {
        Some(Extension {
            parsed: ParsedExtension::BasicConstraints(constraints),
            ..
        }) if constraints.ca => {}
        _ => return Err(SigningError::NotCa),
    }
    if !key_usage(&parsed)?.is_some_and(|(_, usage)| usage.key_cert_sign()) {
        return Err(SigningError::NoKeyCertSign);
    }
    match extension(&parsed, &OID_X509_EXT_SUBJECT_ALT_NAME)? {
        None => Ok(()),
        Some(Extension {
            parsed: ParsedExtension::SubjectAlternativeName(san),
            ..
        }) => san.general_names.iter().try_for_each(|name| match name {
            GeneralName::URI(uri) => check_uri(uri, leaf),
            _ => Ok(()),
        }),
        Some(_) => Err(ParseError("subject alternative name".into()).into()),
    }
}

/// The trust domain that a signing certificate says it is of, by its SPIFFE ID; `None` if it has none,
/// as the roots of istiod and of companies have not.
pub fn signing_trust_domain(
    certificate: &CertificateDer<'_>,
) -> Result<Option<TrustDomain>, SigningError> {
    let parsed = parse_certificate(certificate)?;
    let Some(Extension {
        parsed: ParsedExtension::SubjectAlternativeName(san),
        ..
    }) = extension(&parsed, &OID_X509_EXT_SUBJECT_ALT_NAME)?
    else {
        return Ok(None);
    };
    let mut found = None;
    for name in &san.general_names {
        let GeneralName::URI(uri) = name else {
            continue;
        };
        let domain = match SpiffeId::parse(uri) {
            Ok(id) => id.trust_domain(),
            Err(_) => continue,
        };
        check_uri(uri, found.as_ref().unwrap_or(&domain))?;
        found = Some(domain);
    }
    Ok(found)
}

fn check_uri(uri: &str, leaf: &TrustDomain) -> Result<(), SigningError> {
    let id = match SpiffeId::parse(uri) {
        Ok(id) => id,
        Err(IdError::Scheme) => return Ok(()),
        Err(source) => {
            return Err(SigningError::Id {
                san: uri.to_owned(),
                source,
            });
        }
    };
    if id.is_workload() {
        return Err(SigningError::Path(uri.to_owned()));
    }
    if id.trust_domain_name() != leaf.as_str() {
        return Err(SigningError::TrustDomain {
            found: id.trust_domain_name().to_owned(),
            leaf: leaf.clone(),
        });
    }
    Ok(())
}
