//! Everything that a workload holds at one instant.

use std::{collections::BTreeMap, fmt, sync::Arc, time::SystemTime};

use rustls_pki_types::CertificateRevocationListDer;
use tracing::warn;

use crate::{
    SpiffeId, TrustDomain, X509Bundle, X509Svid,
    x509::{ParseError, check_crl},
};

/// Why material does not make a snapshot, naming the part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("there is no SVID")]
    NoSvid,
    #[error("there is no bundle for trust domain {trust_domain}, of which the SVID {id} is")]
    NoBundle {
        trust_domain: TrustDomain,
        id: SpiffeId,
    },
    #[error("the bundle of trust domain {0}, our own, has no root")]
    EmptyBundle(TrustDomain),
    #[error("crl {index}: {source}")]
    Crl { index: usize, source: ParseError },
}

/// All identities, bundles and CRLs at one instant; validated whole, then published whole.
///
/// Invariant: `svids` is not empty, and `bundles` holds a bundle with roots for the trust domain of
/// each SVID.
#[derive(Clone, Debug)]
pub struct IdentitySnapshot {
    /// In the order of the source; the first is its default.
    pub svids: Vec<Arc<X509Svid>>,
    /// The trust domain of the default SVID.
    pub trust_domain: TrustDomain,
    /// Own and federated bundles. Roots of different domains are never pooled. A federated bundle may
    /// have no root: that trust domain is then trusted for nothing.
    pub bundles: BTreeMap<TrustDomain, Arc<X509Bundle>>,
    pub crls: Vec<CertificateRevocationListDer<'static>>,
}

impl IdentitySnapshot {
    /// Builds a snapshot and upholds its invariant. Of two SVIDs with one hint the first stays
    /// (SPIFFE_Workload_API.md, section 5.2.1).
    pub fn new(
        svids: Vec<Arc<X509Svid>>,
        bundles: BTreeMap<TrustDomain, Arc<X509Bundle>>,
        crls: Vec<CertificateRevocationListDer<'static>>,
    ) -> Result<Self, SnapshotError> {
        let svids = without_duplicate_hints(svids);
        let default = svids.first().ok_or(SnapshotError::NoSvid)?;
        let trust_domain = default.id.trust_domain();
        for svid in &svids {
            match bundles.get(svid.id.trust_domain_name()) {
                None => {
                    return Err(SnapshotError::NoBundle {
                        trust_domain: svid.id.trust_domain(),
                        id: svid.id.clone(),
                    });
                }
                Some(bundle) if bundle.roots.is_empty() => {
                    return Err(SnapshotError::EmptyBundle(svid.id.trust_domain()));
                }
                Some(_) => {}
            }
        }
        for (index, crl) in crls.iter().enumerate() {
            check_crl(crl).map_err(|source| SnapshotError::Crl { index, source })?;
        }
        Ok(Self {
            svids,
            trust_domain,
            bundles,
            crls,
        })
    }

    /// The SVID that `selector` names. `None`, and never another one, if it is not there.
    pub fn select(&self, selector: &SvidSelector) -> Option<&Arc<X509Svid>> {
        self.svids.iter().find(|svid| selector.matches(svid))
    }

    /// The snapshot without the SVIDs that are expired at `now`; `None` if all are.
    pub fn without_expired(self: &Arc<Self>, now: SystemTime) -> Option<Arc<Self>> {
        if !self.svids.iter().any(|svid| svid.is_expired(now)) {
            return Some(Arc::clone(self));
        }
        let mut svids = self.svids.clone();
        svids.retain(|svid| !svid.is_expired(now));
        let trust_domain = svids.first()?.id.trust_domain();
        Some(Arc::new(Self {
            svids,
            trust_domain,
            bundles: self.bundles.clone(),
            crls: self.crls.clone(),
        }))
    }

    /// When the first of the SVIDs expires.
    pub fn next_expiry(&self) -> SystemTime {
        self.svids
            .iter()
            .map(|svid| svid.not_after)
            .min()
            .expect("a snapshot has an SVID")
    }
}

/// Equal material; keys are not compared, since each belongs to its leaf.
impl PartialEq for IdentitySnapshot {
    fn eq(&self, other: &Self) -> bool {
        let svids = self.svids.iter().zip(&other.svids);
        self.svids.len() == other.svids.len()
            && svids
                .into_iter()
                .all(|(a, b)| a.chain == b.chain && a.hint == b.hint)
            && self.bundles == other.bundles
            && self.crls == other.crls
    }
}

impl Eq for IdentitySnapshot {}

fn without_duplicate_hints(svids: Vec<Arc<X509Svid>>) -> Vec<Arc<X509Svid>> {
    let mut kept: Vec<Arc<X509Svid>> = Vec::with_capacity(svids.len());
    for svid in svids {
        let twin = kept
            .iter()
            .find(|other| svid.hint.is_some() && other.hint == svid.hint);
        match twin {
            Some(twin) => warn!(
                hint = svid.hint,
                kept = %twin.id,
                dropped = %svid.id,
                "two SVIDs have one hint; the first is used",
            ),
            None => kept.push(svid),
        }
    }
    kept
}

/// How to choose one of several SVIDs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SvidSelector {
    /// The source's first.
    #[default]
    Default,
    Id(SpiffeId),
    Hint(String),
    TrustDomain(TrustDomain),
}

impl SvidSelector {
    fn matches(&self, svid: &X509Svid) -> bool {
        match self {
            Self::Default => true,
            Self::Id(id) => svid.id == *id,
            Self::Hint(hint) => svid.hint.as_ref() == Some(hint),
            Self::TrustDomain(trust_domain) => svid.id.trust_domain_name() == trust_domain.as_str(),
        }
    }
}

impl fmt::Display for SvidSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the source's first"),
            Self::Id(id) => write!(f, "SPIFFE ID {id}"),
            Self::Hint(hint) => write!(f, "hint {hint:?}"),
            Self::TrustDomain(trust_domain) => write!(f, "trust domain {trust_domain}"),
        }
    }
}
