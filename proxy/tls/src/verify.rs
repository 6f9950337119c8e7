//! Who is trusted, and why somebody is not.
//!
//! Invariants: a peer's trust domain comes from the single URI SAN of its leaf, and only that
//! domain's roots may verify it; every leaf rule of the X.509-SVID standard holds; no trust
//! material means that nobody is trusted. Handshakes, resumed sessions and live connections are
//! all judged by [`Validation::verify`].

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest;
use ithildin_spiffe::{SpiffeId, TrustDomain};
use rustls::pki_types::CertificateDer;

use crate::{
    Roots, SanMatcher, chain,
    leaf::Leaf,
    memory::{Key, Memory},
    san,
};

/// How a peer is judged: `CertificateValidationContext` with its trust material.
#[derive(Debug)]
pub struct Validation {
    pub trust: Trust,
    /// Any of these must match; empty: any subject that the trust admits. With
    /// [`Trust::Spiffe`] it is the SPIFFE ID that must, whatever type a matcher is of.
    pub sans: Vec<SanMatcher>,
    /// A DNS or IP SAN must match the name that we asked the server for (`auto_san_validation`).
    pub match_server_name: bool,
    /// SHA-256 of the leaf's DER (`verify_certificate_hash`). The leaf must be in this list or in
    /// the next; both empty: not checked.
    pub certificate_hashes: Vec<[u8; 32]>,
    /// SHA-256 of the leaf's SPKI (`verify_certificate_spki`).
    pub spki_hashes: Vec<[u8; 32]>,
    /// Judge the chain as of the moment when its youngest certificate began
    /// (`allow_expired_certificate`).
    pub allow_expired: bool,
    pub(crate) memory: Memory,
}

/// Roots, and for whom they speak.
#[derive(Debug)]
pub enum Trust {
    /// Envoy's SPIFFE validator: each trust domain its own roots and CRLs.
    Spiffe(BTreeMap<TrustDomain, Arc<Roots>>),
    /// `trusted_ca`: a root that carries a SPIFFE ID speaks for that trust domain only; a root
    /// without one speaks for any name.
    Ca(Arc<Roots>),
    /// The configuration says so in Envoy's words: no CA at all, or `ACCEPT_UNTRUSTED`. Names and
    /// hashes are checked all the same; the peer's SPIFFE ID is not taken for true.
    AcceptUntrusted,
}

/// What the peer is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// The verified peer.
#[derive(Debug)]
pub struct Peer {
    /// Leaf first, as presented.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its SPIFFE ID, if it showed an X.509-SVID and trust stands behind it.
    pub id: Option<SpiffeId>,
    /// Of the leaf.
    pub not_after: SystemTime,
    /// When the judgement must be passed again at the latest: a certificate of its path or a CRL
    /// runs out.
    pub valid_until: SystemTime,
    /// The name that it had to match, where the validation asks for that.
    pub(crate) server_name: Option<String>,
}

impl Peer {
    /// SHA-256 of the leaf.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut fingerprint = [0; 32];
        if let Some(leaf) = self.chain.first() {
            let digest = digest::digest(&digest::SHA256, leaf);
            fingerprint.copy_from_slice(digest.as_ref());
        }
        fingerprint
    }
}

/// What was found out about a chain that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Of an X.509-SVID whose chain was verified.
    pub id: Option<SpiffeId>,
    /// Of the leaf.
    pub not_after: SystemTime,
    /// From then on the judgement may differ: a certificate of the path or a CRL runs out.
    pub valid_until: SystemTime,
}

/// Why a peer was refused: one log line's worth.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// The peer's SPIFFE ID as its leaf states it, even if it is forged.
    pub peer: Option<String>,
    /// The trust domain whose bundle was used, if one was.
    pub bundle: Option<TrustDomain>,
    /// Envoy's counter: `fail_verify_error`, `fail_verify_san`, `fail_verify_cert_hash`,
    /// `fail_verify_no_cert`.
    pub counter: &'static str,
    /// A short constant name of the rule, for logs and tests: `unknown_trust_domain`,
    /// `unknown_issuer`, `expired`, `revoked`, `several_uri_sans`, `san_mismatch`, ...
    pub rule: &'static str,
    pub reason: String,
}

pub(crate) const FAIL_ERROR: &str = "fail_verify_error";
pub(crate) const FAIL_SAN: &str = "fail_verify_san";
pub(crate) const FAIL_HASH: &str = "fail_verify_cert_hash";
pub(crate) const FAIL_NO_CERTIFICATE: &str = "fail_verify_no_cert";

/// How long a judgement that ignores expiry stands.
const WITHOUT_EXPIRY: Duration = Duration::from_secs(3600);

impl Validation {
    /// Trust alone: any subject that it admits.
    pub fn new(trust: Trust) -> Self {
        Self {
            trust,
            sans: Vec::new(),
            match_server_name: false,
            certificate_hashes: Vec::new(),
            spki_hashes: Vec::new(),
            allow_expired: false,
            memory: Memory::default(),
        }
    }

    /// Judges the peer of a live connection by today's trust, which may let it in for longer: the
    /// peer that this yields says until when.
    ///
    /// # Errors
    /// The rule that refuses it now.
    pub fn reverify(&self, peer: &Peer, role: Role, now: SystemTime) -> Result<Arc<Peer>, Refusal> {
        let (leaf, intermediates) = peer
            .chain
            .split_first()
            .ok_or_else(Refusal::no_certificate)?;
        let server_name = peer.server_name.as_deref();
        self.judge(leaf, intermediates, role, server_name, now)
    }

    /// [`Validation::verify`] with a memory. It yields the same peer for the same chain, so that
    /// many connections of one peer keep one copy.
    pub(crate) fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        server_name: Option<&str>,
        now: SystemTime,
    ) -> Result<Arc<Peer>, Refusal> {
        let compared = server_name.filter(|_| self.match_server_name);
        let key = Key::new(leaf, intermediates, role, compared);
        if let Some(peer) = self.memory.recall(&key, now) {
            return Ok(peer);
        }
        let owned = |der: &CertificateDer<'_>| der.clone().into_owned();
        let chain: Vec<_> = [leaf].into_iter().chain(intermediates).map(owned).collect();
        let verified = self.verify(&chain, role, compared, now)?;
        let peer = Arc::new(Peer {
            chain,
            id: verified.id,
            not_after: verified.not_after,
            valid_until: verified.valid_until,
            server_name: compared.map(str::to_owned),
        });
        self.memory.remember(key, peer.clone(), now);
        Ok(peer)
    }

    /// Judges `chain`, leaf first, of the peer that plays `role`, at `now`. `server_name` is the
    /// name that a server was asked for.
    ///
    /// # Errors
    /// The first rule that refuses it.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        role: Role,
        server_name: Option<&str>,
        now: SystemTime,
    ) -> Result<Verified, Refusal> {
        let (leaf_der, intermediates) = chain.split_first().ok_or_else(Refusal::no_certificate)?;
        let leaf = Leaf::parse(leaf_der)?;
        let id = leaf.check(matches!(self.trust, Trust::Spiffe(_)))?;
        self.check_pins(&leaf)?;
        let verified = self.check_trust(&leaf, intermediates, id, role, now)?;
        self.check_names(&leaf, server_name)?;
        Ok(verified)
    }

    /// Whether nobody passes without a certificate, even where none is required: a SPIFFE ID, a
    /// name or a hash is demanded. It is so in Envoy, down to `ACCEPT_UNTRUSTED`, which lets those
    /// in who show nothing.
    pub fn demands_certificate(&self) -> bool {
        match &self.trust {
            Trust::Spiffe(_) => true,
            Trust::Ca(_) => {
                !(self.sans.is_empty()
                    && self.certificate_hashes.is_empty()
                    && self.spki_hashes.is_empty())
            }
            Trust::AcceptUntrusted => false,
        }
    }

    /// The roots that are in use, with their trust domain where there is one, for `/certs`.
    pub fn roots(&self) -> Vec<(Option<&TrustDomain>, &Arc<Roots>)> {
        match &self.trust {
            Trust::Spiffe(bundles) => bundles
                .iter()
                .map(|(td, roots)| (Some(td), roots))
                .collect(),
            Trust::Ca(roots) => vec![(None, roots)],
            Trust::AcceptUntrusted => Vec::new(),
        }
    }

    fn check_trust(
        &self,
        leaf: &Leaf<'_>,
        intermediates: &[CertificateDer<'_>],
        id: Option<SpiffeId>,
        role: Role,
        now: SystemTime,
    ) -> Result<Verified, Refusal> {
        let domain = id.as_ref().map(SpiffeId::trust_domain);
        let roots = match (&self.trust, &domain) {
            (Trust::AcceptUntrusted, _) => {
                return Ok(Verified {
                    id: None,
                    not_after: leaf.not_after(),
                    valid_until: now + WITHOUT_EXPIRY,
                });
            }
            (Trust::Ca(roots), _) => roots,
            (Trust::Spiffe(bundles), Some(domain)) => bundles.get(domain).ok_or_else(|| {
                let reason = format!(
                    "there is no bundle for its trust domain {domain}; there is one for {}",
                    domain_list(bundles)
                );
                leaf.refusal("unknown_trust_domain", reason)
            })?,
            // The leaf rules have refused it already.
            (Trust::Spiffe(_), None) => {
                return Err(leaf.refusal("no_uri_san", "it has no SPIFFE ID".to_owned()));
            }
        };
        let at = if self.allow_expired {
            leaf.youngest_start(intermediates)
        } else {
            leaf.check_validity(now)?;
            now
        };
        let request = chain::Request {
            leaf,
            intermediates,
            domain: domain.as_ref(),
            role,
            at,
        };
        let found = chain::verify(roots, &request);
        let found = found.map_err(|failure| self.chain_refusal(failure, &request))?;
        Ok(Verified {
            id,
            not_after: leaf.not_after(),
            valid_until: if self.allow_expired {
                now + WITHOUT_EXPIRY
            } else {
                found
            },
        })
    }

    fn chain_refusal(&self, failure: chain::Failure, request: &chain::Request<'_>) -> Refusal {
        let chain::Failure { rule, mut reason } = failure;
        let foreign = match (&self.trust, request.domain) {
            (Trust::Ca(roots), _) => chain::foreign_signer(roots, request),
            (Trust::Spiffe(bundles), Some(domain)) => bundles
                .get(domain)
                .and_then(|own| chain::foreign_signer(own, request))
                .or_else(|| chain::foreign_signer_of_bundles(bundles, request)),
            _ => None,
        };
        let mut rule = rule;
        if let Some(foreign) = foreign {
            rule = "foreign_signer";
            let named = request
                .domain
                .map_or("a peer without a SPIFFE ID", TrustDomain::as_str);
            reason = format!(
                "its certificate was signed by a CA of the trust domain {foreign}, which cannot \
                 vouch for {named}"
            );
        }
        let mut refusal = request.leaf.refusal(rule, reason);
        refusal.bundle = request.domain.cloned();
        refusal
    }

    fn check_pins(&self, leaf: &Leaf<'_>) -> Result<(), Refusal> {
        if self.certificate_hashes.is_empty() && self.spki_hashes.is_empty() {
            return Ok(());
        }
        let pinned = |hashes: &[[u8; 32]], bytes: &[u8]| {
            let hash = digest::digest(&digest::SHA256, bytes);
            hashes.iter().any(|pin| pin == hash.as_ref())
        };
        if pinned(&self.certificate_hashes, leaf.der)
            || pinned(&self.spki_hashes, leaf.public_key())
        {
            return Ok(());
        }
        let reason = "neither its certificate nor its key is among the pinned ones".to_owned();
        Err(Refusal {
            counter: FAIL_HASH,
            ..leaf.refusal("hash_mismatch", reason)
        })
    }

    fn check_names(&self, leaf: &Leaf<'_>, server_name: Option<&str>) -> Result<(), Refusal> {
        let refuse = |rule, reason| Refusal {
            counter: FAIL_SAN,
            ..leaf.refusal(rule, reason)
        };
        let names = leaf.names();
        let matches = |matcher: &SanMatcher| match self.trust {
            Trust::Spiffe(_) => matcher.matches_uri(&leaf.sans),
            Trust::Ca(_) | Trust::AcceptUntrusted => matcher.matches(&leaf.sans),
        };
        if !self.sans.is_empty() && !self.sans.iter().any(matches) {
            let reason = format!("none of its names ({names}) is among those that are accepted");
            return Err(refuse("san_mismatch", reason));
        }
        if self.match_server_name {
            let Some(wanted) = server_name else {
                let reason = "its name must match the name asked for, and none was".to_owned();
                return Err(refuse("server_name_mismatch", reason));
            };
            let covered = leaf
                .sans
                .dns
                .iter()
                .any(|name| san::dns_name_matches(name, wanted))
                || leaf.sans.ips.iter().any(|ip| ip.to_string() == wanted);
            if !covered {
                let reason = format!("none of its names ({names}) is {wanted}");
                return Err(refuse("server_name_mismatch", reason));
            }
        }
        Ok(())
    }
}

impl Refusal {
    pub(crate) fn no_certificate() -> Self {
        Self::without_peer(
            FAIL_NO_CERTIFICATE,
            "no_certificate",
            "the peer sent no certificate, and one is required",
        )
    }

    /// The trust material is gone: nobody passes.
    pub(crate) fn no_trust() -> Self {
        let reason = "there is no trust material to verify the peer with";
        Self::without_peer(FAIL_ERROR, "no_trust", reason)
    }

    pub(crate) fn without_peer(counter: &'static str, rule: &'static str, reason: &str) -> Self {
        Self {
            peer: None,
            bundle: None,
            counter,
            rule,
            reason: reason.to_owned(),
        }
    }
}

/// The first few of the domains, for a log line.
fn domain_list(bundles: &BTreeMap<TrustDomain, Arc<Roots>>) -> String {
    const SHOWN: usize = 5;
    let mut shown: Vec<_> = bundles
        .keys()
        .take(SHOWN)
        .map(TrustDomain::as_str)
        .collect();
    let more = bundles.len().saturating_sub(SHOWN);
    let rest = format!("{more} more");
    if more > 0 {
        shown.push(&rest);
    }
    if shown.is_empty() {
        "no domain".to_owned()
    } else {
        shown.join(", ")
    }
}

#[cfg(test)]
mod tests;
