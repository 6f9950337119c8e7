//! Our SPIFFE identity as a way to show who we are, and to judge istiod, where istiod is in SPIRE too.

use std::sync::Arc;

use ithildin_spiffe::{IdentityState, SvidSelector, X509Svid};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

/// Which SVID of a source is ours.
#[derive(Clone, Debug)]
pub struct Svid {
    pub identity: watch::Receiver<IdentityState>,
    pub selector: SvidSelector,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    #[error("no identity: {0}")]
    Absent(Arc<str>),
    #[error("no SVID of the source is the selected one")]
    NotSelected,
    #[error("the source of identities has ended")]
    SourceEnded,
}

impl Svid {
    /// The SVID, once there is one.
    pub(super) async fn wait(&self) -> Result<Arc<X509Svid>, SvidError> {
        let mut identity = self.identity.clone();
        let state = identity.wait_for(|state| state.snapshot().is_some()).await;
        self.select(&*state.map_err(|_| SvidError::SourceEnded)?)
    }

    /// The roots of its trust domain.
    pub(super) fn roots(&self) -> Result<Vec<CertificateDer<'static>>, SvidError> {
        let state = self.identity.borrow();
        let svid = self.select(&state)?;
        let bundles = state.snapshot().map(|snapshot| &snapshot.bundles);
        let own = bundles.and_then(|bundles| bundles.get(svid.id.trust_domain_name()));
        Ok(own.map(|bundle| bundle.roots.clone()).unwrap_or_default())
    }

    fn select(&self, state: &IdentityState) -> Result<Arc<X509Svid>, SvidError> {
        match state {
            IdentityState::Ready(snapshot) => {
                let svid = snapshot.select(&self.selector);
                svid.cloned().ok_or(SvidError::NotSelected)
            }
            IdentityState::Waiting(reason)
            | IdentityState::Withdrawn(reason)
            | IdentityState::Opaque(reason) => Err(SvidError::Absent(Arc::clone(reason))),
        }
    }
}
