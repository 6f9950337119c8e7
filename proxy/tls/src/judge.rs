//! A validation's face towards rustls.

use std::{
    cell::RefCell,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use crate::{ClientAuth, Peer, Refusal, Validation, provider, verify::Role};

#[derive(Debug)]
pub(crate) struct Judge {
    validation: Arc<Validation>,
    /// What our peers are to us.
    role: Role,
    mandatory: bool,
    /// The server's name where rustls knows only a stand-in.
    server_name: Option<Box<str>>,
}

impl Judge {
    pub(crate) fn new(validation: Arc<Validation>, role: Role, client_auth: ClientAuth) -> Self {
        // As in Envoy, what the validation demands of a certificate demands the certificate too,
        // even where the listener does not. Only the trust material that is there now can say.
        let mandatory = client_auth == ClientAuth::Required || validation.demands_certificate();
        Self {
            validation,
            role,
            mandatory,
            server_name: None,
        }
    }

    /// The same for a server of this name, whatever rustls takes it to be.
    pub(crate) fn for_server(&self, name: &str) -> Self {
        Self {
            validation: Arc::clone(&self.validation),
            role: self.role,
            mandatory: self.mandatory,
            server_name: Some(name.into()),
        }
    }

    /// Whether a peer without a certificate is refused.
    pub(crate) fn certificate_is_mandatory(&self) -> bool {
        self.mandatory
    }

    /// Judges a chain, leaf first.
    pub(crate) fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: Option<&str>,
        now: SystemTime,
    ) -> Verdict {
        self.validation
            .judge(leaf, intermediates, self.role, server_name, now)
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

/// The methods that rustls wants of the verifiers of both sides alike.
macro_rules! handshake_signatures {
    () => {
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
    };
}

impl ClientCertVerifier for Judge {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
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

    handshake_signatures!();
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
            // The stand-in for no name at all.
            ServerName::IpAddress(ip) if IpAddr::from(*ip).is_unspecified() => None,
            name => Some(name.to_str().into_owned()),
        };
        let name = self.server_name.as_deref().or(name.as_deref());
        self.rule(leaf, intermediates, name, now)
            .map(|()| ServerCertVerified::assertion())
    }

    handshake_signatures!();
}
