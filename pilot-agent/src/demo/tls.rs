//! A client that shows the gateway any certificate, valid or forged.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use ithildin_spiffe::{PrivateKey, X509Bundle, x509::check_leaf};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::plain::Client;

/// No handshake on loopback takes longer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What Istio's own clients offer for HTTP/1.1, but for the names that only its filters understand.
const ALPN: &[u8] = b"http/1.1";

/// Connects with `chain` and `key` to a server of `bundle`'s trust domain.
pub(super) async fn connect(
    address: SocketAddr,
    host: &str,
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKey,
    bundle: &X509Bundle,
) -> anyhow::Result<Client> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(SpiffeServer::new(bundle, Arc::clone(&provider))?);
    let key = PrivateKeyDer::Pkcs8(key.pkcs8_der().to_vec().into());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?;
        Client::over(stream, host).await
    };
    timeout(TIMEOUT, connect)
        .await
        .context("the handshake takes too long")?
}

/// Trusts servers of one trust domain, by SPIFFE ID and not by name.
struct SpiffeServer {
    roots: RootCertStore,
    trust_domain: String,
    provider: Arc<CryptoProvider>,
}

impl SpiffeServer {
    fn new(bundle: &X509Bundle, provider: Arc<CryptoProvider>) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for root in &bundle.roots {
            roots.add(root.clone())?;
        }
        Ok(Self {
            roots,
            trust_domain: bundle.trust_domain.to_string(),
            provider,
        })
    }
}

impl fmt::Debug for SpiffeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SpiffeServer")
            .field(&self.trust_domain)
            .finish()
    }
}

impl ServerCertVerifier for SpiffeServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let id = check_leaf(leaf).map_err(|error| Error::General(error.to_string()))?;
        if id.trust_domain_name() != self.trust_domain {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let algorithms = self.provider.signature_verification_algorithms.all;
        let leaf = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(
            &leaf,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
