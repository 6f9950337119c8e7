//! The workload: plain HTTP/1.1 to its own proxy, over a connection that it keeps.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};

/// No answer on loopback takes longer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A connection.
pub(super) struct Client {
    sender: SendRequest<Empty<Bytes>>,
    /// Drives it; its result says why it broke.
    connection: JoinHandle<hyper::Result<()>>,
    host: String,
}

impl Client {
    /// Connects to `address`; requests name `host`.
    pub(super) async fn connect(address: SocketAddr, host: &str) -> anyhow::Result<Self> {
        let stream = timeout(TIMEOUT, TcpStream::connect(address)).await;
        let stream = stream?.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Self::over(stream, host).await
    }

    /// Speaks HTTP over a connection that is there.
    pub(super) async fn over<S>(stream: S, host: &str) -> anyhow::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        Ok(Self {
            sender,
            connection: tokio::spawn(connection),
            host: host.to_owned(),
        })
    }

    /// One request, with the whole body of its response.
    pub(super) async fn get(&mut self, path: &str) -> anyhow::Result<Response<Bytes>> {
        let request = Request::get(path)
            .header(header::HOST, &self.host)
            .body(Empty::new())?;
        let exchange = async {
            self.sender.ready().await?;
            let (head, body) = self.sender.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(Response::from_parts(head, body))
        };
        match timeout(TIMEOUT, exchange).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.cause().await.unwrap_or(error)),
            Err(_) => bail!("no answer within {TIMEOUT:?}"),
        }
    }

    /// Why the connection broke, such as a TLS alert; the request itself only knows that it did.
    async fn cause(&mut self) -> Option<anyhow::Error> {
        match timeout(TIMEOUT, &mut self.connection).await {
            Ok(Ok(Err(error))) => Some(error.into()),
            _ => None,
        }
    }

    /// Whether the peer has closed the connection.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
