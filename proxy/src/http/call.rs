//! Requests of our own to a cluster: whole, over the pools that all requests share. Copies of requests
//! (`mirror`) and questions that filters ask go this way.
//!
//! Invariant: of an answer no more is kept than the caller said.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use ithildin_http1::{Known, Limits, Progress, parse_response};

use super::{
    body::{BodyError, Part, Source},
    headers::Headers,
    over_http1, over_http2,
    request::{BodyLength, Protocol, Request},
    wire::Wire,
};
use crate::{
    config::{Cluster, cluster::Endpoint, http::HeaderFormat},
    upstream::{Http1Lease, Http2Lease, HttpLease, LbRequest, UpstreamFailure},
    worker::{Share, Worker},
};

/// Interim answers taken for one request; more are a mistake or an attack.
const MAX_INTERIM: usize = 16;

/// What becomes of an answer's body.
#[derive(Debug)]
pub(super) enum Keep<'s> {
    Nothing,
    /// So many bytes, as far as the share grows; a longer body is an error.
    UpTo(usize, &'s mut Share),
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Headers,
    pub(super) body: Bytes,
    pub(super) trailers: Headers,
    /// Who answered, and in which protocol; `None`: it is our own.
    pub(super) from: Option<(Arc<Endpoint>, Protocol)>,
}

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Unavailable(#[from] UpstreamFailure),
    #[error("the request cannot be sent")]
    Request,
    #[error("gRPC needs a cluster that speaks HTTP/2")]
    NotHttp2,
    #[error(transparent)]
    Broken(#[from] BodyError),
    /// `true`: a pooled connection that was closed already, so that the request had no effect.
    #[error("the connection ended before there was an answer")]
    Closed(bool),
    #[error("more than {MAX_INTERIM} interim answers")]
    Interim,
    #[error("the answer changes the protocol, which was not asked for")]
    Switching,
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    #[error("the answers that are awaited fill their memory")]
    NoRoom,
}

/// Sends `request` with `body`, whose length it says, and waits for the whole answer: once more if the
/// pooled connection had been closed.
pub(super) async fn call(
    worker: &Worker,
    cluster: &Arc<Cluster>,
    request: &Request,
    body: &Bytes,
    mut keep: Keep<'_>,
) -> Result<Answer, CallError> {
    match once(worker, cluster, request, body.clone(), &mut keep).await {
        Err(CallError::Closed(true)) => {
            once(worker, cluster, request, body.clone(), &mut keep).await
        }
        other => other,
    }
}

async fn once(
    worker: &Worker,
    cluster: &Arc<Cluster>,
    request: &Request,
    body: Bytes,
    keep: &mut Keep<'_>,
) -> Result<Answer, CallError> {
    let choice = LbRequest {
        downstream: request.protocol.downstream(),
        ..LbRequest::default()
    };
    let answer = match worker.upstreams.http(cluster, &choice).await? {
        HttpLease::Http1(lease) => over_one(worker, lease, request, body, keep).await,
        HttpLease::Http2(lease) => over_two(lease, request, body, keep).await,
    }?;
    let stats = cluster.stats.worker(worker.index);
    stats.codes.used().count(answer.status);
    stats.internal.used().count(answer.status);
    Ok(answer)
}

async fn over_one(
    worker: &Worker,
    mut lease: Http1Lease,
    request: &Request,
    body: Bytes,
    keep: &mut Keep<'_>,
) -> Result<Answer, CallError> {
    // Of a call of gRPC.
    if request.body == BodyLength::Unknown {
        lease.give_back();
        return Err(CallError::NotHttp2);
    }
    let (reused, format) = (lease.reused, lease.header_format());
    let endpoint = Arc::clone(lease.endpoint());
    let read_ahead = std::mem::take(&mut lease.leftover);
    let wire = Wire::new(&mut lease.stream, read_ahead, &worker.buffers);
    let head = over_http1::request_head(request, request.body.framing(), format);
    let written = wire.write(&mut [head, body]).await;
    written.map_err(|_| CallError::Closed(reused))?;
    let mut interims = 0;
    let mut progress = Progress::default();
    let head = loop {
        let method = &request.method;
        let parsed =
            wire.with_buffer(|it| parse_response(it, Limits::default(), method, &mut progress));
        match parsed.map_err(|error| BodyError::Wire(error.into()))? {
            Some(head) if head.is_interim() => {
                interims += 1;
                if interims > MAX_INTERIM {
                    return Err(CallError::Interim);
                }
            }
            Some(head) if head.status == 101 => return Err(CallError::Switching),
            Some(head) => break head,
            None => {
                let untouched = !wire.has_read_ahead() && interims == 0;
                if !matches!(wire.fill().await, Ok(1..)) {
                    return Err(CallError::Closed(reused && untouched));
                }
            }
        }
    };
    let source = Source::wire(&wire, head.framing, true);
    let (body, trailers) = read(source, keep).await?;
    wire.release_buffer();
    lease.leftover = wire.into_read_ahead();
    if head.keep_alive {
        lease.give_back();
    }
    // How names were written is for those who pass an answer on.
    let mut headers = Headers::from_http1(&head.fields, HeaderFormat::Lower);
    // A request has one already, and an answer none over HTTP/2 either.
    headers.remove_known(Known::Host);
    Ok(Answer {
        status: head.status,
        headers,
        body,
        trailers,
        from: Some((endpoint, Protocol::Http11)),
    })
}

async fn over_two(
    mut lease: Http2Lease,
    request: &Request,
    body: Bytes,
    keep: &mut Keep<'_>,
) -> Result<Answer, CallError> {
    let broken = |error: h2::Error| CallError::Broken(error.into());
    let head = over_http2::request_head(request, false).map_err(|_| CallError::Request)?;
    let sent = lease.send.send_request(head, body.is_empty());
    let (response, mut stream) = sent.map_err(broken)?;
    if !body.is_empty() {
        stream.send_data(body, true).map_err(broken)?;
    }
    let (head, stream) = response.await.map_err(broken)?.into_parts();
    let (body, trailers) = read(Source::http2(stream), keep).await?;
    Ok(Answer {
        status: head.status.as_u16(),
        headers: Headers::from_map(head.headers),
        body,
        trailers,
        from: Some((Arc::clone(lease.permit.endpoint()), Protocol::Http2)),
    })
}

async fn read(
    mut source: Source<'_, '_>,
    keep: &mut Keep<'_>,
) -> Result<(Bytes, Headers), CallError> {
    let mut body = BytesMut::new();
    loop {
        let data = match source.next().await? {
            Part::End(trailers) => return Ok((body.freeze(), trailers)),
            Part::Data(data) => data,
        };
        let Keep::UpTo(limit, share) = keep else {
            continue;
        };
        if body.len() + data.len() > *limit {
            return Err(CallError::TooLong(*limit));
        }
        if !share.grow(data.len()) {
            return Err(CallError::NoRoom);
        }
        body.put(data);
    }
}
