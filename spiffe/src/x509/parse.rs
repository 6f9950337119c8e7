//! Reading DER: one certificate, several without framing, and the extensions of one.

use rustls_pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate, extensions::ParsedExtension, oid_registry::Oid,
    parse_x509_certificate,
};

/// What could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub String);

/// Parses exactly one certificate.
pub(crate) fn parse_certificate<'a>(
    der: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, ParseError> {
    match parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(ParseError(format!(
            "{} bytes follow the certificate",
            rest.len()
        ))),
        Err(error) => Err(ParseError(error.to_string())),
    }
}

/// An extension of a certificate.
pub(crate) struct Extension<'a> {
    pub(crate) critical: bool,
    pub(crate) parsed: &'a ParsedExtension<'a>,
}

/// The extension `oid`; an error if it occurs twice (RFC 5280, section 4.2).
pub(crate) fn extension<'a>(
    certificate: &'a X509Certificate<'_>,
    oid: &Oid<'_>,
) -> Result<Option<Extension<'a>>, ParseError> {
    let mut found = None;
    for candidate in certificate.extensions() {
        if candidate.oid != *oid {
            continue;
        }
        if found.is_some() {
            return Err(ParseError(format!("extension {oid} occurs twice")));
        }
        found = Some(Extension {
            critical: candidate.critical,
            parsed: candidate.parsed_extension(),
        });
    }
    Ok(found)
}
