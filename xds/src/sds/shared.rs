//! One identity for every caller.

use ithildin_spiffe::{Caller, IdentityState, Provider};
use tokio::sync::watch;

/// Hands the agent's own identity to whoever connects: the socket's permissions say who may.
#[derive(Clone, Debug)]
pub struct SharedIdentity(watch::Receiver<IdentityState>);

impl SharedIdentity {
    pub fn new(identity: watch::Receiver<IdentityState>) -> Self {
        Self(identity)
    }
}

impl Provider for SharedIdentity {
    fn identities(&self, _: &Caller) -> watch::Receiver<IdentityState> {
        self.0.clone()
    }
}
