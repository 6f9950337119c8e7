//! A check of our identity against the configuration.

use ithildin_spiffe::IdentityState;
use tokio::sync::watch;
use tracing::warn;

/// Warns when the identity is of another trust domain than `expected`, for which the configuration is
/// made: its SAN rules would refuse our own peers. Follows `identity` to its end.
pub(super) async fn check(mut identity: watch::Receiver<IdentityState>, expected: String) {
    let mut told = None;
    loop {
        let ours = match &*identity.borrow_and_update() {
            IdentityState::Ready(snapshot) => Some(snapshot.trust_domain.to_string()),
            IdentityState::Waiting(_) | IdentityState::Withdrawn(_) | IdentityState::Opaque(_) => {
                None
            }
        };
        if let Some(ours) = ours
            && told.as_ref() != Some(&ours)
        {
            if ours != expected {
                warn!(
                    identity = ours,
                    configured = expected,
                    "the identity is of another trust domain than TRUST_DOMAIN says"
                );
            }
            told = Some(ours);
        }
        if identity.changed().await.is_err() {
            return;
        }
    }
}
