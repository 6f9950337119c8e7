//! The roots of one authority, or of several that share them: the active one, the one that is prepared
//! to follow, and those that it followed.

use std::{
    mem,
    time::{Duration, SystemTime},
};

use super::{
    AuthorityError, TrustDomainConfig,
    ca::{CertificateAuthority, KeyType},
};
use crate::TrustDomain;

/// Whose roots they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RootName {
    /// One authority's own.
    Own(String),
    /// Those of all authorities that give this name.
    Shared(String),
}

impl RootName {
    pub(super) fn of(config: &TrustDomainConfig) -> Self {
        match &config.root {
            Some(name) => Self::Shared(name.clone()),
            None => Self::Own(config.authority().to_owned()),
        }
    }
}

/// All that are published in the bundle.
pub(super) struct RootSet {
    active: CertificateAuthority,
    prepared: Option<CertificateAuthority>,
    old: Vec<CertificateAuthority>,
    /// `None` for shared roots: they speak for no trust domain of their own.
    trust_domain: Option<TrustDomain>,
    ttl: Duration,
}

impl RootSet {
    pub(super) fn new(config: &TrustDomainConfig) -> Result<Self, AuthorityError> {
        let trust_domain = match RootName::of(config) {
            RootName::Own(_) => Some(config.name.clone()),
            RootName::Shared(_) => None,
        };
        let ttl = config.root_ttl;
        Ok(Self {
            active: CertificateAuthority::root(trust_domain.as_ref(), KeyType::EcP256, ttl)?,
            prepared: None,
            old: Vec::new(),
            trust_domain,
            ttl,
        })
    }

    pub(super) fn active(&self) -> &CertificateAuthority {
        &self.active
    }

    pub(super) fn is_prepared(&self) -> bool {
        self.prepared.is_some()
    }

    pub(super) fn published(&self) -> impl Iterator<Item = &CertificateAuthority> {
        [&self.active]
            .into_iter()
            .chain(&self.prepared)
            .chain(&self.old)
    }

    pub(super) fn published_mut(&mut self) -> impl Iterator<Item = &mut CertificateAuthority> {
        [&mut self.active]
            .into_iter()
            .chain(&mut self.prepared)
            .chain(&mut self.old)
    }

    /// Makes the next root; one that was prepared and never activated gives way.
    pub(super) fn prepare(&mut self) -> Result<(), AuthorityError> {
        let trust_domain = self.trust_domain.as_ref();
        let root = CertificateAuthority::root(trust_domain, KeyType::EcP256, self.ttl)?;
        self.prepared = Some(root);
        Ok(())
    }

    /// Makes the prepared root the active one; says whether there was one.
    pub(super) fn activate(&mut self) -> bool {
        let Some(prepared) = self.prepared.take() else {
            return false;
        };
        let old = mem::replace(&mut self.active, prepared);
        self.old.push(old);
        true
    }

    pub(super) fn drop_old(&mut self) {
        self.old.clear();
    }

    pub(super) fn drop_expired(&mut self, now: SystemTime) {
        self.old.retain(|root| root.not_after >= now);
    }
}
