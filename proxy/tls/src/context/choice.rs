//! Several certificates of one server: the name that a client asks for and what it can verify choose one,
//! as in Envoy.

use std::sync::{Arc, OnceLock};

use rustls::{
    CipherSuite, SignatureAlgorithm, SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::Shown;
use crate::{Identity, Slot, certificate, provider};

/// A certificate that may be shown, and where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    slot: Arc<Slot<Identity>>,
    pub(crate) identity: Arc<Identity>,
    /// Of the slot.
    pub(crate) epoch: u64,
    /// Names that clients may ask it for, in lower case: some with a star.
    names: Arc<[String]>,
}

impl Candidate {
    /// What the slot holds now, if there is anything.
    pub(crate) fn of(slot: &Arc<Slot<Identity>>) -> Option<Self> {
        let (epoch, identity) = slot.load_with_epoch();
        let identity = identity?;
        let leaf = identity.certified.cert.first();
        let names = leaf.map(|leaf| certificate::server_names(leaf));
        Some(Self {
            slot: Arc::clone(slot),
            epoch,
            names: names.unwrap_or_default().into(),
            identity,
        })
    }

    pub(crate) fn shown(&self) -> Shown {
        Shown {
            identity: Arc::clone(&self.identity),
            slot: Arc::clone(&self.slot),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|own| own == name)
    }

    /// Whether a client with these abilities can verify it.
    fn suits(&self, schemes: &[SignatureScheme], suites: &[CipherSuite]) -> bool {
        let key = &self.identity.certified.key;
        key.choose_scheme(schemes).is_some() && suit(suites, key.algorithm())
    }

    fn is_ecdsa(&self) -> bool {
        self.identity.certified.key.algorithm() == SignatureAlgorithm::ECDSA
    }
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

    /// Who has the very name goes before who has it by a star. Of either an ECDSA key that the client can
    /// verify goes before RSA, which costs more; the first certificate of all is the last resort.
    fn choose(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
        suites: &[CipherSuite],
    ) -> usize {
        let best = |which: &dyn Fn(&Candidate) -> bool| {
            let all = self.candidates.iter().enumerate();
            let mut fitting = all.filter(|(_, it)| which(it));
            let mut others = None;
            let ecdsa = fitting.find(|(index, it)| {
                if !it.is_ecdsa() {
                    others.get_or_insert(*index);
                }
                it.is_ecdsa() && it.suits(schemes, suites)
            });
            ecdsa.map(|(index, _)| index).or(others)
        };
        let Some(name) = name.map(str::to_ascii_lowercase) else {
            return best(&|_| true).unwrap_or(0);
        };
        let by_star = || {
            let (_, parent) = name.split_once('.')?;
            let star = format!("*.{parent}");
            best(&|it| it.has(&star))
        };
        let any = || self.full_scan.then(|| best(&|_| true)).flatten();
        best(&|it| it.has(&name))
            .or_else(by_star)
            .or_else(any)
            .unwrap_or(0)
    }
}

/// Whether a client that may end up with TLS 1.2, whose suites name the algorithm of the key, takes such a key.
fn suit(offered: &[CipherSuite], algorithm: SignatureAlgorithm) -> bool {
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
