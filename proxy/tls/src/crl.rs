//! Certificate revocation lists.
//!
//! A CRL speaks for the certificates that its issuer issued: same name, and a signature by the very
//! key that signed them, so that CAs that share a name across a rotation do not disturb each other.
//! A certificate that no CRL speaks for counts as not revoked: SPIRE sends no CRLs, and to demand
//! one for each CA would cut off every domain that has none. A CRL past its `nextUpdate` with no
//! fresher one beside it refuses, as in Envoy.

use std::time::SystemTime;

use rustls::pki_types::SignatureVerificationAlgorithm;
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::{
    certificate::X509Certificate, parse_x509_crl, revocation_list::CertificateRevocationList,
};

use crate::{MaterialError, certificate::system_time, material::malformed, provider};

const CRL: &str = "crl";

/// All CRLs of one set of roots.
#[derive(Debug, Default)]
pub(crate) struct Crls(Vec<Crl>);

#[derive(Debug)]
struct Crl {
    list: CertRevocationList<'static>,
    der: Vec<u8>,
    next_update: Option<SystemTime>,
}

/// Why a certificate is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Revocation {
    Revoked,
    /// The only CRLs that speak for it are out of date since then.
    Stale(SystemTime),
}

impl Crls {
    pub(crate) fn from_der<'a>(
        lists: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, MaterialError> {
        let parse = |der: &'a [u8]| {
            let list = OwnedCertRevocationList::from_der(der)
                .map_err(|error| malformed(CRL, &format!("{error:?}")))?;
            let next_update = parsed(der)
                .ok_or_else(|| malformed(CRL, &"unreadable"))?
                .next_update()
                .map(|time| system_time(&time));
            Ok(Crl {
                list: list.into(),
                der: der.to_vec(),
                next_update,
            })
        };
        lists
            .into_iter()
            .map(parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Judges `certificate`, which `issuer` signed. Yields when the CRL that cleared it is out of
    /// date, if one did.
    pub(crate) fn check(
        &self,
        certificate: &webpki::Cert<'_>,
        issuer: &X509Certificate<'_>,
        now: SystemTime,
    ) -> Result<Option<SystemTime>, Revocation> {
        let mut fresh = false;
        let mut until = None;
        let mut stale = None;
        for crl in &self.0 {
            if crl.list.issuer() != certificate.issuer() || !crl.is_signed_by(issuer) {
                continue;
            }
            // An unreadable entry might be this very certificate's.
            if !matches!(crl.list.find_serial(certificate.serial()), Ok(None)) {
                return Err(Revocation::Revoked);
            }
            match crl.next_update {
                Some(next) if next < now => stale = Some(next),
                next => {
                    fresh = true;
                    until = until.max(next);
                }
            }
        }
        match stale {
            Some(since) if !fresh => Err(Revocation::Stale(since)),
            _ => Ok(until),
        }
    }
}

impl Crl {
    fn is_signed_by(&self, issuer: &X509Certificate<'_>) -> bool {
        let may_sign = match issuer.key_usage() {
            Ok(Some(usage)) => usage.value.crl_sign(),
            Ok(None) => true,
            Err(_) => false,
        };
        let Some(crl) = parsed(&self.der).filter(|_| may_sign) else {
            return false;
        };
        let key = &issuer.public_key().subject_public_key.data;
        let signed = crl.tbs_cert_list.as_ref();
        let signature = &crl.signature_value.data;
        // The algorithms of a provider are all strong, and each refuses a key that is not its own.
        let verifies = |algorithm: &&dyn SignatureVerificationAlgorithm| {
            algorithm.verify_signature(key, signed, signature).is_ok()
        };
        provider::default_provider()
            .signature_verification_algorithms
            .all
            .iter()
            .any(verifies)
    }
}

fn parsed(der: &[u8]) -> Option<CertificateRevocationList<'_>> {
    match parse_x509_crl(der) {
        Ok(([], crl)) => Some(crl),
        _ => None,
    }
}
