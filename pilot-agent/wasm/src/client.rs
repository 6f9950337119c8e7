//! GET by HTTP/1.1, each on a connection of its own, to addresses that are allowed, redirects followed.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, StatusCode, Uri,
    header::{AUTHORIZATION, HOST, LOCATION, USER_AGENT},
};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use ithildin_web_tls::NoSystemRoots;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{FetchError, Options, guard};

/// As Go's client, which Istio's agent uses.
const MAX_REDIRECTS: usize = 10;
/// The largest head of a response: some registries sign long URLs.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Fields of a response's head.
const MAX_FIELDS: usize = 128;
/// How long a handshake may take, as with Go's client: some servers without TLS say nothing to it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const AGENT: &str = concat!("ithildin/", env!("CARGO_PKG_VERSION"));

/// A response whose body is still to be read.
pub(crate) struct Answer {
    /// Who answered, after redirects.
    pub(crate) uri: Uri,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
    /// What moves the body; it ends with the answer.
    _connection: Connection,
}

impl Answer {
    /// The error that the status is, unless it is 200.
    pub(crate) fn ok(self) -> Result<Self, FetchError> {
        match self.status {
            StatusCode::OK => Ok(self),
            status => Err(FetchError::Status {
                url: without_query(&self.uri),
                status,
            }),
        }
    }
}

/// Asks for `uri` until somebody answers with something else than a redirect. An `AUTHORIZATION` among the
/// headers goes to the first host only.
pub(crate) async fn get(
    options: &Options,
    uri: Uri,
    mut headers: HeaderMap,
) -> Result<Answer, FetchError> {
    let mut uri = uri;
    for _ in 0..=MAX_REDIRECTS {
        let answer = ask(options, &uri, &headers).await?;
        let Some(next) = redirected(&answer, options)? else {
            return Ok(answer);
        };
        if next.authority() != uri.authority() || next.scheme() != uri.scheme() {
            headers.remove(AUTHORIZATION);
        }
        uri = next;
    }
    Err(FetchError::Redirects(MAX_REDIRECTS))
}

/// Where else to look.
fn redirected(answer: &Answer, options: &Options) -> Result<Option<Uri>, FetchError> {
    let codes = [301, 302, 303, 307, 308];
    if !codes.contains(&answer.status.as_u16()) {
        return Ok(None);
    }
    let location = answer.headers.get(LOCATION);
    let text = String::from_utf8_lossy(location.map_or(&[], HeaderValue::as_bytes)).into_owned();
    let next = join(&answer.uri, &text);
    let next = next.ok_or_else(|| FetchError::Redirect(text.clone(), "no URL"))?;
    match (answer.uri.scheme_str(), next.scheme_str()) {
        (Some("https"), Some("http")) if !options.is_insecure(&host_port(&next)) => {
            Err(FetchError::Redirect(
                text,
                "it gives up TLS, and WASM_INSECURE_REGISTRIES does not name the host",
            ))
        }
        (_, Some("http" | "https")) => Ok(Some(next)),
        _ => Err(FetchError::Redirect(text, "neither http nor https")),
    }
}

/// A reference to the place of `base` (RFC 3986, section 5), as far as redirects use them.
fn join(base: &Uri, reference: &str) -> Option<Uri> {
    let reference = reference.split('#').next().unwrap_or_default();
    if reference.is_empty() {
        return None;
    }
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let absolute = match reference {
        it if it.contains("://") => it.to_owned(),
        it if it.starts_with("//") => format!("{scheme}:{it}"),
        it if it.starts_with('/') => format!("{scheme}://{authority}{it}"),
        it if it.starts_with('?') => format!("{scheme}://{authority}{}{it}", base.path()),
        it => {
            let folder = base
                .path()
                .rsplit_once('/')
                .map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{it}")
        }
    };
    absolute.parse().ok()
}

async fn ask(options: &Options, uri: &Uri, headers: &HeaderMap) -> Result<Answer, FetchError> {
    let target = Target::of(uri)?;
    let shown = target.shown.clone();
    let failed = |source| FetchError::Exchange {
        host: shown.clone(),
        source,
    };
    let stream = connect(options, &target).await?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_FIELDS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let connection = Connection(tokio::spawn(async move {
        // Its error is the body's, or the request's.
        let _ = connection.await;
    }));
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = path.parse().map_err(|_| FetchError::Url(uri.to_string()))?;
    *request.headers_mut() = headers.clone();
    let host = HeaderValue::from_str(&shown).map_err(|_| FetchError::Url(uri.to_string()))?;
    request.headers_mut().insert(HOST, host);
    let agent = HeaderValue::from_static(AGENT);
    request.headers_mut().insert(USER_AGENT, agent);
    let response = sender.send_request(request).await.map_err(failed)?;
    let (head, body) = response.into_parts();
    Ok(Answer {
        uri: uri.clone(),
        status: head.status,
        headers: head.headers,
        body,
        _connection: connection,
    })
}

/// Ends the connection when it is dropped.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Who is asked.
struct Target {
    host: String,
    port: u16,
    /// As the URL says it.
    shown: String,
    with_tls: bool,
}

impl Target {
    fn of(uri: &Uri) -> Result<Self, FetchError> {
        let url = || FetchError::Url(without_query(uri));
        let with_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(FetchError::Scheme(without_query(uri))),
        };
        let authority = uri.authority().ok_or_else(url)?;
        if authority.as_str().contains('@') {
            return Err(FetchError::UserInfo(authority.host().to_owned()));
        }
        let host = bare(authority.host()).to_owned();
        if host.is_empty() {
            return Err(url());
        }
        Ok(Self {
            host,
            port: authority
                .port_u16()
                .unwrap_or(if with_tls { 443 } else { 80 }),
            shown: authority.as_str().to_owned(),
            with_tls,
        })
    }
}

/// A host without the brackets of an IPv6 address.
pub(crate) fn bare(host: &str) -> &str {
    let inner = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    inner.unwrap_or(host)
}

/// Host, and port if the URL has one.
pub(crate) fn host_port(uri: &Uri) -> String {
    uri.authority().map(ToString::to_string).unwrap_or_default()
}

/// What may be logged: queries of storage hold signatures.
pub(crate) fn without_query(uri: &Uri) -> String {
    format!(
        "{}://{}{}",
        uri.scheme_str().unwrap_or_default(),
        host_port(uri),
        uri.path()
    )
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(options: &Options, target: &Target) -> Result<Box<dyn Stream>, FetchError> {
    let stream = dial(options, target).await?;
    if !target.with_tls {
        return Ok(Box::new(stream));
    }
    let host = target.shown.clone();
    let config = config(options.is_insecure(&target.shown))?;
    let name = ServerName::try_from(target.host.clone())
        .map_err(|_| FetchError::Url(format!("https://{host}")))?;
    // The state of a handshake is large, and soon over.
    let handshake = Box::pin(TlsConnector::from(Arc::new(config)).connect(name, stream));
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let ended = timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(late);
    match ended.and_then(|ended| ended) {
        Ok(stream) => Ok(Box::new(stream)),
        Err(source) => Err(FetchError::Tls { host, source }),
    }
}

/// Connects to the first address that answers, of those that may be asked. The address that was judged is
/// the one that is dialed: a name that means something else a moment later gains nothing.
async fn dial(options: &Options, target: &Target) -> Result<TcpStream, FetchError> {
    let host = || target.shown.clone();
    let found = lookup_host((target.host.as_str(), target.port)).await;
    let addresses = found.map_err(|source| FetchError::Resolve {
        host: host(),
        source,
    })?;
    let mut failure = None;
    for address in addresses {
        if let Some(reason) = guard::refusal(address.ip(), &options.blocked) {
            failure.get_or_insert(FetchError::Blocked {
                host: host(),
                address: address.ip(),
                reason,
            });
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(source) => {
                failure = Some(FetchError::Connect {
                    host: host(),
                    source,
                });
            }
        }
    }
    Err(failure.unwrap_or_else(|| FetchError::Resolve {
        host: host(),
        source: io::Error::other("no address"),
    }))
}

/// The insecure takes any certificate: of a host in `WASM_INSECURE_REGISTRIES`. The system's roots are read for
/// each connection: modules are rarely fetched, and the roots are large.
fn config(insecure: bool) -> Result<ClientConfig, NoSystemRoots> {
    let mut config = match insecure {
        true => ithildin_web_tls::trusting_anybody(),
        false => ithildin_web_tls::trusting_the_system()?,
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Whether the host is on this machine, or at a private address that the URL spells out.
pub(crate) fn is_near(host: &str) -> bool {
    if host == "localhost" {
        return true;
    }
    match bare(host).parse::<IpAddr>().map(|it| it.to_canonical()) {
        Ok(IpAddr::V4(it)) => it.is_loopback() || it.is_private(),
        Ok(IpAddr::V6(it)) => it.is_loopback() || it.is_unique_local(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_relative_to_where_they_come_from() {
        let base: Uri = "https://a.test:8443/x/y?z=1".parse().unwrap();
        for (reference, expected) in [
            ("https://b.test/m", "https://b.test/m"),
            ("//b.test/m", "https://b.test/m"),
            ("/m?q", "https://a.test:8443/m?q"),
            ("m", "https://a.test:8443/x/m"),
            ("?q", "https://a.test:8443/x/y?q"),
            ("/m#part", "https://a.test:8443/m"),
        ] {
            let joined = join(&base, reference).map(|uri| uri.to_string());
            assert_eq!(joined.as_deref(), Some(expected), "{reference}");
        }
        for reference in ["", "#", "http://", "/a b"] {
            assert_eq!(join(&base, reference), None, "{reference:?}");
        }
    }
}
