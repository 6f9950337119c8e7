//! What sockets offer: the identities of whoever calls.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Authority, WorkloadConfig};
use crate::{Caller, IdentityState, JwtBundles, JwtProvider, JwtSvid, Provider, SpiffeId};

/// Who listens: its credentials or its socket decide.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Audience {
    Caller { authority: String, caller: Caller },
    Workload { authority: String, id: SpiffeId },
}

impl Audience {
    pub(super) fn authority(&self) -> &str {
        match self {
            Self::Caller { authority, .. } | Self::Workload { authority, .. } => authority,
        }
    }

    /// Whether the audience is that workload.
    pub(super) fn is(&self, workload: &WorkloadConfig) -> bool {
        match self {
            // A workload with a socket of its own and no selector is to be found there alone.
            Self::Caller { caller, .. } => {
                let reachable = workload.socket.is_none() || workload.selector.is_some();
                reachable && workload.selector.matches(caller)
            }
            Self::Workload { id, .. } => workload.id == *id,
        }
    }
}

/// One socket's view of an [`Authority`].
#[derive(Clone)]
pub struct AuthorityProvider {
    authority: Authority,
    name: String,
    workload: Option<SpiffeId>,
}

impl AuthorityProvider {
    pub(super) fn agent(authority: Authority, name: &str) -> Self {
        Self {
            authority,
            name: name.to_owned(),
            workload: None,
        }
    }

    pub(super) fn workload(authority: Authority, name: &str, id: &SpiffeId) -> Self {
        Self {
            authority,
            name: name.to_owned(),
            workload: Some(id.clone()),
        }
    }

    fn audience(&self, caller: &Caller) -> Audience {
        let authority = self.name.clone();
        match &self.workload {
            Some(id) => Audience::Workload {
                authority,
                id: id.clone(),
            },
            None => Audience::Caller {
                authority,
                caller: *caller,
            },
        }
    }
}

impl Provider for AuthorityProvider {
    fn identities(&self, caller: &Caller) -> watch::Receiver<IdentityState> {
        let mut state = self.authority.shared.state.lock();
        state.subscribe(self.audience(caller)).0
    }
}

impl JwtProvider for AuthorityProvider {
    fn mint(&self, caller: &Caller, audience: &[String], id: Option<&SpiffeId>) -> Vec<JwtSvid> {
        let state = self.authority.shared.state.lock();
        state.mint_jwt(&self.audience(caller), audience, id)
    }

    fn bundles(&self, caller: &Caller) -> watch::Receiver<Option<Arc<JwtBundles>>> {
        let mut state = self.authority.shared.state.lock();
        state.subscribe(self.audience(caller)).1
    }
}
