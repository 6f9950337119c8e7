//! Private keys: opaque, zeroised, and compared with the certificate that they are said to belong to.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    rsa,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING,
        ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
        KeyPair,
    },
};
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

/// What is wrong with a private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("is not an unencrypted PKCS#8 key of type RSA, EC P-256, P-384, P-521 or Ed25519")]
    Malformed,
    #[error("does not belong to the leaf")]
    Mismatch,
}

/// A PKCS#8 private key. It is zeroised on drop and never printed.
#[derive(Clone)]
pub struct PrivateKey(Arc<Zeroizing<Vec<u8>>>);

impl PrivateKey {
    /// Takes the unencrypted PKCS#8 DER.
    pub fn from_pkcs8(der: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(der)))
    }

    /// The PKCS#8 DER.
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.0
    }

    /// The key as PEM, zeroised on drop.
    pub fn to_pem(&self) -> Zeroizing<String> {
        super::pem::key_to_pem(&self.0)
    }

    /// Whether `public` is this key's public half.
    pub(super) fn check_belongs_to(
        &self,
        public: &SubjectPublicKeyInfo<'_>,
    ) -> Result<(), KeyError> {
        let ours = public_key(&self.0).ok_or(KeyError::Malformed)?;
        if ours != public.subject_public_key.data.as_ref() {
            return Err(KeyError::Mismatch);
        }
        Ok(())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey([redacted])")
    }
}

/// The curves that keys may have.
pub(super) const CURVES: [&EcdsaSigningAlgorithm; 3] = [
    &ECDSA_P256_SHA256_ASN1_SIGNING,
    &ECDSA_P384_SHA384_ASN1_SIGNING,
    &ECDSA_P521_SHA512_ASN1_SIGNING,
];

/// The public half as a certificate's `subjectPublicKey` bits hold it.
pub(super) fn public_key(pkcs8: &[u8]) -> Option<Vec<u8>> {
    for curve in CURVES {
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(curve, pkcs8) {
            return Some(key.public_key().as_ref().to_vec());
        }
    }
    if let Ok(key) = rsa::KeyPair::from_pkcs8(pkcs8) {
        return Some(key.public_key().as_ref().to_vec());
    }
    let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).ok()?;
    Some(key.public_key().as_ref().to_vec())
}
