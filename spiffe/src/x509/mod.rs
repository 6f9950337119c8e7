//! X.509-SVIDs and bundles (X509-SVID.md).

use std::{fmt, sync::Arc, time::SystemTime};

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

mod leaf;
mod parse;

use crate::{SpiffeId, TrustDomain};

pub use leaf::{LeafError, MAX_RSA_BITS, MIN_RSA_BITS, check_leaf};
pub use parse::ParseError;

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
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey([redacted])")
    }
}

/// One identity: the chain, leaf first, and its key.
///
/// Invariant: the leaf obeys the standard, carries `id`, and its public key is that of `key`.
#[derive(Clone, Debug)]
pub struct X509Svid {
    pub id: SpiffeId,
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKey,
    /// What the operator of SPIRE wrote to tell identities of one workload apart.
    pub hint: Option<String>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// The roots of one trust domain. May hold expired roots: SPIRE keeps them for a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Bundle {
    pub trust_domain: TrustDomain,
    pub roots: Vec<CertificateDer<'static>>,
}
