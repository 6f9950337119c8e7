//! Requests to servers on this host and to the workload.
//!
//! One connection a request, unless its owner keeps it. Heads are bounded; bodies are for the caller to
//! bound, as is the time.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header::HOST};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    rt::{Read, Write},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use url::Url;

use crate::redirect::{self, Next};

/// The longest head of an answer.
const MAX_HEAD: usize = 64 << 10;
/// What the sidecar's own listener lets through to the workload untouched.
const PROBE_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
const PROBE_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
/// As the kubelet's probes do.
const PROBE_LINGER: Duration = Duration::from_secs(1);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{url:?} is not a URL of HTTP: {reason}")]
    Url { url: String, reason: String },
    #[error("cannot resolve {host}: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("cannot connect to {addr}: {source}")]
    Connect { addr: SocketAddr, source: io::Error },
    #[error("no TLS with {host}: {source}")]
    Tls { host: String, source: io::Error },
    #[error("no answer: {0}")]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Redirect(#[from] redirect::Error),
}

/// From where connections are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Any,
    /// 127.0.0.6 or ::6, which Istio's rules and listeners know as probes.
    Probe,
}

/// Opens connections.
#[derive(Clone, Debug)]
pub struct Connector {
    source: Source,
    tls: Option<Arc<ClientConfig>>,
}

/// A connection that requests are sent on, one after the other.
#[derive(Debug)]
pub(crate) enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connector {
    /// `http` alone.
    pub fn plain(source: Source) -> Self {
        Self { source, tls: None }
    }

    /// `https` too, as `tls` says.
    pub(crate) fn with_tls(source: Source, tls: Arc<ClientConfig>) -> Self {
        Self {
            source,
            tls: Some(tls),
        }
    }

    /// One request, and those of up to ten redirects on the same host.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut url = parse(url)?;
        for _ in 0..redirect::MAX_REQUESTS {
            let mut connection = self.connect(&url).await?;
            let host = host_header(&url)?;
            let request = request(method.clone(), &url, host, headers, body.clone())?;
            let response = connection.send(request).await?;
            match redirect::next(&url, &response)? {
                Next::Follow(next) => url = next,
                Next::Elsewhere | Next::Done => return Ok(response),
            }
        }
        Err(redirect::Error::TooMany.into())
    }

    /// A connection to the host that `url` names.
    pub(crate) async fn connect(&self, url: &Url) -> Result<Connection, ClientError> {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or_default();
        let stream = self.dial(host, port).await?;
        let Some(tls) = self.tls.as_ref().filter(|_| url.scheme() == "https") else {
            return Connection::http1(stream).await;
        };
        let failed = |source| ClientError::Tls {
            host: host.to_owned(),
            source,
        };
        let name = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name = ServerName::try_from(name).map_err(|error| failed(io::Error::other(error)))?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
        let stream = stream.await.map_err(failed)?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Connection::http2(stream).await,
            _ => Connection::http1(stream).await,
        }
    }

    /// A TCP connection to the first address of `host` that takes it.
    pub(crate) async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, ClientError> {
        let mut failure = None;
        for addr in resolve(host, port).await? {
            match self.dial_addr(addr).await {
                Ok(stream) => return Ok(stream),
                Err(source) => failure = Some(ClientError::Connect { addr, source }),
            }
        }
        Err(failure.unwrap_or_else(|| ClientError::Resolve {
            host: host.to_owned(),
            source: io::Error::other("it has no address"),
        }))
    }

    async fn dial_addr(&self, addr: SocketAddr) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if self.source == Source::Probe {
            socket.set_linger(Some(PROBE_LINGER))?;
            let from = match addr {
                SocketAddr::V4(_) => IpAddr::from(PROBE_SOURCE),
                SocketAddr::V6(_) => IpAddr::from(PROBE_SOURCE_V6),
            };
            match socket.bind(&SocketAddr::new(from, 0).into()) {
                // No traffic is captured where nobody has given ::6 to a device.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                bound => bound?,
            }
        }
        let stream = TcpSocket::from_std_stream(socket.into())
            .connect(addr)
            .await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Connection {
    async fn http1<S>(stream: S) -> Result<Self, ClientError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            // As Go writes them: there are workloads that look for `Host` and find no `host`.
            .title_case_headers(true)
            .handshake(TokioIo::new(stream))
            .await?;
        // It ends with the sender and the last body, or with the server.
        tokio::spawn(connection);
        Ok(Self::Http1(sender))
    }

    async fn http2<S>(stream: S) -> Result<Self, ClientError>
    where
        TokioIo<S>: Read + Write + Send + Unpin + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(MAX_HEAD as u32)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(Self::Http2(sender))
    }

    /// Sends a request with a relative target; the connection's protocol decides how its host is told.
    pub(crate) async fn send(
        &mut self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ClientError> {
        match self {
            Self::Http1(sender) => Ok(sender.send_request(request).await?),
            Self::Http2(sender) => {
                for_http2(&mut request)?;
                Ok(sender.send_request(request).await?)
            }
        }
    }

    /// Whether it can take another request, now that the last answer was read.
    pub(crate) async fn is_reusable(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }
}

/// `http` or `https` with a host.
pub(crate) fn parse(text: &str) -> Result<Url, ClientError> {
    let failed = |reason: String| ClientError::Url {
        url: text.to_owned(),
        reason,
    };
    let url = Url::parse(text).map_err(|error| failed(error.to_string()))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        other => Err(failed(format!(
            "scheme {other:?} with no host or not of HTTP"
        ))),
    }
}

/// What `Host` says of `url`.
pub(crate) fn host_header(url: &Url) -> Result<HeaderValue, ClientError> {
    let host = url.host_str().unwrap_or_default();
    let text = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    HeaderValue::try_from(text).map_err(|error| ClientError::Url {
        url: url.to_string(),
        reason: error.to_string(),
    })
}

pub(crate) fn request(
    method: Method,
    url: &Url,
    host: HeaderValue,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, ClientError> {
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let target = Uri::try_from(target).map_err(|error| ClientError::Url {
        url: url.to_string(),
        reason: error.to_string(),
    })?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = target;
    *request.headers_mut() = headers.clone();
    request.headers_mut().insert(HOST, host);
    Ok(request)
}

/// HTTP/2 tells the host in the target, and knows no `Host` and no `Connection`.
fn for_http2(request: &mut Request<Full<Bytes>>) -> Result<(), ClientError> {
    let host = request.headers_mut().remove(HOST);
    request.headers_mut().remove(http::header::CONNECTION);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTPS);
    let failed = |reason: String| ClientError::Url {
        url: format!("{host:?}"),
        reason,
    };
    let host = host
        .as_ref()
        .map_or(&b"localhost"[..], HeaderValue::as_bytes);
    let authority = host.try_into();
    parts.authority =
        Some(authority.map_err(|error: http::uri::InvalidUri| failed(error.to_string()))?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| failed(error.to_string()))?;
    Ok(())
}

/// `localhost` is this host whatever a resolver says.
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, ClientError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.eq_ignore_ascii_case("localhost") {
        return Ok(vec![
            (Ipv4Addr::LOCALHOST, port).into(),
            (Ipv6Addr::LOCALHOST, port).into(),
        ]);
    }
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(vec![(ip, port).into()]);
    }
    match tokio::net::lookup_host((bare, port)).await {
        Ok(addrs) => Ok(addrs.collect()),
        Err(source) => Err(ClientError::Resolve {
            host: bare.to_owned(),
            source,
        }),
    }
}
