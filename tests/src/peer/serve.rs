//! A service like httpbin, the bookinfo pages and nginx, as far as the walk-throughs ask for them.
//!
//! `/` is a page, `/status/N` answers with N, `/delay/N` after N seconds; all else, and the bodies of
//! these, tell what the request was: JSON with `path`, `headers` and, over mTLS, `peer`. A service that
//! calls others first adds `calls`, what each of them answered.

use std::{convert::Infallible, fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::calls;

/// The first page of nginx, as far as anybody looks at it.
const PAGE: &str = "<!DOCTYPE html><html><head><title>Welcome to nginx!</title></head></html>\n";
/// The longest delay, as httpbin's.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// HTTP/1 and HTTP/2 without TLS. Each request asks all of `calls` first.
pub async fn plain(on: SocketAddr, calls: Vec<Uri>) -> anyhow::Result<()> {
    let calls: Arc<[Uri]> = calls.into();
    let listener = TcpListener::bind(on).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let _ = stream.set_nodelay(true);
        tokio::spawn(connection(stream, None, Arc::clone(&calls)));
    }
}

/// The same over mTLS with `svid.pem` and `key.pem` of `dir`; a client must have a certificate that
/// `bundle.pem` vouches for.
pub async fn tls(on: SocketAddr, dir: &Path) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(server_config(dir)?));
    let listener = TcpListener::bind(on).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            match acceptor.accept(stream).await {
                Ok(stream) => {
                    let peer = stream.get_ref().1.peer_certificates();
                    let peer = peer.and_then(|chain| chain.first()).and_then(uri);
                    connection(stream, peer, [].into()).await;
                }
                Err(error) => eprintln!("refused a client: {error}"),
            }
        });
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
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
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

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Option<String>,
    calls: Arc<[Uri]>,
) {
    let service = service_fn(move |request| answer(request, peer.clone(), Arc::clone(&calls)));
    // A proxy may close whenever it likes.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    peer: Option<String>,
    to_call: Arc<[Uri]>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    let mut status = StatusCode::OK;
    if let Some(code) = path.strip_prefix("/status/") {
        let code = code
            .parse()
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok());
        status = code.unwrap_or(StatusCode::BAD_REQUEST);
    } else if let Some(seconds) = path.strip_prefix("/delay/") {
        let delay = Duration::from_secs(seconds.parse().unwrap_or(0));
        tokio::time::sleep(delay.min(MAX_DELAY)).await;
    }
    let (kind, body) = if path == "/" {
        ("text/html", PAGE.to_owned())
    } else {
        let mut body = json!({ "path": path, "headers": headers(request.headers()), "peer": peer });
        if !to_call.is_empty() {
            body["calls"] = calls::all(&to_call, request.headers()).await;
        }
        ("application/json", body.to_string())
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn headers(headers: &HeaderMap) -> Map<String, Value> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value).into()))
        .collect()
}
