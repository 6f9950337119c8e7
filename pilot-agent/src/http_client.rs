//! One HTTP request to a server on this host: the data plane's admin.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use ithildin_status::{Connector, Source};
use tokio::time::timeout;

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
    let url = format!("http://{addr}{path}");
    let Ok(answered) = timeout(TIMEOUT, Box::pin(exchange(method, &url))).await else {
        bail!("{url}: no answer within {TIMEOUT:?}");
    };
    answered.with_context(|| url)
}

async fn exchange(method: Method, url: &str) -> anyhow::Result<Bytes> {
    let connector = Connector::plain(Source::Any);
    let response = connector
        .send(method, url, &HeaderMap::new(), Bytes::new())
        .await?;
    if response.status() != StatusCode::OK {
        bail!("status {}", response.status().as_u16());
    }
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
    Ok(body.map_err(|error| anyhow::anyhow!(error))?.to_bytes())
}
