//! Server and client contexts: one per target, compiled once, rotating in place.
//!
//! A context derives its rustls configuration from the material in its slots, and derives it anew
//! at the first handshake after either of them changed. Ticket keys, stored sessions and remembered
//! verdicts belong to the derived state and go with it. Invariants: a session is never resumed
//! across a change of identity, bundle, CRL or policy, nor in another context; a handshake is served
//! from one state from end to end.

mod choice;
mod client;
mod opaque_name;
mod server;

use std::sync::Arc;

use crate::{Identity, Slot};

pub use client::{ClientContext, ClientParams, is_dns_name};
pub(crate) use opaque_name::OpaqueName;
pub use server::{ServerContext, ServerParams};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// Whether a server asks for a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    None,
    /// Verified if presented; [`Validation::demands_certificate`](crate::Validation) makes it
    /// mandatory all the same.
    Optional,
    Required,
}

/// What a handshake has shown, and the place that it is from: what is there later may be another one.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) identity: Arc<Identity>,
    pub(crate) slot: Arc<Slot<Identity>>,
}

/// Epochs of identity and of validation; 0 for what is not used.
pub(crate) type Epochs = (u64, u64);
