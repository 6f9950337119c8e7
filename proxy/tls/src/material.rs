//! Certificates and keys as configuration gives them: PEM in, checked material out.

use std::{sync::Arc, time::SystemTime};

use ithildin_spiffe::{SpiffeId, x509};
use rustls::{
    Error, InconsistentKeys,
    crypto::aws_lc_rs::sign,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use zeroize::Zeroize;

use crate::certificate;

/// What is wrong with TLS material or parameters, naming the part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    #[error("{what} has no certificate")]
    NoCertificate { what: &'static str },
    #[error("{what} is malformed: {reason}")]
    Malformed { what: &'static str, reason: String },
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    #[error("{field}: none of {names:?} is supported")]
    NoneKnown { field: &'static str, names: String },
    #[error("tls_minimum_protocol_version is above tls_maximum_protocol_version")]
    NoVersion,
    #[error("client certificates are asked for, and there is nothing to verify them with")]
    NoValidation,
    #[error("tls cannot be set up: {0}")]
    Unusable(String),
}

/// Our own certificate chain and key.
#[derive(Debug)]
pub struct Identity {
    pub(crate) certified: Arc<CertifiedKey>,
    /// The leaf's SPIFFE ID, if it is an X.509-SVID.
    pub id: Option<SpiffeId>,
    /// Of the leaf.
    pub not_after: SystemTime,
    /// The file of the chain, where the configuration names one; for admin.
    pub file: Option<Arc<str>>,
}

const CHAIN: &str = "certificate_chain";
const KEY: &str = "private_key";

impl Identity {
    /// From a PEM chain, leaf first, and a PEM key (PKCS#8, PKCS#1 or SEC1).
    ///
    /// # Errors
    /// When either is malformed, or the key is not that of the leaf.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, MaterialError> {
        let chain = certificates_from_pem(CHAIN, chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| malformed(KEY, &error))?;
        Self::from_der(chain, key)
    }

    /// From DER: a chain, leaf first, and a key.
    ///
    /// # Errors
    /// As [`Identity::from_pem`].
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        mut key: PrivateKeyDer<'static>,
    ) -> Result<Self, MaterialError> {
        let loaded = sign::any_supported_type(&key);
        key.zeroize();
        let loaded = loaded.map_err(|error| malformed(KEY, &error))?;
        let leaf = chain
            .first()
            .ok_or(MaterialError::NoCertificate { what: CHAIN })?;
        let not_after = certificate::parse(leaf)
            .map_err(|reason| MaterialError::Malformed {
                what: CHAIN,
                reason,
            })
            .map(|leaf| certificate::not_after(&leaf))?;
        let id = x509::check_leaf(leaf).ok();
        let certified = CertifiedKey::new(chain, loaded);
        match certified.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => return Err(MaterialError::KeyMismatch),
            Err(error) => return Err(malformed(CHAIN, &error)),
        }
        Ok(Self {
            certified: Arc::new(certified),
            id,
            not_after,
            file: None,
        })
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }
}

/// The certificates in `pem`, of which there must be one at least; other sections are skipped.
pub(crate) fn certificates_from_pem(
    what: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| malformed(what, &error))?;
    if certificates.is_empty() {
        return Err(MaterialError::NoCertificate { what });
    }
    Ok(certificates)
}

pub(crate) fn malformed(what: &'static str, reason: &dyn ToString) -> MaterialError {
    MaterialError::Malformed {
        what,
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, Engine};
    use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};

    use super::*;
    use crate::testing::{Ca, ca_params, root, spiffe_root, svid_params};

    fn pem(label: &str, der: &[u8]) -> String {
        let base64 = BASE64_STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
    }

    fn svid(ca: &Ca) -> (String, KeyPair) {
        let (der, key) = ca.sign(&svid_params("spiffe://example.org/web"));
        (pem("CERTIFICATE", &der), key)
    }

    fn error(chain: &str, key: &str) -> String {
        let identity = Identity::from_pem(chain.as_bytes(), key.as_bytes());
        identity.unwrap_err().to_string()
    }

    #[test]
    fn a_chain_and_its_key_make_an_identity() {
        let ca = spiffe_root("example.org");
        let (chain, key) = svid(&ca);
        let chain = chain + &pem("CERTIFICATE", &ca.der);
        let identity =
            Identity::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        assert_eq!(identity.id.unwrap().as_str(), "spiffe://example.org/web");
        assert_eq!(identity.certified.cert.len(), 2);
        assert!(identity.not_after > SystemTime::now());

        let web = root(ca_params("Web PKI"));
        let params = rcgen::CertificateParams::new(["web.test".to_owned()]).unwrap();
        assert_eq!(web.identity(&params).id, None);
    }

    #[test]
    fn keys_of_all_forms_are_read() {
        let ca = spiffe_root("example.org");
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let certificate = svid_params("spiffe://example.org/web")
            .signed_by(&key, &ca.issuer)
            .unwrap();
        // The PKCS#1 key lies in the PKCS#8 one, behind a header of 26 bytes.
        let pkcs8 = key.serialize_der();
        for (label, der) in [
            ("PRIVATE KEY", &pkcs8[..]),
            ("RSA PRIVATE KEY", &pkcs8[26..]),
        ] {
            let key = pem(label, der);
            Identity::from_pem(certificate.pem().as_bytes(), key.as_bytes()).expect(label);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let ca = spiffe_root("example.org");
        let (chain, key) = svid(&ca);
        let (_, other) = svid(&ca);
        let key = key.serialize_pem();
        assert_eq!(
            error(&chain, &other.serialize_pem()),
            "the private key does not belong to the certificate"
        );
        assert_eq!(error("", &key), "certificate_chain has no certificate");
        assert_eq!(error(&key, &key), "certificate_chain has no certificate");
        for (chain, key, start) in [
            (&chain, "", "private_key is malformed: "),
            (&chain, &chain, "private_key is malformed: "),
            (
                &chain,
                &pem("PRIVATE KEY", b"rubbish"),
                "private_key is malformed: ",
            ),
            (
                &pem("CERTIFICATE", b"rubbish"),
                &key,
                "certificate_chain is malformed: ",
            ),
        ] {
            let error = error(chain, key);
            assert!(error.starts_with(start), "{error}");
        }
    }

    #[test]
    fn a_key_is_never_printed() {
        let ca = spiffe_root("example.org");
        let (chain, key) = svid(&ca);
        let pem = key.serialize_pem();
        let identity = Identity::from_pem(chain.as_bytes(), pem.as_bytes()).unwrap();
        let text = format!("{identity:?}");
        let hex: String = key.serialize_der()[40..60]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert!(!text.contains(&hex), "{text}");
        let error = error(&chain, &pem.replace("PRIVATE", "SECRET"));
        assert!(!error.contains("MIGH"), "{error}");
    }
}
