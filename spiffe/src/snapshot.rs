//! Everything that a workload holds at one instant.

use std::{collections::BTreeMap, sync::Arc};

use rustls_pki_types::CertificateRevocationListDer;

use crate::{SpiffeId, TrustDomain, X509Bundle, X509Svid};

/// All identities, bundles and CRLs at one instant; validated whole, then published whole.
///
/// Invariant: `svids` is not empty, and `bundles` holds `trust_domain`'s own bundle.
#[derive(Clone, Debug)]
pub struct IdentitySnapshot {
    /// In the order of the source; the first is its default.
    pub svids: Vec<Arc<X509Svid>>,
    /// The trust domain of the default SVID.
    pub trust_domain: TrustDomain,
    /// Own and federated bundles. Roots of different domains are never pooled.
    pub bundles: BTreeMap<TrustDomain, Arc<X509Bundle>>,
    pub crls: Vec<CertificateRevocationListDer<'static>>,
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
