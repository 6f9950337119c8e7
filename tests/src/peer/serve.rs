//! A service like httpbin, the bookinfo pages and nginx, as far as the walk-throughs ask for them.
//!
//! `/` is a page, `/status/N` answers with N, `/delay/N` after N seconds, `/flaky/N/...` with 500 the first
//! N times, `/broken/ADDRESS` with 500 where that is its own address, `/count/PATH` with how often PATH was
//! asked for. All else, and the bodies of these, tell what the request was: JSON with `method`, `path`,
//! `query`, `version`, `headers`, its own `address` and, over mTLS, `peer`. A service that calls others first
//! adds `calls`, what each of them answered. A call of gRPC gets an empty message and trailers, or that the
//! service is unavailable where HTTP gets another status than 200; an upgrade is taken, and then bytes come
//! back as they are.

use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use http::Uri;
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::answers::{Connection, Service};

/// What it speaks over TLS; a sidecar without Istio's own filters offers `istio` alone, for HTTP/1.1.
const ALPN: [&[u8]; 3] = [b"h2", b"http/1.1", b"istio"];

/// HTTP/1 and HTTP/2 without TLS. Each request asks all of `calls` first.
pub async fn plain(on: SocketAddr, calls: Vec<Uri>) -> anyhow::Result<()> {
    let service = Service::new(calls);
    let listener = TcpListener::bind(on).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let _ = stream.set_nodelay(true);
        let connection = connection(&stream);
        tokio::spawn(service.clone().serve(stream, connection));
    }
}

/// The same on a socket of the file system, which any user may connect to.
pub async fn unix(on: &Path) -> anyhow::Result<()> {
    let service = Service::default();
    let listener = UnixListener::bind(on)?;
    fs::set_permissions(on, Permissions::from_mode(0o666))?;
    loop {
        let (stream, _) = listener.accept().await?;
        let connection = Connection {
            address: None,
            peer: None,
        };
        tokio::spawn(service.clone().serve(stream, connection));
    }
}

/// The same as [`plain`] over mTLS with `svid.pem` and `key.pem` of `dir`; a client must have a certificate that
/// `bundle.pem` vouches for.
pub async fn tls(on: SocketAddr, dir: &Path) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(server_config(dir)?));
    let service = Service::default();
    let listener = TcpListener::bind(on).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, service) = (acceptor.clone(), service.clone());
        let mut connection = connection(&stream);
        tokio::spawn(async move {
            match acceptor.accept(stream).await {
                Ok(stream) => {
                    let peer = stream.get_ref().1.peer_certificates();
                    connection.peer = peer.and_then(|chain| chain.first()).and_then(uri);
                    service.serve(stream, connection).await;
                }
                Err(error) => eprintln!("refused a client: {error}"),
            }
        });
    }
}

fn connection(stream: &TcpStream) -> Connection {
    Connection {
        address: stream.local_addr().ok().map(|address| address.ip()),
        peer: None,
    }
}

fn server_config(dir: &Path) -> anyhow::Result<ServerConfig> {
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&read("bundle.pem")?) {
        roots.add(root?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read("svid.pem")?).collect();
    let key = PrivateKeyDer::from_pem_slice(&read("key.pem")?)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier.build()?)
        .with_single_cert(chain?, key)?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

/// The first URI among the subject's names.
fn uri(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            x509_parser::extensions::GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        })
}
