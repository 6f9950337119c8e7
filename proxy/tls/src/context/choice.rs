//! Several certificates of one server: the name that a client asks for and what it can verify choose one,
//! as in Envoy.

use std::sync::{Arc, OnceLock};

use rustls::{
    CipherSuite, SignatureAlgorithm, SignatureScheme,
    pki_types::ServerName,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use webpki::EndEntityCert;

use crate::{Identity, provider};

/// A certificate that may be shown, and the epoch of its slot.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) identity: Arc<Identity>,
    pub(crate) epoch: u64,
}

/// The choice of one handshake.
#[derive(Debug)]
pub(crate) struct Choice {
    candidates: Arc<[Candidate]>,
    /// Whether a client that asks for a name of none of them may have any; it has the first one otherwise.
    full_scan: bool,
    chosen: OnceLock<usize>,
}

impl Choice {
    pub(crate) fn new(candidates: Arc<[Candidate]>, full_scan: bool) -> Self {
        Self {
            candidates,
            full_scan,
            chosen: OnceLock::new(),
        }
    }

    /// The index of what was shown, if it came to that.
    pub(crate) fn chosen(&self) -> Option<usize> {
        self.chosen.get().copied()
    }

    /// The first one of those with the name that the client can verify; ECDSA goes before RSA, which costs
    /// more.
    fn choose(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
        suites: &[CipherSuite],
    ) -> usize {
        let mut named = self.named(name);
        if named.is_empty() && self.full_scan {
            named = self.named(None);
        }
        let is = |index: &usize, ecdsa: bool| {
            self.candidates.get(*index).is_some_and(|candidate| {
                let key = &candidate.identity.certified.key;
                (key.algorithm() == SignatureAlgorithm::ECDSA) == ecdsa
                    && key.choose_scheme(schemes).is_some()
                    && suits(suites, key.algorithm())
            })
        };
        let able = |ecdsa| named.iter().find(|index| is(index, ecdsa));
        // One that the client cannot verify is for the handshake to refuse.
        let found = able(true).or_else(|| able(false)).or(named.first());
        found.copied().unwrap_or(0)
    }

    /// Those that are for this name; without a name, all.
    fn named(&self, name: Option<&str>) -> Vec<usize> {
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        let is_for = |identity: &Identity| {
            let Some(name) = &name else {
                return true;
            };
            let leaf = identity.certified.cert.first();
            let leaf = leaf.and_then(|leaf| EndEntityCert::try_from(leaf).ok());
            leaf.is_some_and(|leaf| leaf.verify_is_valid_for_subject_name(name).is_ok())
        };
        let all = self.candidates.iter().enumerate();
        all.filter(|(_, candidate)| is_for(&candidate.identity))
            .map(|(index, _)| index)
            .collect()
    }
}

/// Whether a client that may end up with TLS 1.2, whose suites name the algorithm of the key, takes this one.
fn suits(offered: &[CipherSuite], algorithm: SignatureAlgorithm) -> bool {
    let mut common = provider::tls12_suites()
        .filter(|suite| offered.contains(&suite.suite()))
        .peekable();
    common.peek().is_none() || common.any(|suite| suite.usable_for_signature_algorithm(algorithm))
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let choose = || {
            self.choose(
                hello.server_name(),
                hello.signature_schemes(),
                hello.cipher_suites(),
            )
        };
        let index = *self.chosen.get_or_init(choose);
        let candidate = self.candidates.get(index)?;
        Some(Arc::clone(&candidate.identity.certified))
    }
}
