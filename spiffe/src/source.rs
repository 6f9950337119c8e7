//! Where identities come from, and who asks for them.

use std::sync::Arc;

use tokio::sync::watch;

use crate::IdentitySnapshot;

/// What a source has to say at this instant.
#[derive(Clone, Debug)]
pub enum IdentityState {
    /// Nothing yet; the text says what is waited for, for readiness and logs.
    Waiting(Arc<str>),
    /// The last good snapshot. An outage keeps it until it expires.
    Ready(Arc<IdentitySnapshot>),
    /// The source took the identity back, or it expired; the text says which.
    Withdrawn(Arc<str>),
}

impl IdentityState {
    /// The snapshot, if there is one.
    pub fn snapshot(&self) -> Option<&Arc<IdentitySnapshot>> {
        match self {
            Self::Ready(snapshot) => Some(snapshot),
            Self::Waiting(_) | Self::Withdrawn(_) => None,
        }
    }
}

/// A source of this process's identity: the Workload API, files, a CA.
pub trait Source: Send + Sync {
    /// The current state and each later one; slow readers see only the newest.
    fn subscribe(&self) -> watch::Receiver<IdentityState>;
}

/// The peer of a local socket, as the kernel tells it. All `None` over TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Caller {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub pid: Option<i32>,
}

/// What a server (Workload API or SDS) hands out, by caller.
pub trait Provider: Send + Sync + 'static {
    /// The identities of `caller`; `Withdrawn` where it has none.
    fn identities(&self, caller: &Caller) -> watch::Receiver<IdentityState>;
}
