//! Reading DER: one certificate, several without framing, the extensions of one, and CRLs.

use rustls_pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate, extensions::ParsedExtension, oid_registry::Oid,
    parse_x509_certificate, parse_x509_crl,
};

/// What could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub(super) String);

/// Splits concatenated DER certificates without framing, as the Workload API carries chains and
/// bundles. Empty input gives none.
pub fn split_certificates(der: &[u8]) -> Result<Vec<CertificateDer<'static>>, ParseError> {
    let mut certificates = Vec::new();
    let mut rest = der;
    while !rest.is_empty() {
        let (after, _) = parse_x509_certificate(rest)
            .map_err(|error| ParseError(format!("certificate {}: {error}", certificates.len())))?;
        let length = rest.len() - after.len();
        certificates.push(CertificateDer::from(rest[..length].to_vec()));
        rest = after;
    }
    Ok(certificates)
}

/// Checks that `der` is exactly one certificate revocation list.
pub fn check_crl(der: &[u8]) -> Result<(), ParseError> {
    match parse_x509_crl(der) {
        Ok(([], _)) => Ok(()),
        Ok((rest, _)) => Err(ParseError(format!("{} bytes follow the CRL", rest.len()))),
        Err(error) => Err(ParseError(error.to_string())),
    }
}

/// Parses exactly one certificate.
pub(super) fn parse_certificate<'a>(
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
pub(super) struct Extension<'a> {
    pub(super) critical: bool,
    pub(super) parsed: &'a ParsedExtension<'a>,
}

/// The extension `oid`; an error if it occurs twice (RFC 5280, section 4.2).
pub(super) fn extension<'a>(
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
