//! One line in the log for each turn of our identity.

use std::time::SystemTime;

use ithildin_spiffe::IdentityState;
use tokio::sync::watch;
use tracing::{info, warn};

/// Follows `identity` to its end. `expected` is the trust domain that the configuration is made for.
pub(crate) async fn log_identity(
    mut identity: watch::Receiver<IdentityState>,
    expected: Option<String>,
) {
    loop {
        log(&identity.borrow_and_update(), expected.as_deref());
        if identity.changed().await.is_err() {
            return;
        }
    }
}

fn log(state: &IdentityState, expected: Option<&str>) {
    match state {
        IdentityState::Waiting(reason) => info!(%reason, "no identity yet"),
        IdentityState::Withdrawn(reason) => warn!(%reason, "the identity is withdrawn"),
        IdentityState::Ready(snapshot) => {
            let ids: Vec<_> = snapshot.svids.iter().map(|svid| svid.id.as_str()).collect();
            let domains: Vec<_> = snapshot
                .bundles
                .keys()
                .map(|domain| domain.as_str())
                .collect();
            let left = snapshot.next_expiry().duration_since(SystemTime::now());
            info!(
                svids = ids.join(" "),
                trust_domains = domains.join(" "),
                crls = snapshot.crls.len(),
                seconds_left = left.map_or(0, |left| left.as_secs()),
                "identity"
            );
            let ours = snapshot.trust_domain.as_str();
            if expected.is_some_and(|expected| expected != ours) {
                warn!(
                    identity = ours,
                    configured = expected,
                    "the identity is of another trust domain than TRUST_DOMAIN says"
                );
            }
        }
    }
}
