//! Which SVID is ours, said aloud, and whether the configuration is made for it.

use ithildin_spiffe::{IdentitySnapshot, IdentityState, SvidSelector};
use tokio::sync::watch;
use tracing::{info, warn};

/// Says which of a source's SVIDs is `default`, each time that it is another one; and warns when there
/// is none, or when it is of another trust domain than `expected`: the SAN rules of the configuration
/// would refuse our own peers. Follows `identity` to its end.
pub(super) async fn tell(
    mut identity: watch::Receiver<IdentityState>,
    selector: SvidSelector,
    expected: String,
) {
    let mut told = None;
    loop {
        let choice = match &*identity.borrow_and_update() {
            IdentityState::Ready(snapshot) => Some(Choice::of(snapshot, &selector)),
            IdentityState::Waiting(_) | IdentityState::Withdrawn(_) | IdentityState::Opaque(_) => {
                None
            }
        };
        if let Some(choice) = choice
            && told.as_ref() != Some(&choice)
        {
            choice.tell(&selector, &expected);
            told = Some(choice);
        }
        if identity.changed().await.is_err() {
            return;
        }
    }
}

/// Of one snapshot.
#[derive(Debug, PartialEq, Eq)]
struct Choice {
    /// Its SPIFFE ID and its trust domain.
    ours: Option<(String, String)>,
    all: Vec<String>,
}

impl Choice {
    fn of(snapshot: &IdentitySnapshot, selector: &SvidSelector) -> Self {
        let ours = snapshot.select(selector);
        Self {
            ours: ours.map(|svid| (svid.id.to_string(), svid.id.trust_domain().to_string())),
            all: snapshot
                .svids
                .iter()
                .map(|svid| svid.id.to_string())
                .collect(),
        }
    }

    fn tell(&self, selector: &SvidSelector, expected: &str) {
        let all = self.all.join(" ");
        let Some((id, trust_domain)) = &self.ours else {
            warn!(%selector, svids = all, "no SVID of the source is the selected one; there is no identity until one is");
            return;
        };
        if self.all.len() > 1 {
            info!(id, by = %selector, svids = all, "one of several SVIDs is ours; --svid chooses");
        }
        if trust_domain != expected {
            warn!(
                identity = trust_domain,
                configured = expected,
                "the identity is of another trust domain than TRUST_DOMAIN says"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use ithildin_spiffe::{
        Caller, Provider, SpiffeId, TrustDomain,
        authority::{Authority, AuthorityConfig, TrustDomainConfig, WorkloadConfig},
    };

    use super::*;

    #[tokio::test]
    async fn the_choice_is_the_selectors_and_the_first_by_default() {
        let mut domain = TrustDomainConfig::new(TrustDomain::parse("domain.test").unwrap());
        for (id, hint) in [
            ("spiffe://domain.test/a", "one"),
            ("spiffe://domain.test/b", "two"),
        ] {
            let mut workload = WorkloadConfig::new(SpiffeId::parse(id).unwrap());
            workload.hint = Some(hint.into());
            domain.workloads.push(workload);
        }
        let authority = Authority::start(AuthorityConfig {
            trust_domains: vec![domain],
            federation: Vec::new(),
        })
        .unwrap();
        let provider = authority.agent("domain.test").unwrap();
        let state = provider.identities(&Caller::default()).borrow().clone();
        let snapshot = state.snapshot().unwrap();
        let ours = |selector| Choice::of(snapshot, &selector).ours.map(|(id, _)| id);
        let (a, b) = ("spiffe://domain.test/a", "spiffe://domain.test/b");
        assert_eq!(ours(SvidSelector::Default).as_deref(), Some(a));
        assert_eq!(ours(SvidSelector::Hint("two".into())).as_deref(), Some(b));
        assert_eq!(ours(SvidSelector::Hint("three".into())), None);
        assert_eq!(Choice::of(snapshot, &SvidSelector::Default).all, [a, b]);
    }
}
