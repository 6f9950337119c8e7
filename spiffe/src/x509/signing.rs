//! The rules for signing certificates: what stands between a leaf and its root.

use rustls_pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
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
    #[error("has several SPIFFE IDs; a signing certificate has one at most")]
    Several,
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
            Self::Several => "issuer_spiffe_ids",
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
    match trust_domain(&parsed)? {
        Some(found) if found != *leaf => Err(SigningError::TrustDomain {
            found: found.to_string(),
            leaf: leaf.clone(),
        }),
        _ => Ok(()),
    }
}

/// The trust domain that a signing certificate says it is of, by its SPIFFE ID; `None` if it has none,
/// as the roots of istiod and of companies have not.
pub fn signing_trust_domain(
    certificate: &CertificateDer<'_>,
) -> Result<Option<TrustDomain>, SigningError> {
    trust_domain(&parse_certificate(certificate)?)
}

fn trust_domain(certificate: &X509Certificate<'_>) -> Result<Option<TrustDomain>, SigningError> {
    match extension(certificate, &OID_X509_EXT_SUBJECT_ALT_NAME)? {
        None => Ok(None),
        Some(Extension {
            parsed: ParsedExtension::SubjectAlternativeName(san),
            ..
        }) => {
            let names = san.general_names.iter();
            signing_trust_domain_of(names.filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            }))
        }
        Some(_) => Err(ParseError("subject alternative name".into()).into()),
    }
}

/// As [`signing_trust_domain`], by a certificate's URI SANs.
pub fn signing_trust_domain_of<'a>(
    uris: impl IntoIterator<Item = &'a str>,
) -> Result<Option<TrustDomain>, SigningError> {
    let mut found = None;
    for uri in uris.into_iter().filter(|uri| claims_spiffe(uri)) {
        let id = SpiffeId::parse(uri).map_err(|source| SigningError::Id {
            san: uri.to_owned(),
            source,
        })?;
        if id.is_workload() {
            return Err(SigningError::Path(uri.to_owned()));
        }
        if found.replace(id.trust_domain()).is_some() {
            return Err(SigningError::Several);
        }
    }
    Ok(found)
}

/// Whether a URI says that it is a SPIFFE ID, well formed or not.
pub fn claims_spiffe(uri: &str) -> bool {
    const SCHEME: &str = "spiffe:";
    uri.get(..SCHEME.len())
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_other_schemes_are_passed_over() {
        let domain = |uris: &[&str]| signing_trust_domain_of(uris.iter().copied());
        let other = "https://ca.example.org/root";
        assert_eq!(domain(&[]), Ok(None));
        assert_eq!(domain(&[other, "", "urn:spiffe:x"]), Ok(None));
        let ours = TrustDomain::parse("ours.test").unwrap();
        assert_eq!(domain(&[other, "spiffe://ours.test"]), Ok(Some(ours)));
        for (uris, rule) in [
            (&["spiffe://Other.test"][..], "issuer_spiffe_id"),
            (&["SPIFFE://other.test"], "issuer_spiffe_id"),
            (&["spiffe:other.test"], "issuer_spiffe_id"),
            (&["spiffe://"], "issuer_spiffe_id"),
            (&["spiffe://ours.test/ca"], "issuer_spiffe_id_path"),
            (
                &["spiffe://ours.test", "spiffe://ours.test"],
                "issuer_spiffe_ids",
            ),
            (
                &["spiffe://ours.test", "spiffe://other.test"],
                "issuer_spiffe_ids",
            ),
        ] {
            assert_eq!(domain(uris).unwrap_err().rule(), rule, "{uris:?}");
        }
    }
}
