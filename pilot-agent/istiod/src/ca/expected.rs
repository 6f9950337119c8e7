//! Who we are to the CA.

use ithildin_spiffe::{IdError, SpiffeId, TrustDomain};

/// The service account of a Pod that names none.
const DEFAULT_ACCOUNT: &str = "default";

/// Our identity as Istio spells it, `spiffe://<trust domain>/ns/<namespace>/sa/<account>`, as far as it
/// is known before the CA says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub trust_domain: TrustDomain,
    pub namespace: String,
    /// `None` outside of Kubernetes, where only the token knows.
    pub service_account: Option<String>,
}

/// The CA certified somebody else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found}, but we are {expected}; check TRUST_DOMAIN, POD_NAMESPACE, SERVICE_ACCOUNT and the token"
)]
pub struct Unexpected {
    found: SpiffeId,
    expected: String,
}

impl Expected {
    /// The identity to ask for.
    ///
    /// # Errors
    /// When the namespace or the account cannot be part of a SPIFFE ID.
    pub(super) fn id(&self) -> Result<SpiffeId, IdError> {
        let account = self.service_account.as_deref().unwrap_or(DEFAULT_ACCOUNT);
        SpiffeId::parse(&format!("{}{account}", self.prefix()))
    }

    /// Whether `found` is ours.
    pub(super) fn check(&self, found: &SpiffeId) -> Result<(), Unexpected> {
        let account = found.as_str().strip_prefix(&self.prefix());
        let ours = account.is_some_and(|account| match &self.service_account {
            Some(ours) => ours == account,
            None => !account.contains('/'),
        });
        match ours {
            true => Ok(()),
            false => Err(Unexpected {
                found: found.clone(),
                expected: self.to_string(),
            }),
        }
    }

    fn prefix(&self) -> String {
        format!("{}/ns/{}/sa/", self.trust_domain.id(), self.namespace)
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let account = self.service_account.as_deref().unwrap_or("*");
        write!(f, "{}{account}", self.prefix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ours_is_ours() {
        let expected = |service_account: Option<&str>| Expected {
            trust_domain: TrustDomain::parse("cluster.local").unwrap(),
            namespace: "shop".into(),
            service_account: service_account.map(str::to_owned),
        };
        for (account, found, ours) in [
            (Some("web"), "spiffe://cluster.local/ns/shop/sa/web", true),
            (Some("web"), "spiffe://cluster.local/ns/shop/sa/webb", false),
            (Some("web"), "spiffe://cluster.local/ns/shop2/sa/web", false),
            (Some("web"), "spiffe://other.test/ns/shop/sa/web", false),
            (
                Some("web"),
                "spiffe://cluster.local/ns/shop/sa/web/x",
                false,
            ),
            (Some("web"), "spiffe://cluster.local/web", false),
            (None, "spiffe://cluster.local/ns/shop/sa/any", true),
            (None, "spiffe://cluster.local/ns/shop/sa/any/x", false),
            (None, "spiffe://cluster.local/ns/other/sa/any", false),
        ] {
            let checked = expected(account).check(&SpiffeId::parse(found).unwrap());
            assert_eq!(checked.is_ok(), ours, "{account:?} {found}");
        }
        let error = expected(Some("web"))
            .check(&SpiffeId::parse("spiffe://other.test/x").unwrap())
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "spiffe://other.test/x, but we are spiffe://cluster.local/ns/shop/sa/web; check \
             TRUST_DOMAIN, POD_NAMESPACE, SERVICE_ACCOUNT and the token"
        );
        assert!(
            expected(None)
                .id()
                .unwrap()
                .as_str()
                .ends_with("/sa/default")
        );
        assert!(expected(Some("a b")).id().is_err());
    }
}
