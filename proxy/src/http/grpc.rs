//! Unary calls of gRPC: for filters that ask services, and for collectors.

use std::time::Duration;

use bytes::Bytes;
use ithildin_http1::Known;
use prost::Message;

use super::{
    ask::ask,
    call::Answer,
    headers::Headers,
    request::{BodyLength, Protocol, Request, is_grpc},
};
use crate::worker::Worker;

/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Why a call brought no message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrpcError {
    #[error("{0}")]
    Ask(String),
    #[error("HTTP status {0}")]
    Http(u16),
    #[error("gRPC status {0}")]
    Status(String),
    #[error("the message is longer than 4 GiB")]
    TooLong,
    #[error("the answer is not one message of gRPC")]
    Malformed,
    #[error(transparent)]
    Decode(#[from] prost::DecodeError),
}

/// A method of a service, and where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Method<'m> {
    /// `/package.Service/Method`.
    pub(crate) path: &'static str,
    pub(crate) cluster: &'m str,
    pub(crate) authority: &'m Bytes,
    /// `None`: as long as it takes.
    pub(crate) timeout: Option<Duration>,
}

/// Calls it.
pub(crate) async fn unary<A: Message + Default>(
    worker: &Worker,
    method: Method<'_>,
    question: &impl Message,
) -> Result<A, GrpcError> {
    let body = framed(|body| {
        body.reserve(question.encoded_len());
        // A buffer that grows takes any message.
        let _ = question.encode(body);
    })?;
    let request = request(&method);
    let answer = ask(worker, method.cluster, method.timeout, &request, &body).await;
    message(answer.map_err(|error| GrpcError::Ask(error.to_string()))?)
}

/// The body of a request with the one message that `write` appends.
pub(super) fn framed(write: impl FnOnce(&mut Vec<u8>)) -> Result<Bytes, GrpcError> {
    let mut body = vec![0; PREFIX];
    write(&mut body);
    let length = u32::try_from(body.len() - PREFIX).map_err(|_| GrpcError::TooLong)?;
    body[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    Ok(body.into())
}

fn request(method: &Method<'_>) -> Request {
    Request {
        method: Bytes::from_static(b"POST"),
        scheme: Some("http"),
        authority: method.authority.clone(),
        path: Bytes::from_static(method.path.as_bytes()),
        headers: headers(method.timeout),
        body: BodyLength::Unknown,
        upgrade: None,
        protocol: Protocol::Http2,
        metadata: None,
    }
}

/// Of a call, which ends by itself after `timeout`.
pub(super) fn headers(timeout: Option<Duration>) -> Headers {
    let mut headers = Headers::default();
    headers.push(Known::Te, "te", "trailers");
    headers.push(Known::ContentType, "content-type", "application/grpc");
    if let Some(timeout) = timeout {
        let timeout = format!("{}m", timeout.as_millis());
        headers.push(Known::Other, "grpc-timeout", timeout);
    }
    headers
}

fn message<A: Message + Default>(answer: Answer) -> Result<A, GrpcError> {
    succeeded(&answer)?;
    let Some((prefix, message)) = answer.body.split_first_chunk::<PREFIX>() else {
        return Err(GrpcError::Malformed);
    };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 || u32::from_be_bytes(length) as usize != message.len() {
        return Err(GrpcError::Malformed);
    }
    Ok(A::decode(message)?)
}

/// Whether the call did what it was for, with a message or without.
pub(super) fn succeeded(answer: &Answer) -> Result<(), GrpcError> {
    if answer.status != 200 {
        return Err(GrpcError::Http(answer.status));
    }
    let kind = answer.headers.known(Known::ContentType);
    if !kind.is_some_and(|it| is_grpc(it)) {
        return Err(GrpcError::Malformed);
    }
    // One without a message has its status where others have their headers.
    let status = answer.trailers.get("grpc-status");
    match status.or_else(|| answer.headers.get("grpc-status")) {
        Some(status) if &status[..] == b"0" => Ok(()),
        Some(status) => {
            let status = String::from_utf8_lossy(status).into_owned();
            Err(GrpcError::Status(status))
        }
        None => Err(GrpcError::Malformed),
    }
}
