//! Certificates and keys as configuration gives them: PEM in, checked material out.

use std::{sync::Arc, time::SystemTime};

use ithildin_spiffe::SpiffeId;
use rustls::{pki_types::CertificateDer, sign::CertifiedKey};

/// What is wrong with PEM material, naming the part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    #[error("{what} has no certificate")]
    NoCertificate { what: &'static str },
    #[error("{what} is malformed: {reason}")]
    Malformed { what: &'static str, reason: String },
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
}

/// Our own certificate chain and key.
#[derive(Debug)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    /// The leaf's SPIFFE ID, if it is an X.509-SVID.
    pub id: Option<SpiffeId>,
    pub not_after: SystemTime,
}

impl Identity {
    /// From a PEM chain, leaf first, and a PEM key (PKCS#8, PKCS#1 or SEC1).
    pub fn from_pem(_chain: &[u8], _key: &[u8]) -> Result<Self, MaterialError> {
        todo!()
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }
}
