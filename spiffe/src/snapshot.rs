//! Everything that a workload holds at one instant.

use std::{collections::BTreeMap, fmt, sync::Arc, time::SystemTime};

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
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
    /// Roots that came without a trust domain, as istiod's do: they vouch for whichever trust domain
    /// the configuration lets in. Empty from any source that names the domain of each root.
    pub unbound_roots: Vec<CertificateDer<'static>>,
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
            unbound_roots: Vec::new(),
        })
    }

    /// The same with roots of which nobody said whose they are.
    pub fn with_unbound_roots(self, unbound_roots: Vec<CertificateDer<'static>>) -> Self {
        Self {
            unbound_roots,
            ..self
        }
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
            unbound_roots: self.unbound_roots.clone(),
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
            && self.unbound_roots == other.unbound_roots
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::authority::{Authority, AuthorityConfig, TrustDomainConfig};

    fn trust_domain(name: &str) -> TrustDomain {
        TrustDomain::parse(name).unwrap()
    }

    fn authority() -> Authority {
        let domains = ["domain.test", "example.org"];
        let domains = domains.map(|name| TrustDomainConfig::new(trust_domain(name)));
        Authority::start(AuthorityConfig {
            trust_domains: domains.into(),
            federation: Vec::new(),
        })
        .unwrap()
    }

    fn svid(authority: &Authority, id: &str, hint: &str, seconds: u64) -> Arc<X509Svid> {
        let id = SpiffeId::parse(id).unwrap();
        let ttl = Some(Duration::from_secs(seconds));
        let mut svid = authority
            .mint(id.trust_domain_name(), &id, ttl, &[])
            .unwrap();
        svid.hint = Some(hint.to_owned()).filter(|hint| !hint.is_empty());
        Arc::new(svid)
    }

    fn bundles(authority: &Authority) -> BTreeMap<TrustDomain, Arc<X509Bundle>> {
        let domains = ["domain.test", "example.org"].map(trust_domain);
        let bundle = |domain: TrustDomain| {
            let bundle = authority.bundle(&domain).unwrap();
            (domain, Arc::new(bundle))
        };
        domains.map(bundle).into()
    }

    #[tokio::test]
    async fn an_svid_is_chosen_by_id_hint_or_trust_domain_and_never_another_one() {
        let authority = authority();
        let svids = vec![
            svid(&authority, "spiffe://domain.test/a", "one", 60),
            svid(&authority, "spiffe://domain.test/b", "", 60),
            svid(&authority, "spiffe://example.org/c", "two", 60),
        ];
        let snapshot = IdentitySnapshot::new(svids, bundles(&authority), Vec::new()).unwrap();
        let select = |selector| {
            snapshot
                .select(&selector)
                .map(|svid| svid.id.path().to_owned())
        };
        let id = |text| SvidSelector::Id(SpiffeId::parse(text).unwrap());
        assert_eq!(select(SvidSelector::Default).as_deref(), Some("/a"));
        assert_eq!(select(id("spiffe://domain.test/b")).as_deref(), Some("/b"));
        assert_eq!(select(id("spiffe://domain.test/x")), None);
        assert_eq!(
            select(SvidSelector::Hint("two".into())).as_deref(),
            Some("/c")
        );
        assert_eq!(select(SvidSelector::Hint(String::new())), None);
        let by_domain = SvidSelector::TrustDomain(trust_domain("example.org"));
        assert_eq!(select(by_domain).as_deref(), Some("/c"));
        assert_eq!(
            select(SvidSelector::TrustDomain(trust_domain("no.test"))),
            None
        );
    }

    #[tokio::test]
    async fn what_does_not_make_a_snapshot_is_refused() {
        let authority = authority();
        let ours = || vec![svid(&authority, "spiffe://domain.test/a", "", 60)];
        let refusal = |svids, bundles, crls| {
            IdentitySnapshot::new(svids, bundles, crls)
                .unwrap_err()
                .to_string()
        };
        let all = bundles(&authority);
        assert_eq!(
            refusal(Vec::new(), all.clone(), Vec::new()),
            "there is no SVID"
        );
        let mut without = all.clone();
        without.remove("domain.test");
        assert_eq!(
            refusal(ours(), without, Vec::new()),
            "there is no bundle for trust domain domain.test, of which the SVID \
             spiffe://domain.test/a is"
        );
        let mut empty = all.clone();
        let bundle = X509Bundle {
            trust_domain: trust_domain("domain.test"),
            roots: Vec::new(),
        };
        empty.insert(bundle.trust_domain.clone(), Arc::new(bundle));
        assert_eq!(
            refusal(ours(), empty, Vec::new()),
            "the bundle of trust domain domain.test, our own, has no root"
        );
        let error = refusal(ours(), all, vec![b"no crl".to_vec().into()]);
        assert!(error.starts_with("crl 0: "), "{error}");
    }

    #[tokio::test]
    async fn expired_svids_go_one_by_one_and_the_last_takes_all_along() {
        let authority = authority();
        let svids = vec![
            svid(&authority, "spiffe://domain.test/short", "", 60),
            svid(&authority, "spiffe://example.org/long", "", 600),
        ];
        let snapshot = IdentitySnapshot::new(svids, bundles(&authority), Vec::new()).unwrap();
        let snapshot = Arc::new(snapshot);
        let now = SystemTime::now();
        let kept = snapshot.without_expired(now).unwrap();
        assert!(Arc::ptr_eq(&kept, &snapshot));
        let later = now + Duration::from_secs(120);
        let left = snapshot.without_expired(later).unwrap();
        assert_eq!(left.svids.len(), 1);
        assert_eq!(left.trust_domain.as_str(), "example.org");
        assert_eq!(snapshot.next_expiry(), snapshot.svids[0].not_after);
        assert!(
            snapshot
                .without_expired(now + Duration::from_secs(1200))
                .is_none()
        );
    }
}
