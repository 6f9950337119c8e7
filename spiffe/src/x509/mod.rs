//! X.509-SVIDs and bundles (X509-SVID.md): checked when they are built, so that whoever holds one
//! need not check again.

mod key;
mod leaf;
mod pair;
mod parse;
mod pem;
mod signing;

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;

use crate::{SpiffeId, TrustDomain};

pub use key::{KeyError, PrivateKey};
pub use leaf::{LeafError, MAX_RSA_BITS, MIN_RSA_BITS, check_leaf};
pub use pair::{PairError, PemPair};
pub use parse::{ParseError, check_crl, split_certificates};
pub use pem::{
    PemError, certificates_from_pem, certificates_to_pem, crls_from_pem, crls_to_pem, key_from_pem,
    readable_certificates_from_pem,
};
pub use signing::{
    SigningError, check_signing, claims_spiffe, signing_trust_domain, signing_trust_domain_of,
};

/// The longest chain that is taken, leaf included; SPIRE adds one certificate per nesting level.
pub const MAX_CHAIN: usize = 16;

/// Why a chain and a key are not an X.509-SVID, naming the part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    #[error("the chain is empty")]
    EmptyChain,
    #[error("the chain has {0} certificates; at most {MAX_CHAIN} are accepted")]
    ChainTooLong(usize),
    #[error("the leaf {0}")]
    Leaf(#[from] LeafError),
    #[error("certificate {index} of the chain {source}")]
    Signing { index: usize, source: SigningError },
    #[error("the private key {0}")]
    Key(#[from] KeyError),
}

/// One identity: the chain, leaf first, and its key.
///
/// Invariant: the leaf obeys the standard, carries `id`, and its public key is that of `key`; the
/// other certificates are signing certificates.
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

impl X509Svid {
    /// Checks everything but time and trust: a chain may be expired, and its root unknown.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKey,
        hint: Option<String>,
    ) -> Result<Self, SvidError> {
        let (leaf, authorities) = chain.split_first().ok_or(SvidError::EmptyChain)?;
        if chain.len() > MAX_CHAIN {
            return Err(SvidError::ChainTooLong(chain.len()));
        }
        let parsed = parse::parse_certificate(leaf).map_err(LeafError::from)?;
        let id = leaf::check_parsed(&parsed)?;
        key.check_belongs_to(parsed.public_key())?;
        let (not_before, not_after) = validity(&parsed);
        for (index, authority) in authorities.iter().enumerate() {
            check_signing(authority, &id.trust_domain()).map_err(|source| SvidError::Signing {
                index: index + 1,
                source,
            })?;
        }
        Ok(Self {
            id,
            key,
            hint: hint.filter(|hint| !hint.is_empty()),
            not_before,
            not_after,
            chain,
        })
    }

    /// The leaf certificate.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// Whether the SVID may no longer be used.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        now > self.not_after
    }
}

/// The roots of one trust domain. May hold expired roots: SPIRE keeps them for a day. Without roots
/// it trusts nobody: the trust domain has revoked them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Bundle {
    pub trust_domain: TrustDomain,
    pub roots: Vec<CertificateDer<'static>>,
}

impl X509Bundle {
    /// From concatenated DER without framing, as the Workload API carries it.
    pub fn from_der(trust_domain: TrustDomain, der: &[u8]) -> Result<Self, ParseError> {
        Ok(Self {
            trust_domain,
            roots: split_certificates(der)?,
        })
    }

    /// From PEM.
    pub fn from_pem(trust_domain: TrustDomain, pem: &[u8]) -> Result<Self, PemError> {
        Ok(Self {
            trust_domain,
            roots: certificates_from_pem(pem)?,
        })
    }

    /// The roots as PEM.
    pub fn to_pem(&self) -> String {
        certificates_to_pem(&self.roots)
    }

    /// The roots that have not expired. A root that cannot be read was refused before.
    pub fn live_roots(&self, now: SystemTime) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter().filter(move |root| {
            parse::parse_certificate(root).is_ok_and(|root| validity(&root).1 >= now)
        })
    }
}

/// NotBefore and NotAfter of a certificate.
pub fn certificate_validity(
    certificate: &CertificateDer<'_>,
) -> Result<(SystemTime, SystemTime), ParseError> {
    Ok(validity(&parse::parse_certificate(certificate)?))
}

fn validity(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let time = |seconds: i64| match u64::try_from(seconds) {
        Ok(after) => UNIX_EPOCH + Duration::from_secs(after),
        Err(_) => UNIX_EPOCH,
    };
    let validity = certificate.validity();
    (
        time(validity.not_before.timestamp()),
        time(validity.not_after.timestamp()),
    )
}
