//! A development authority: several trust domains with their own CAs, that issues, rotates, federates,
//! revokes and withdraws at run time, and forges for tests.
//!
//! It is for a first run and for tests: keys live in memory, and everything starts anew with the
//! process. Its certificates have the shape of SPIRE's.
//!
//! ```text
//! Authority -- agent("domain.test") ---> Provider, callers told apart by uid, gid, pid
//!           \- workload("domain.test", id) -> Provider, whoever connects is that workload
//! ```

mod ca;
mod config;
pub mod forge;
mod jwt;
mod leaf;
mod provider;
mod publish;
mod roots;
mod server;
mod state;
mod status;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use ithildin_panics::essential;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{IdError, SpiffeId, TrustDomain, X509Bundle, X509Svid, x509::SvidError};
pub use ca::{KeyType, Serial};
pub use config::{
    AuthorityConfig, ConfigError, Selector, TrustDomainConfig, WorkloadConfig, format_duration,
    parse_duration,
};
use forge::{Forged, Forgery};
pub use provider::AuthorityProvider;
use state::State;
pub use status::{RootStatus, Status, TrustDomainStatus, WorkloadStatus};

/// The longest sleep of the rotation, so that a jump of the clock is noticed.
const MAX_ROTATION_SLEEP: Duration = Duration::from_secs(30);

/// Why an operation of the authority failed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("there is no authority {0:?}; there are {1}")]
    UnknownAuthority(String, String),
    #[error("there is no bundle of trust domain {0}")]
    UnknownTrustDomain(TrustDomain),
    #[error("{authority:?} has no workload {id}")]
    UnknownWorkload { authority: String, id: SpiffeId },
    #[error("{id} is not of trust domain {trust_domain}")]
    ForeignId {
        id: SpiffeId,
        trust_domain: TrustDomain,
    },
    #[error("{text:?} {source}")]
    Id { text: String, source: IdError },
    #[error("no root is prepared for {0:?}; prepare one first")]
    NoPreparedRoot(String),
    #[error("{0:?} has no intermediate: its root signs the leaves")]
    NoIntermediate(String),
    #[error("cannot issue a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    #[error("cannot issue a certificate: it would break the standard: {0}")]
    Svid(#[from] SvidError),
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
}

/// The handle; clones share one authority. It lives as long as one of them.
#[derive(Clone)]
pub struct Authority {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

impl Authority {
    /// Makes the CAs and issues the first SVIDs. Needs a tokio runtime, for the rotation.
    pub fn start(config: AuthorityConfig) -> Result<Self, AuthorityError> {
        config.check()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(config)?),
            changed: Notify::new(),
        });
        tokio::spawn(essential("rotation", rotate(Arc::downgrade(&shared))));
        Ok(Self { shared })
    }

    /// What `authority`'s agent offers on its socket: callers are told apart by their credentials.
    pub fn agent(&self, authority: &str) -> Result<AuthorityProvider, AuthorityError> {
        self.shared.state.lock().server(authority)?;
        Ok(AuthorityProvider::agent(self.clone(), authority))
    }

    /// What a socket of `id` alone offers: whoever connects is that workload.
    pub fn workload(
        &self,
        authority: &str,
        id: &SpiffeId,
    ) -> Result<AuthorityProvider, AuthorityError> {
        self.shared.state.lock().server(authority)?;
        Ok(AuthorityProvider::workload(self.clone(), authority, id))
    }

    /// Registers a workload, or replaces its registration, and issues its SVID.
    pub fn grant(&self, authority: &str, workload: WorkloadConfig) -> Result<(), AuthorityError> {
        info!(authority, id = %workload.id, "granting an identity");
        self.change(|state| state.grant(authority, workload))
    }

    /// Takes the identity of a workload away: its streams end with `PermissionDenied`.
    pub fn withdraw(&self, authority: &str, id: &SpiffeId) -> Result<(), AuthorityError> {
        info!(authority, %id, "withdrawing an identity");
        self.change(|state| state.withdraw(authority, id))
    }

    /// Issues a new SVID to one workload, or to all.
    pub fn rotate_leaf(
        &self,
        authority: &str,
        id: Option<&SpiffeId>,
    ) -> Result<(), AuthorityError> {
        self.change(|state| state.rotate_leaf(authority, id))
    }

    /// Makes a new intermediate under the same root and issues all SVIDs anew.
    pub fn rotate_intermediate(&self, authority: &str) -> Result<(), AuthorityError> {
        info!(authority, "rotating the intermediate");
        self.change(|state| state.rotate_intermediate(authority))
    }

    /// Makes a new root and publishes it in the bundles; the old one goes on signing.
    pub fn prepare_root(&self, authority: &str) -> Result<(), AuthorityError> {
        info!(authority, "preparing a root");
        self.change(|state| state.prepare_root(authority))
    }

    /// Signs with the prepared root from now on and issues all SVIDs anew; the old root stays in the
    /// bundles.
    pub fn activate_root(&self, authority: &str) -> Result<(), AuthorityError> {
        info!(authority, "activating the prepared root");
        self.change(|state| state.activate_root(authority))
    }

    /// Takes all old roots out of the bundles: what they signed is no longer trusted.
    pub fn drop_old_roots(&self, authority: &str) -> Result<(), AuthorityError> {
        info!(authority, "dropping the old roots");
        self.change(|state| state.drop_old_roots(authority))
    }

    /// Prepares a root, gives everybody `settle` to learn it, then activates it.
    pub async fn rotate_root(
        &self,
        authority: &str,
        settle: Duration,
    ) -> Result<(), AuthorityError> {
        self.prepare_root(authority)?;
        sleep(settle).await;
        self.activate_root(authority)
    }

    /// Federates two trust domains in both directions.
    pub fn federate(&self, a: &TrustDomain, b: &TrustDomain) -> Result<(), AuthorityError> {
        self.trust(a, b)?;
        self.trust(b, a)
    }

    /// Ends the federation of two trust domains in both directions.
    pub fn unfederate(&self, a: &TrustDomain, b: &TrustDomain) -> Result<(), AuthorityError> {
        self.distrust(a, b)?;
        self.distrust(b, a)
    }

    /// Gives the workloads of `who` the bundle of `whom`.
    pub fn trust(&self, who: &TrustDomain, whom: &TrustDomain) -> Result<(), AuthorityError> {
        info!(%who, %whom, "federating");
        self.change(|state| state.trust(who, whom))
    }

    /// Takes the bundle of `whom` from the workloads of `who`.
    pub fn distrust(&self, who: &TrustDomain, whom: &TrustDomain) -> Result<(), AuthorityError> {
        info!(%who, %whom, "no longer federating");
        self.change(|state| state.distrust(who, whom))
    }

    /// Learns the bundle of a trust domain that another authority issues for.
    pub fn set_bundle(&self, bundle: X509Bundle) -> Result<(), AuthorityError> {
        info!(trust_domain = %bundle.trust_domain, "learning a bundle");
        self.change(|state| {
            state.set_foreign_bundle(bundle);
            Ok(())
        })
    }

    /// The current bundle of a trust domain.
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Result<X509Bundle, AuthorityError> {
        self.shared.state.lock().bundle(trust_domain)
    }

    /// Revokes a certificate of `authority` by its serial number. From the first revocation on, each
    /// CA of the trust domain publishes a CRL.
    pub fn revoke(&self, authority: &str, serial: &Serial) -> Result<(), AuthorityError> {
        info!(authority, %serial, "revoking a certificate");
        self.change(|state| state.revoke(authority, serial))
    }

    /// Revokes the current SVID of a workload, which keeps it until its rotation or withdrawal.
    pub fn revoke_workload(
        &self,
        authority: &str,
        id: &SpiffeId,
    ) -> Result<Serial, AuthorityError> {
        let serial = self.shared.state.lock().serial(authority, id)?;
        self.revoke(authority, &serial)?;
        Ok(serial)
    }

    /// Issues an SVID that belongs to no registered workload.
    pub fn mint(
        &self,
        authority: &str,
        id: &SpiffeId,
        ttl: Option<Duration>,
        dns: &[String],
    ) -> Result<X509Svid, AuthorityError> {
        self.shared.state.lock().mint(authority, id, ttl, dns)
    }

    /// Makes a certificate that must be refused: for tests. See [`forge`].
    pub fn forge(
        &self,
        authority: &str,
        id: &SpiffeId,
        forgery: Forgery,
    ) -> Result<Forged, AuthorityError> {
        let mut state = self.shared.state.lock();
        let forged = state.forge(authority, id, forgery)?;
        drop(state);
        if forgery == Forgery::Revoked {
            self.revoke(authority, &forged.serial)?;
        }
        Ok(forged)
    }

    /// What there is now.
    pub fn status(&self) -> Status {
        self.shared.state.lock().status()
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T, AuthorityError>,
    ) -> Result<T, AuthorityError> {
        let mut state = self.shared.state.lock();
        let result = change(&mut state)?;
        state.publish()?;
        drop(state);
        self.shared.changed.notify_one();
        Ok(result)
    }
}

/// Renews what is due, until the authority is gone.
async fn rotate(shared: Weak<Shared>) {
    loop {
        let Some(strong) = shared.upgrade() else {
            return;
        };
        let due = strong.state.lock().next_rotation();
        let left = due.duration_since(SystemTime::now());
        let left = left.unwrap_or(Duration::ZERO).min(MAX_ROTATION_SLEEP);
        let woken = timeout(left, strong.changed.notified()).await.is_ok();
        if !woken && let Err(error) = rotate_due(&strong) {
            warn!(%error, "the rotation failed and is tried again");
            sleep(Duration::from_secs(1)).await;
        }
    }
}

fn rotate_due(shared: &Shared) -> Result<(), AuthorityError> {
    let mut state = shared.state.lock();
    if state.rotate_due(SystemTime::now())? {
        state.publish()?;
    }
    Ok(())
}
