//! One HTTP request to a server on this machine: the data plane's admin, the workload's metrics.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// A local server that takes longer is not well.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest body that is read.
const MAX_BODY: usize = 64 << 20;

/// GET; the body of a 200.
pub(crate) async fn get(addr: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    request(addr, Method::GET, path).await
}

/// POST without a body.
pub(crate) async fn post(addr: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    request(addr, Method::POST, path).await
}

async fn request(addr: SocketAddr, method: Method, path: &str) -> anyhow::Result<Bytes> {
    let url = || format!("http://{addr}{path}");
    let response = timeout(TIMEOUT, exchange(addr, method, path)).await;
    let response = response.with_context(url)?.with_context(url)?;
    if response.status() != StatusCode::OK {
        bail!("{}: status {}", url(), response.status().as_u16());
    }
    Ok(response.into_body())
}

async fn exchange(addr: SocketAddr, method: Method, path: &str) -> anyhow::Result<Response<Bytes>> {
    let stream = TcpStream::connect(addr).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, addr.to_string())
        .body(Empty::<Bytes>::new())?;
    // It ends with the sender, or with the server.
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
    Ok(Response::from_parts(head, body))
}
