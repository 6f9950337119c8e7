//! Under which trust a TLS connection was let in, and whether it would be today.

use std::{sync::Arc, time::SystemTime};

use ithildin_tls::{Identity, Peer, Slot, Validation, verify::Role};

use super::CloseReason;

/// What a live TLS connection depends on.
#[derive(Clone, Debug)]
pub struct Authority {
    pub trust: Trust,
    /// `None`: the peer showed no certificate, and need not.
    pub peer: Option<Arc<Peer>>,
    /// What the peer is to us.
    pub role: Role,
    /// Epochs of identity and of validation that the handshake used: a change since is caught.
    pub epochs: (u64, u64),
}

/// The slots that decide.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    pub validation: Option<Arc<Slot<Validation>>>,
    /// Our own identity, where we showed one.
    pub identity: Option<Arc<Slot<Identity>>>,
}

impl Authority {
    /// Whether the connection would be let in today; the peer as it is then, if there is one.
    pub(super) fn judge(&self, now: SystemTime) -> Result<Option<Arc<Peer>>, CloseReason> {
        if self.trust.identity_withdrawn() {
            return Err(CloseReason::IdentityWithdrawn);
        }
        let Some(slot) = &self.trust.validation else {
            return Ok(self.peer.clone());
        };
        let validation = slot.load().ok_or(CloseReason::ValidationWithdrawn)?;
        let Some(peer) = &self.peer else {
            return Ok(None);
        };
        validation
            .reverify(peer, self.role, now)
            .map(Some)
            .map_err(|refusal| CloseReason::Refused(Arc::new(refusal)))
    }

    /// Whether trust changed since before the handshake.
    pub(super) fn is_stale(&self) -> bool {
        self.trust.epochs() != self.epochs
    }

    /// Whether a certificate of the peer's path, or a CRL, has run out.
    pub(super) fn is_over(&self, now: SystemTime) -> bool {
        self.peer
            .as_ref()
            .is_some_and(|peer| peer.valid_until < now)
    }
}

impl Trust {
    /// Epochs of identity and validation.
    pub fn epochs(&self) -> (u64, u64) {
        (
            self.identity.as_ref().map_or(0, |slot| slot.epoch()),
            self.validation.as_ref().map_or(0, |slot| slot.epoch()),
        )
    }

    /// Whether both are the very same slots.
    pub(super) fn same(&self, other: &Self) -> bool {
        same_slot(&self.validation, &other.validation) && same_slot(&self.identity, &other.identity)
    }

    fn identity_withdrawn(&self) -> bool {
        let withdrawn = |slot: &Arc<Slot<Identity>>| slot.load().is_none();
        self.identity.as_ref().is_some_and(withdrawn)
    }
}

fn same_slot<T>(one: &Option<Arc<Slot<T>>>, other: &Option<Arc<Slot<T>>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}
