//! A certificate chain and its key from files, of whatever PKI: that they are whole and belong
//! together, and nothing more. What makes a chain an X.509-SVID is [`super::X509Svid`]'s concern.

use std::time::SystemTime;

use aws_lc_rs::{
    rsa,
    signature::{EcdsaKeyPair, KeyPair},
};
use rustls_pki_types::{
    PrivateKeyDer,
    pem::{self, PemObject},
};

use super::{
    PemError, certificates_from_pem, check_leaf,
    key::{CURVES, public_key},
    parse::parse_certificate,
    validity,
};
use crate::SpiffeId;

/// Why a chain and a key from files do not make a pair, naming the part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    #[error("the chain: {0}")]
    Chain(#[from] PemError),
    #[error("the key has no private key block of PKCS#8, PKCS#1 or SEC1: {0}")]
    NoKey(String),
    #[error("the key is not an unencrypted one of type RSA, EC P-256, P-384, P-521 or Ed25519")]
    Key,
    #[error("the key does not belong to the first certificate of the chain")]
    Mismatch,
}

/// What a chain and a key in PEM say of themselves. They are a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PemPair {
    /// `None` if the leaf is no X.509-SVID.
    pub id: Option<SpiffeId>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl PemPair {
    /// Checks that `chain` starts with the certificate of `key`. Text around the blocks, and blocks of
    /// other kinds, are passed over, so that both may be in one file.
    pub fn check(chain: &[u8], key: &[u8]) -> Result<Self, PairError> {
        let chain = certificates_from_pem(chain)?;
        let leaf = chain.first().ok_or(PemError::Missing("CERTIFICATE"))?;
        let parsed = parse_certificate(leaf).map_err(|source| PemError::Content {
            label: "CERTIFICATE",
            index: 0,
            source,
        })?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            pem::Error::NoItemsFound => PairError::NoKey("there is none".into()),
            error => PairError::NoKey(error.to_string()),
        })?;
        let public = public_half(&key).ok_or(PairError::Key)?;
        if public != parsed.public_key().subject_public_key.data.as_ref() {
            return Err(PairError::Mismatch);
        }
        let (not_before, not_after) = validity(&parsed);
        Ok(Self {
            id: check_leaf(leaf).ok(),
            not_before,
            not_after,
        })
    }
}

fn public_half(key: &PrivateKeyDer<'_>) -> Option<Vec<u8>> {
    match key {
        PrivateKeyDer::Pkcs8(key) => public_key(key.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(key) => {
            let key = rsa::KeyPair::from_der(key.secret_pkcs1_der()).ok()?;
            Some(key.public_key().as_ref().to_vec())
        }
        PrivateKeyDer::Sec1(key) => CURVES.into_iter().find_map(|curve| {
            let key = EcdsaKeyPair::from_private_key_der(curve, key.secret_sec1_der()).ok()?;
            Some(key.public_key().as_ref().to_vec())
        }),
        _ => None,
    }
}
