//! Chains that passed, remembered.
//!
//! A memory belongs to one [`crate::Validation`], which never changes: what it holds cannot outlive a
//! change of bundle, CRL or policy. The key covers everything presented, and an entry ends when the
//! first certificate of its path, or the CRL that cleared it, runs out.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use aws_lc_rs::digest;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;

use crate::{Peer, verify::Role};

/// How many chains are remembered. A mesh peer shows the same one for half an hour or so.
const MAX_PASSED: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<HashMap<Key, Passed>>);

/// SHA-256 over role, chain and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

/// It passes again from then on, as long as the peer is valid.
#[derive(Debug)]
struct Passed {
    peer: Arc<Peer>,
    from: SystemTime,
}

impl Memory {
    pub(crate) fn recall(&self, key: &Key, now: SystemTime) -> Option<Arc<Peer>> {
        let passed = self.0.lock();
        let passed = passed.get(key)?;
        let valid = (passed.from..=passed.peer.valid_until).contains(&now);
        valid.then(|| passed.peer.clone())
    }

    pub(crate) fn remember(&self, key: Key, peer: Arc<Peer>, now: SystemTime) {
        let mut passed = self.0.lock();
        if passed.len() >= MAX_PASSED {
            passed.retain(|_, passed| passed.peer.valid_until >= now);
        }
        if passed.len() >= MAX_PASSED {
            passed.clear();
        }
        passed.insert(key, Passed { peer, from: now });
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl Key {
    pub(crate) fn new(
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        server_name: Option<&str>,
    ) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&[match role {
            Role::Client => 0,
            Role::Server => 1,
        }]);
        context.update(&intermediates.len().to_be_bytes());
        let chain = [leaf].into_iter().chain(intermediates).map(AsRef::as_ref);
        for part in chain.chain(server_name.map(str::as_bytes)) {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        Self(key)
    }
}
