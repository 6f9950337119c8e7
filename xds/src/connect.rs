//! Where a discovery server is, and the one HTTP/2 connection to it.

use std::{fmt, io, path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use ithildin_spiffe::Backoff;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection without traffic is asked for a sign of life after this time.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The first pause after a lost stream: short, since a socket usually appears or returns at once.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause: how late a server that comes back is noticed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The endpoint of a cluster that serves discovery.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    /// A Unix socket (`pipe`); it need not exist yet.
    Pipe(PathBuf),
    /// A host name or address, and a port.
    Tcp { host: String, port: u16 },
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pipe(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// The pauses between streams.
pub(crate) const fn backoff() -> Backoff {
    Backoff::new(FIRST_PAUSE, LONGEST_PAUSE)
}

/// A channel that connects when it is used, and again after a loss. Must be called inside a runtime.
pub(crate) fn channel(address: &ServerAddress) -> Channel {
    let address = address.clone();
    let connector = service_fn(move |_: Uri| {
        let address = address.clone();
        async move { connect(&address).await }
    });
    Endpoint::from_static("http://xds.local")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

/// The innermost cause of a failure: tonic hides why it could not connect.
pub(crate) fn reason(status: &Status) -> String {
    let mut cause = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

async fn connect(address: &ServerAddress) -> io::Result<TokioIo<Box<dyn Connection>>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
    let connection: Box<dyn Connection> = match address {
        ServerAddress::Pipe(path) => Box::new(UnixStream::connect(path).await.map_err(named)?),
        ServerAddress::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port))
                .await
                .map_err(named)?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
    };
    Ok(TokioIo::new(connection))
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl Connection for UnixStream {}

impl Connection for TcpStream {}
