//! Who is trusted, and why somebody is not.
//!
//! Invariants: a peer's trust domain comes from the single URI SAN of its leaf, and only that
//! domain's roots may verify it; every leaf rule of the X.509-SVID standard holds; no trust
//! material means that nobody is trusted.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use ithildin_spiffe::{SpiffeId, TrustDomain};
use rustls::pki_types::CertificateDer;

use crate::{Peer, material::MaterialError};

/// How a peer is judged: `CertificateValidationContext` with its trust material.
#[derive(Debug)]
pub struct Validation {
    pub trust: Trust,
    /// Any of these must match; empty: any subject that the trust admits.
    pub sans: Vec<SanMatcher>,
    /// SHA-256 of the leaf's DER (`verify_certificate_hash`); empty: not checked.
    pub certificate_hashes: Vec<[u8; 32]>,
    /// SHA-256 of the leaf's SPKI (`verify_certificate_spki`); empty: not checked.
    pub spki_hashes: Vec<[u8; 32]>,
    pub allow_expired: bool,
}

/// Roots, and for whom they speak.
#[derive(Debug)]
pub enum Trust {
    /// Envoy's SPIFFE validator: each trust domain its own roots and CRLs.
    Spiffe(BTreeMap<TrustDomain, Arc<Roots>>),
    /// `trusted_ca`: a root that carries a SPIFFE ID speaks for that trust domain only; a root
    /// without one speaks for any name.
    Ca(Arc<Roots>),
    /// The configuration says so in Envoy's words: no CA at all, or `ACCEPT_UNTRUSTED`.
    AcceptUntrusted,
}

/// Roots and CRLs, parsed once.
#[derive(Debug)]
pub struct Roots {}

impl Roots {
    /// PEM certificates, and PEM CRLs among them or in `crl`. Expired roots are taken and trusted
    /// for nothing.
    pub fn from_pem(_roots: &[u8], _crl: &[u8]) -> Result<Self, MaterialError> {
        todo!()
    }

    /// The certificates, for `/certs`.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        todo!()
    }
}

/// Which SAN, and what it must be (`SubjectAltNameMatcher`).
#[derive(Debug)]
pub struct SanMatcher {
    /// `None`: any type (the deprecated `match_subject_alt_names`).
    pub san: Option<SanType>,
    pub pattern: SanPattern,
    pub ignore_case: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SanType {
    Dns,
    Uri,
    Email,
    Ip,
}

#[derive(Debug)]
pub enum SanPattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(regex::Regex),
}

/// Why a peer was refused: one log line's worth.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// The peer's SPIFFE ID as its leaf states it, even if it is forged.
    pub peer: Option<String>,
    /// The trust domain whose bundle was used, if one was.
    pub bundle: Option<TrustDomain>,
    /// Envoy's counter: `fail_verify_error`, `fail_verify_san`, `fail_verify_cert_hash`, `no_certificate`.
    pub counter: &'static str,
    /// A short constant name of the rule, for logs and tests: `unknown_trust_domain`, `chain`,
    /// `expired`, `revoked`, `several_uri_sans`, `san_mismatch`, ...
    pub rule: &'static str,
    pub reason: String,
}

/// What the peer is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

impl Validation {
    /// Judges `chain`, leaf first. The same judgement is passed on live connections when trust changes.
    pub fn verify(
        &self,
        _chain: &[CertificateDer<'_>],
        _role: Role,
        _now: SystemTime,
    ) -> Result<Option<SpiffeId>, Refusal> {
        todo!()
    }

    /// The same for the peer of a live connection.
    pub fn reverify(&self, _peer: &Peer, _role: Role, _now: SystemTime) -> Result<(), Refusal> {
        todo!()
    }
}
