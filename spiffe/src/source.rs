//! Where identities come from, and who asks for them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::sleep};
use tonic::transport::server::UdsConnectInfo;
use tracing::warn;

use crate::{
    IdentitySnapshot, SpiffeId,
    jwt::{JwtBundles, JwtSvid},
};

/// The longest sleep until an expiry, so that a jump of the clock is noticed.
const MAX_EXPIRY_SLEEP: Duration = Duration::from_secs(10);

/// What a source has to say at this instant.
#[derive(Clone, Debug)]
pub enum IdentityState {
    /// Nothing yet; the text says what is waited for, for readiness and logs.
    Waiting(Arc<str>),
    /// The last good snapshot. An outage keeps it until it expires.
    Ready(Arc<IdentitySnapshot>),
    /// The source took the identity back, or it expired; the text says which.
    Withdrawn(Arc<str>),
    /// There is an identity, but not of SPIFFE (certificates from files of any PKI): nothing of it can
    /// be handed out here. The text says what it is.
    Opaque(Arc<str>),
}

impl IdentityState {
    /// The snapshot, if there is one.
    pub fn snapshot(&self) -> Option<&Arc<IdentitySnapshot>> {
        match self {
            Self::Ready(snapshot) => Some(snapshot),
            Self::Waiting(_) | Self::Withdrawn(_) | Self::Opaque(_) => None,
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

impl Caller {
    /// The peer of a gRPC call that came over a Unix socket, as the kernel told at its accept.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        let socket = request.extensions().get::<UdsConnectInfo>();
        match socket.and_then(|socket| socket.peer_cred) {
            Some(peer) => Self {
                uid: Some(peer.uid()),
                gid: Some(peer.gid()),
                pid: peer.pid(),
            },
            None => Self::default(),
        }
    }
}

/// What a server (Workload API or SDS) hands out, by caller.
pub trait Provider: Send + Sync + 'static {
    /// The identities of `caller`; `Withdrawn` where it has none.
    fn identities(&self, caller: &Caller) -> watch::Receiver<IdentityState>;
}

/// What a Workload API server needs for JWT-SVIDs.
pub trait JwtProvider: Send + Sync + 'static {
    /// JWT-SVIDs for `audience`: one for each identity of `caller`, or for `id` alone. Empty where it
    /// has none.
    fn mint(&self, caller: &Caller, audience: &[String], id: Option<&SpiffeId>) -> Vec<JwtSvid>;

    /// The JWT bundles that `caller` may see; `None` where it has no identity.
    fn bundles(&self, caller: &Caller) -> watch::Receiver<Option<Arc<JwtBundles>>>;
}

/// Takes expired SVIDs out of `state`, at their very instant; withdraws the identity with the last.
/// Runs until it is dropped: each source runs one beside itself.
pub async fn expire(state: watch::Sender<IdentityState>) {
    let mut changes = state.subscribe();
    loop {
        let snapshot = changes.borrow_and_update().snapshot().cloned();
        let Some(snapshot) = snapshot else {
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        };
        let left = snapshot
            .next_expiry()
            .duration_since(SystemTime::now())
            .unwrap_or(Duration::ZERO);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = sleep((left + Duration::from_millis(1)).min(MAX_EXPIRY_SLEEP)) => {
                state.send_if_modified(drop_expired);
            }
        }
    }
}

fn drop_expired(state: &mut IdentityState) -> bool {
    let IdentityState::Ready(snapshot) = state else {
        return false;
    };
    match snapshot.without_expired(SystemTime::now()) {
        Some(left) if Arc::ptr_eq(&left, snapshot) => false,
        Some(left) => {
            warn!("an SVID expired before it was renewed; the others stay");
            *state = IdentityState::Ready(left);
            true
        }
        None => {
            let reason = "every SVID expired before it was renewed";
            warn!(reason, "the identity is withdrawn");
            *state = IdentityState::Withdrawn(reason.into());
            true
        }
    }
}
