//! TLS to istiod: its certificate must bear a DNS name, and we may show a certificate of our own.

use std::{io, path::Path, sync::Arc, time::SystemTime};

use ithildin_spiffe::x509;
use ithildin_sys::file::read_regular;
use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tracing::warn;
use zeroize::Zeroizing;

use super::{Address, ClientFiles, Roots, Svid, SvidError, roots::MAX_PEM_BYTES};

/// istiod's name where it is reached through a forwarded port.
const ISTIOD: &str = "istiod.istio-system.svc";
/// What marks such a way.
const FORWARDED: &str = "localhost";
const ALPN: &[u8] = b"h2";

/// How TLS to istiod is made.
#[derive(Debug)]
pub struct Tls {
    /// The name that its certificate must bear, see [`server_name`].
    pub server_name: ServerName<'static>,
    pub roots: Roots,
    pub client: ClientCertificate,
}

/// What we show of ourselves. A bearer token goes with each call all the same.
#[derive(Clone, Debug)]
pub enum ClientCertificate {
    None,
    /// Shown while it is there and valid.
    Files(ClientFiles),
    /// A connection waits for it.
    Svid(Svid),
}

/// A name that no certificate can bear.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no DNS name and no IP address")]
pub struct ServerNameError(String);

/// The name that istiod's certificate must bear: `ISTIOD_SAN` if it is set, else the host of the
/// address, where localhost stands for a forwarded port.
///
/// # Errors
/// When it is not a name.
pub fn server_name(
    address: &Address,
    istiod_san: &str,
) -> Result<ServerName<'static>, ServerNameError> {
    let name = match istiod_san {
        "" if address.host.contains(FORWARDED) => ISTIOD,
        "" => &address.host,
        name => name,
    };
    ServerName::try_from(name.to_owned())
        .map_err(|_: InvalidDnsNameError| ServerNameError(name.to_owned()))
}

impl Tls {
    pub(super) async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let client = self.client.current().await.map_err(io::Error::other)?;
        let roots = self.roots.load().map_err(io::Error::other)?;
        let config = config(roots, client).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::new(config));
        let connected = connector.connect(self.server_name.clone(), stream).await;
        connected.map_err(|error| {
            let roots = match is_of_other_root(&error) {
                true => format!("; trusted is {}", self.roots),
                false => String::new(),
            };
            io::Error::new(error.kind(), format!("TLS: {error}{roots}"))
        })
    }
}

/// Whether no root of ours has signed what istiod shows. A mesh that was installed anew has another root of
/// the same name: then the signature is what does not fit.
fn is_of_other_root(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(
        cause,
        Some(rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature
        ))
    )
}

/// Why we have nothing to show.
#[derive(Debug, thiserror::Error)]
enum ClientError {
    #[error(transparent)]
    Svid(#[from] SvidError),
    #[error("{0}: {1}")]
    Read(String, io::Error),
    #[error("{0}: {1}")]
    Malformed(String, String),
    #[error("{0} has expired")]
    Expired(String),
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl ClientCertificate {
    async fn current(&self) -> Result<Option<Pair>, ClientError> {
        match self {
            Self::None => Ok(None),
            Self::Files(files) => Ok(pair_of(files)
                .inspect_err(
                    |error| warn!(%error, "no client certificate for istiod; the token must do"),
                )
                .ok()),
            Self::Svid(svid) => {
                let svid = svid.wait().await?;
                let key = PrivateKeyDer::Pkcs8(svid.key.pkcs8_der().to_vec().into());
                Ok(Some((svid.chain.clone(), key)))
            }
        }
    }
}

fn pair_of(files: &ClientFiles) -> Result<Pair, ClientError> {
    let read = |path: &Path| {
        read_regular(path, MAX_PEM_BYTES)
            .map_err(|error| ClientError::Read(path.display().to_string(), error))
    };
    let shown = files.certificate.display().to_string();
    let malformed = |reason: String| ClientError::Malformed(shown.clone(), reason);
    let chain = x509::certificates_from_pem(&read(&files.certificate)?)
        .map_err(|error| malformed(error.to_string()))?;
    let leaf = chain
        .first()
        .ok_or_else(|| malformed("no certificate".into()))?;
    let (_, not_after) =
        x509::certificate_validity(leaf).map_err(|error| malformed(error.to_string()))?;
    if not_after < SystemTime::now() {
        return Err(ClientError::Expired(shown));
    }
    let key = Zeroizing::new(read(&files.key)?);
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| {
        ClientError::Malformed(files.key.display().to_string(), error.to_string())
    })?;
    Ok((chain, key))
}

fn config(roots: RootCertStore, client: Option<Pair>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match client {
        Some((chain, key)) => config.with_client_auth_cert(chain, key)?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}
