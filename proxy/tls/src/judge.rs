//! One validation in use: its verdicts, remembered, and its face towards rustls.
//!
//! A judge lives as long as one epoch of its context's trust, so nothing that it remembers outlives
//! a change of bundle, CRL or policy.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest;
use ithildin_spiffe::SpiffeId;
use parking_lot::Mutex;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use crate::{
    ClientAuth, Refusal, Validation, provider,
    verify::{Role, Verified},
};

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

#[derive(Debug)]
pub(crate) struct Judge {
    validation: Arc<Validation>,
    /// What our peers are to us.
    role: Role,
    client_auth: ClientAuth,
    passed: Mutex<HashMap<[u8; 32], Passed>>,
}

/// A chain that passed: it passes again between these times without a look at it.
#[derive(Debug)]
struct Passed {
    peer: Arc<Peer>,
    from: SystemTime,
}

/// How many chains a judge remembers. A mesh peer shows the same chain for half an hour or so.
const MAX_PASSED: usize = 1024;

impl Judge {
    pub(crate) fn new(validation: Arc<Validation>, role: Role, client_auth: ClientAuth) -> Self {
        Self {
            validation,
            role,
            client_auth,
            passed: Mutex::default(),
        }
    }

    pub(crate) fn client_auth(&self) -> ClientAuth {
        self.client_auth
    }

    /// Judges a chain, leaf first.
    pub(crate) fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: Option<&str>,
        now: SystemTime,
    ) -> Result<Arc<Peer>, Refusal> {
        let server_name = server_name.filter(|_| self.validation.match_server_name);
        let key = key(leaf, intermediates, server_name);
        if let Some(passed) = self.passed.lock().get(&key)
            && (passed.from..=passed.peer.valid_until).contains(&now)
        {
            return Ok(passed.peer.clone());
        }
        let owned = |der: &CertificateDer<'_>| der.clone().into_owned();
        let chain: Vec<_> = [leaf].into_iter().chain(intermediates).map(owned).collect();
        let verified = self
            .validation
            .verify(&chain, self.role, server_name, now)?;
        let Verified {
            id,
            not_after,
            valid_until,
        } = verified;
        let peer = Arc::new(Peer {
            chain,
            id,
            not_after,
            valid_until,
            server_name: server_name.map(str::to_owned),
        });
        self.remember(key, &peer, now);
        Ok(peer)
    }

    fn remember(&self, key: [u8; 32], peer: &Arc<Peer>, now: SystemTime) {
        let mut passed = self.passed.lock();
        if passed.len() >= MAX_PASSED {
            passed.retain(|_, passed| passed.peer.valid_until >= now);
        }
        if passed.len() >= MAX_PASSED {
            passed.clear();
        }
        let peer = peer.clone();
        passed.insert(key, Passed { peer, from: now });
    }

    /// The verdict for rustls, and for [`take_verdict`].
    fn rule(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: Option<&str>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let verdict = self.judge(leaf, intermediates, server_name, now);
        let answer = verdict.as_ref().map(|_| ()).map_err(alert);
        VERDICT.set(Some(verdict));
        answer
    }
}

thread_local! {
    /// The latest verdict of this thread. rustls calls the verifier from within
    /// `process_new_packets` and drops all but the error's kind; this is the way around it.
    static VERDICT: RefCell<Option<Verdict>> = const { RefCell::new(None) };
}

pub(crate) type Verdict = Result<Arc<Peer>, Refusal>;

/// The verdict that was passed on this thread since the last call. Call it before and after
/// `process_new_packets`, with no await between.
pub(crate) fn take_verdict() -> Option<Verdict> {
    VERDICT.take()
}

/// SHA-256 over everything presented, each part with its length.
fn key(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    server_name: Option<&str>,
) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let parts = [leaf].into_iter().chain(intermediates).map(AsRef::as_ref);
    for part in parts.chain(server_name.map(str::as_bytes)) {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let mut key = [0; 32];
    key.copy_from_slice(context.finish().as_ref());
    key
}

/// The error of rustls whose alert tells the peer most.
fn alert(refusal: &Refusal) -> Error {
    let error = match refusal.rule {
        "expired" | "expired_root" => CertificateError::Expired,
        "not_yet_valid" => CertificateError::NotValidYet,
        "revoked" => CertificateError::Revoked,
        "unknown_issuer" | "unknown_trust_domain" | "foreign_signer" => {
            CertificateError::UnknownIssuer
        }
        _ => CertificateError::Other(OtherError(Arc::new(refusal.clone()))),
    };
    Error::InvalidCertificate(error)
}

fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    &provider::default_provider().signature_verification_algorithms
}

impl ClientCertVerifier for Judge {
    fn client_auth_mandatory(&self) -> bool {
        self.client_auth == ClientAuth::Required
    }

    /// None: a bundle may hold hundreds of roots, and workloads have one certificate to show.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.rule(leaf, intermediates, None, now)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let name = match server_name {
            ServerName::DnsName(name) => Some(name.as_ref().to_owned()),
            _ => None,
        };
        self.rule(leaf, intermediates, name.as_deref(), now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
