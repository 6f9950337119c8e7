//! What is asked of the CA: a key of ours, and a request to sign for it.

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{self, KeySize},
};
use ithildin_spiffe::{PrivateKey, SpiffeId};
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    SanType, string::Ia5String,
};
use zeroize::Zeroizing;

/// `ECC_SIGNATURE_ALGORITHM`, `ECC_CURVE` and `WORKLOAD_RSA_KEY_SIZE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    EcdsaP256,
    EcdsaP384,
    Rsa2048,
    Rsa3072,
    Rsa4096,
    Rsa8192,
}

/// Why there is nothing to ask with.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("cannot make a key of the kind {kind:?}: {reason}")]
    Key { kind: KeyKind, reason: String },
    #[error("cannot make a certificate request for {id}: {reason}")]
    Csr { id: SpiffeId, reason: String },
}

/// A key that nobody else has, and the request to certify it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) key: PrivateKey,
    /// PEM of PKCS#10. Its subject is empty and its one SAN is the SPIFFE ID, as with Istio's agent;
    /// istiod signs the identity that it authenticated and looks at the key alone.
    pub(super) csr: String,
}

impl Request {
    /// Makes a key, which takes a moment for RSA: not for a thread that serves.
    pub(super) fn new(id: &SpiffeId, kind: KeyKind) -> Result<Self, RequestError> {
        let pair = kind.generate()?;
        let failed = |reason: rcgen::Error| RequestError::Csr {
            id: id.clone(),
            reason: reason.to_string(),
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = Ia5String::try_from(id.as_str()).map_err(failed)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let csr = params
            .serialize_request(&pair)
            .and_then(|request| request.pem())
            .map_err(failed)?;
        Ok(Self {
            key: PrivateKey::from_pkcs8(pair.serialized_der().to_vec()),
            csr,
        })
    }
}

impl KeyKind {
    fn generate(self) -> Result<KeyPair, RequestError> {
        let made = match self {
            Self::EcdsaP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            Self::EcdsaP384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
            Self::Rsa2048 => rsa_pair(KeySize::Rsa2048),
            Self::Rsa3072 => rsa_pair(KeySize::Rsa3072),
            Self::Rsa4096 => rsa_pair(KeySize::Rsa4096),
            Self::Rsa8192 => rsa_pair(KeySize::Rsa8192),
        };
        made.map_err(|reason| RequestError::Key {
            kind: self,
            reason: reason.to_string(),
        })
    }

    /// The RSA kind of this many bits.
    pub fn rsa(bits: u32) -> Option<Self> {
        Some(match bits {
            2048 => Self::Rsa2048,
            3072 => Self::Rsa3072,
            4096 => Self::Rsa4096,
            8192 => Self::Rsa8192,
            _ => return None,
        })
    }
}

/// `rcgen` makes no keys of 8192 bits.
fn rsa_pair(size: KeySize) -> Result<KeyPair, rcgen::Error> {
    let key = rsa::KeyPair::generate(size).map_err(|_| rcgen::Error::KeyGenerationUnavailable)?;
    let der: Pkcs8V1Der<'static> = key
        .as_der()
        .map_err(|_| rcgen::Error::KeyGenerationUnavailable)?;
    let der = Zeroizing::new(der.as_ref().to_vec());
    KeyPair::try_from(der.as_slice())
}
