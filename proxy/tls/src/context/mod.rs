//! Server and client contexts: one per target, compiled once, rotating in place.
//!
//! A context derives its rustls configuration from the material in its slots, and derives it anew
//! at the first handshake after either of them changed. Ticket keys, stored sessions and remembered
//! verdicts belong to the derived state and go with it. Invariants: a session is never resumed
//! across a change of identity, bundle, CRL or policy, nor in another context; a handshake is served
//! from one state from end to end.

mod client;
mod server;

use std::sync::Arc;

pub use client::{ClientContext, ClientParams};
pub use server::{ServerContext, ServerParams};

use crate::{
    Refusal, Slot, Validation,
    judge::{Judge, Peer},
    verify::Role,
};
use std::time::SystemTime;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// Whether a server asks for a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    None,
    /// Verified if presented.
    Optional,
    Required,
}

/// Which material a handshake used: part of every pool key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epochs {
    pub identity: u64,
    pub validation: u64,
}

/// Judges the peer of a live connection by today's trust; with the judge's memory where it is
/// today's too.
fn reverify(
    slot: Option<&Arc<Slot<Validation>>>,
    judge: Option<&Judge>,
    role: Role,
    peer: &Peer,
    now: SystemTime,
) -> Result<(), Refusal> {
    let server_name = peer.server_name.as_deref();
    if let (Some(judge), Some((leaf, intermediates))) = (judge, peer.chain.split_first()) {
        return judge
            .judge(leaf, intermediates, server_name, now)
            .map(|_| ());
    }
    let validation = slot
        .and_then(|slot| slot.load())
        .ok_or_else(Refusal::no_trust)?;
    validation
        .verify(&peer.chain, role, server_name, now)
        .map(|_| ())
}
