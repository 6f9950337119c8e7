//! PEM in and out (RFC 7468).

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivatePkcs8KeyDer,
    pem::{self, PemObject},
};
use zeroize::Zeroizing;

use super::{ParseError, PrivateKey, check_crl, parse::parse_certificate};

/// Characters of base64 in a line (RFC 7468, section 2).
const LINE: usize = 64;

/// What is wrong with PEM text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    #[error("malformed PEM: {0}")]
    Syntax(String),
    #[error("no {0} block")]
    Missing(&'static str),
    #[error("{label} block {index}: {source}")]
    Content {
        label: &'static str,
        index: usize,
        source: ParseError,
    },
}

impl From<pem::Error> for PemError {
    fn from(error: pem::Error) -> Self {
        Self::Syntax(error.to_string())
    }
}

/// All `CERTIFICATE` blocks; at least one. Text and blocks of other kinds are passed over.
pub fn certificates_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates =
        CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<CertificateDer<'_>>, _>>()?;
    if certificates.is_empty() {
        return Err(PemError::Missing("CERTIFICATE"));
    }
    for (index, certificate) in certificates.iter().enumerate() {
        parse_certificate(certificate).map_err(|source| PemError::Content {
            label: "CERTIFICATE",
            index,
            source,
        })?;
    }
    Ok(certificates)
}

/// The `CERTIFICATE` blocks that hold a certificate, at least one, and what is wrong with the others:
/// one odd root of a company must not take the others along. PEM that is cut off is refused whole,
/// since its writer may still be at it.
pub fn readable_certificates_from_pem(
    pem: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, Vec<PemError>), PemError> {
    let mut odd = Vec::new();
    let mut certificates = Vec::new();
    for (index, block) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let certificate: CertificateDer<'_> = match block {
            Ok(certificate) => certificate,
            Err(error @ pem::Error::MissingSectionEnd { .. }) => return Err(error.into()),
            Err(error) => {
                odd.push(error.into());
                continue;
            }
        };
        match parse_certificate(&certificate) {
            Ok(_) => certificates.push(certificate),
            Err(source) => odd.push(PemError::Content {
                label: "CERTIFICATE",
                index,
                source,
            }),
        }
    }
    match (certificates.is_empty(), odd.is_empty()) {
        (true, true) => Err(PemError::Missing("CERTIFICATE")),
        (true, false) => Err(odd.swap_remove(0)),
        (false, _) => Ok((certificates, odd)),
    }
}

/// All `X509 CRL` blocks; there may be none.
pub fn crls_from_pem(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let crls = CertificateRevocationListDer::pem_slice_iter(pem)
        .collect::<Result<Vec<CertificateRevocationListDer<'_>>, _>>()?;
    for (index, crl) in crls.iter().enumerate() {
        check_crl(crl).map_err(|source| PemError::Content {
            label: "X509 CRL",
            index,
            source,
        })?;
    }
    Ok(crls)
}

/// The first `PRIVATE KEY` block, which is PKCS#8.
pub fn key_from_pem(pem: &[u8]) -> Result<PrivateKey, PemError> {
    match PrivatePkcs8KeyDer::from_pem_slice(pem) {
        Ok(key) => Ok(PrivateKey::from_pkcs8(key.secret_pkcs8_der().to_vec())),
        Err(pem::Error::NoItemsFound) => Err(PemError::Missing("PRIVATE KEY")),
        Err(error) => Err(error.into()),
    }
}

/// One `CERTIFICATE` block each.
pub fn certificates_to_pem(certificates: &[CertificateDer<'_>]) -> String {
    let mut out = String::new();
    for certificate in certificates {
        write_block(&mut out, "CERTIFICATE", certificate);
    }
    out
}

/// One `X509 CRL` block each.
pub fn crls_to_pem(crls: &[CertificateRevocationListDer<'_>]) -> String {
    let mut out = String::new();
    for crl in crls {
        write_block(&mut out, "X509 CRL", crl);
    }
    out
}

/// One `PRIVATE KEY` block. It is allocated once, so that no copy is left behind.
pub(super) fn key_to_pem(pkcs8: &[u8]) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(2 * pkcs8.len() + 128));
    write_block(&mut out, "PRIVATE KEY", pkcs8);
    out
}

fn write_block(out: &mut String, label: &str, der: &[u8]) {
    let base64 = Zeroizing::new(STANDARD.encode(der));
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
}
