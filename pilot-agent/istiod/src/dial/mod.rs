//! The way to istiod: an address, how its certificate is judged, and what we show of ourselves.
//!
//! Discovery and the CA dial by the same rules; only the files of the roots differ. Files are read anew for each connection and tokens for each call, so that a rotation needs no
//! restart. Over plaintext the token stays on this host: elsewhere, whoever listens could use it.
//!
//! Source: Istio's `pkg/istio-agent/{agent,xds_proxy}.go` and `pkg/grpc`.

mod address;
mod call;
mod roots;
mod svid;
#[cfg(test)]
mod tests;
mod tls;

use std::{fmt, io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tonic::{
    Request,
    transport::{Channel, Uri},
};
use tower::service_fn;

pub use address::{Address, AddressError, PLAINTEXT_PORT};
pub use call::{CallError, CallHeaders, TOKEN_FILE};
pub use roots::{ClientFiles, RootError, Roots};
pub use svid::{Svid, SvidError};
pub use tls::{ClientCertificate, ServerNameError, Tls, server_name};

/// How long one attempt to connect may take, handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Istio's `GRPC_KEEPALIVE_INTERVAL`: a connection without traffic is asked for a sign of life.
pub const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(30);
/// Istio's `GRPC_KEEPALIVE_TIMEOUT`: how long the sign may take.
pub const DEFAULT_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/2 window of a stream and of the connection, as with Istio's agent: the clusters of a large
/// mesh come in few round trips.
const WINDOW_BYTES: u32 = 1 << 20;

/// How to reach istiod. A clone reaches the same.
#[derive(Clone, Debug)]
pub struct Endpoint {
    inner: Arc<Options>,
}

/// What an [`Endpoint`] is made of.
#[derive(Debug)]
pub struct Options {
    pub address: Address,
    pub transport: Transport,
    pub headers: CallHeaders,
    pub keepalive: Duration,
    pub keepalive_timeout: Duration,
}

/// How bytes travel.
#[derive(Debug)]
pub enum Transport {
    /// `controlPlaneAuthPolicy: NONE`, or a CA at port 15010.
    Plaintext,
    Tls(Tls),
}

impl Endpoint {
    pub fn new(options: Options) -> Self {
        Self {
            inner: Arc::new(options),
        }
    }

    /// A channel that connects when it is used, and again after a loss. Must be called inside a
    /// tokio runtime. Why it cannot connect is the innermost cause of a call's status.
    pub fn channel(&self) -> Channel {
        let endpoint = self.clone();
        let connector = service_fn(move |_: Uri| {
            let endpoint = endpoint.clone();
            async move { endpoint.connect().await.map(TokioIo::new) }
        });
        tonic::transport::Endpoint::from_static("http://istiod")
            .origin(self.origin())
            .http2_keep_alive_interval(self.inner.keepalive)
            .keep_alive_timeout(self.inner.keepalive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .connect_with_connector_lazy(connector)
    }

    /// A call with our metadata. The token is read now.
    ///
    /// # Errors
    /// When there is a token that cannot be read or sent.
    pub fn request<T>(&self, message: T) -> Result<Request<T>, CallError> {
        let mut request = Request::new(message);
        let with_token = match self.inner.transport {
            Transport::Tls(_) => true,
            Transport::Plaintext => self.inner.address.is_loopback(),
        };
        self.inner
            .headers
            .apply(request.metadata_mut(), with_token)?;
        Ok(request)
    }

    /// Connects, and hangs up again: istiod is there, and it is istiod.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn reach(&self) -> io::Result<()> {
        self.connect().await.map(drop)
    }

    pub fn address(&self) -> &Address {
        &self.inner.address
    }

    fn origin(&self) -> Uri {
        let scheme = match self.inner.transport {
            Transport::Plaintext => "http",
            Transport::Tls(_) => "https",
        };
        format!("{scheme}://{}", self.inner.address)
            .parse()
            .unwrap_or_else(|_| Uri::from_static("http://istiod"))
    }

    async fn connect(&self) -> io::Result<Box<dyn Connection>> {
        match timeout(CONNECT_TIMEOUT, self.dial()).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no connection within {CONNECT_TIMEOUT:?}"),
            )),
        }
    }

    async fn dial(&self) -> io::Result<Box<dyn Connection>> {
        let Address { host, port } = &self.inner.address;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.inner.transport {
            Transport::Plaintext => Box::new(stream),
            Transport::Tls(tls) => Box::new(tls.handshake(stream).await?),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.address.fmt(f)
    }
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}
