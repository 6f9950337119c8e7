//! Connections through another proxy: a TCP session inside of CONNECT, or of POST
//! (RFC 9110, section 9.3.6; `tcp_proxy.tunneling_config`).

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use ithildin_http1::{
    Framing, Limits, Progress, ResponseHead, encode, is_authority, parse_response,
};
use tokio::io::AsyncWriteExt;

use super::{FailureKind, Home, Http1Lease, Http2Lease, HttpLease, TcpLease, UpstreamFailure};
use crate::{
    config::Cluster,
    io::{Origin, Stream, Tunnel},
};

/// Interim responses taken for one request; more are a mistake or an attack.
const MAX_INTERIM: usize = 16;

/// What a proxy is asked for.
#[derive(Debug)]
pub struct TunnelRequest {
    /// Host and port that the tunnel leads to.
    pub authority: Bytes,
    /// Of a POST in place of CONNECT.
    pub post: Option<Bytes>,
    pub headers: HeaderMap,
}

/// Asks for a tunnel on a connection to the proxy; what comes back carries the session's bytes.
pub(super) async fn open(
    home: &Home,
    cluster: &Arc<Cluster>,
    lease: HttpLease,
    request: &TunnelRequest,
) -> Result<TcpLease, UpstreamFailure> {
    let endpoint = Arc::clone(lease.endpoint());
    let opened = match lease {
        // It may be made of what a client said.
        _ if !is_authority(&request.authority) => Err(Refusal::Authority),
        HttpLease::Http1(lease) => over_http1(home, cluster, lease, request).await,
        HttpLease::Http2(lease) => over_http2(home, cluster, lease, request).await,
    };
    opened.map_err(|refusal| {
        tracing::debug!(cluster = %cluster.name, endpoint = %endpoint.address, %refusal, "no tunnel");
        let reason = match refusal {
            Refusal::Status(status) => Some(format!("tunnel_response:{status}")),
            _ => None,
        };
        UpstreamFailure::new(FailureKind::RemoteConnectionFailure, &endpoint, reason)
    })
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Http1(#[from] ithildin_http1::ParseError),
    #[error(transparent)]
    Http2(#[from] h2::Error),
    #[error(transparent)]
    Http(#[from] http::Error),
    #[error("the hostname is not a host and port")]
    Authority,
    #[error("the proxy closed the connection")]
    Closed,
    #[error("the proxy answered with {0}")]
    Status(u16),
}

async fn over_http1(
    home: &Home,
    cluster: &Arc<Cluster>,
    mut lease: Http1Lease,
    request: &TunnelRequest,
) -> Result<TcpLease, Refusal> {
    lease.stream.write_all(&http1_head(request)).await?;
    lease.stream.flush().await?;
    let mut ahead = std::mem::take(&mut lease.leftover);
    let head = response_head(&mut lease.stream, &mut ahead, request).await?;
    // Any 2xx is a tunnel where CONNECT asked for it (RFC 9110, section 9.3.6), as with Envoy.
    let opens = match request.post {
        None => (200..300).contains(&head.status),
        Some(_) => head.status == 200,
    };
    if !opens {
        return Err(Refusal::Status(head.status));
    }
    Ok(TcpLease::over_http1(lease, cluster, |stream| {
        if request.post.is_none() {
            return (stream, ahead);
        }
        let tunnel = Tunnel::http1(stream, head.framing, ahead);
        let registration = home
            .registry
            .register(Origin::Upstream(Arc::clone(cluster)));
        (Stream::tunnel(tunnel, registration), BytesMut::new())
    }))
}

fn http1_head(request: &TunnelRequest) -> BytesMut {
    let mut head = BytesMut::with_capacity(256);
    match &request.post {
        None => encode::request_line(&mut head, b"CONNECT", &request.authority),
        Some(path) => encode::request_line(&mut head, b"POST", path),
    }
    encode::field(&mut head, b"host", &request.authority);
    for (name, value) in &request.headers {
        encode::field(&mut head, name.as_str().as_bytes(), value.as_bytes());
    }
    if request.post.is_some() {
        encode::framing(&mut head, Framing::Chunked);
    }
    encode::end_of_head(&mut head);
    head
}

async fn response_head(
    stream: &mut Stream,
    ahead: &mut BytesMut,
    request: &TunnelRequest,
) -> Result<ResponseHead, Refusal> {
    let method = match request.post {
        None => &b"CONNECT"[..],
        Some(_) => b"POST",
    };
    let mut interims = 0;
    let mut progress = Progress::default();
    loop {
        match parse_response(ahead, Limits::default(), method, &mut progress)? {
            Some(head) if head.is_interim() && interims < MAX_INTERIM => interims += 1,
            Some(head) => return Ok(head),
            None => {
                stream.readable().await?;
                ahead.reserve(READ);
                if stream.read(ahead).await? == 0 {
                    return Err(Refusal::Closed);
                }
            }
        }
    }
}

/// One read of a response head, in bytes.
const READ: usize = 4096;

async fn over_http2(
    home: &Home,
    cluster: &Arc<Cluster>,
    mut lease: Http2Lease,
    request: &TunnelRequest,
) -> Result<TcpLease, Refusal> {
    let (response, send) = lease.send.send_request(http2_head(request)?, false)?;
    let response = response.await?;
    if response.status() != StatusCode::OK {
        return Err(Refusal::Status(response.status().as_u16()));
    }
    let tunnel = Tunnel::http2(send, response.into_body());
    let registration = home
        .registry
        .register(Origin::Upstream(Arc::clone(cluster)));
    let stream = Stream::tunnel(tunnel, registration);
    Ok(TcpLease::over_http2(stream, cluster, lease.permit))
}

fn http2_head(request: &TunnelRequest) -> Result<http::Request<()>, http::Error> {
    let mut uri = Uri::builder().authority(&request.authority[..]);
    if let Some(path) = &request.post {
        uri = uri.scheme("http").path_and_query(&path[..]);
    }
    let mut head = http::Request::new(());
    *head.uri_mut() = uri.build()?;
    *head.method_mut() = match request.post {
        None => Method::CONNECT,
        Some(_) => Method::POST,
    };
    *head.version_mut() = Version::HTTP_2;
    head.headers_mut().clone_from(&request.headers);
    Ok(head)
}
