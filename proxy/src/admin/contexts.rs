//! Every TLS context in service, with the material that it has now.

use std::sync::Arc;

use ithildin_tls::{Identity, Validation};

use super::AdminState;
use crate::config::cluster::Transport;

/// What one context presents and trusts, as far as it has anything yet.
pub(super) struct Context {
    /// Of which a server may have several.
    pub(super) identities: Vec<Arc<Identity>>,
    pub(super) validation: Option<Arc<Validation>>,
}

/// Those of listeners first, then those of clusters by name; one that several clusters share comes
/// once.
pub(super) fn each(state: &AdminState, mut visit: impl FnMut(Context)) {
    let snapshot = state.published.current.load_full();
    for listener in &snapshot.listeners {
        for tls in listener
            .chains
            .iter()
            .filter_map(|chain| chain.tls.as_ref())
        {
            let params = tls.params();
            visit(Context {
                identities: tls.identities().filter_map(|slot| slot.load()).collect(),
                validation: params.validation.as_ref().and_then(|slot| slot.load()),
            });
        }
    }
    let mut clusters: Vec<_> = snapshot.clusters.values().collect();
    clusters.sort_by_key(|cluster| &cluster.name);
    let mut seen = std::collections::BTreeSet::new();
    for socket in clusters.iter().flat_map(|cluster| &cluster.transport.0) {
        let Transport::Tls { context, .. } = &socket.transport else {
            continue;
        };
        if seen.insert(Arc::as_ptr(context)) {
            let params = context.params();
            let identity = params.identity.iter();
            visit(Context {
                identities: identity.filter_map(|slot| slot.load()).collect(),
                validation: params.validation.load(),
            });
        }
    }
}
