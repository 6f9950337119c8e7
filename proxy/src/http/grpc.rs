//! Unary calls of gRPC, for filters that ask services.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
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
    let mut body = BytesMut::with_capacity(PREFIX + question.encoded_len());
    body.put_u8(0);
    let length = u32::try_from(question.encoded_len()).map_err(|_| GrpcError::Malformed)?;
    body.put_u32(length);
    // A buffer that grows takes any message.
    let _ = question.encode(&mut body);
    let (request, body) = (request(&method), body.freeze());
    let answer = ask(worker, method.cluster, method.timeout, &request, &body).await;
    message(answer.map_err(|error| GrpcError::Ask(error.to_string()))?)
}

fn request(method: &Method<'_>) -> Request {
    let mut headers = Headers::default();
    headers.push(Known::Te, "te", "trailers");
    headers.push(Known::ContentType, "content-type", "application/grpc");
    if let Some(timeout) = method.timeout {
        let timeout = format!("{}m", timeout.as_millis());
        headers.push(Known::Other, "grpc-timeout", timeout);
    }
    Request {
        method: Bytes::from_static(b"POST"),
        scheme: Some("http"),
        authority: method.authority.clone(),
        path: Bytes::from_static(method.path.as_bytes()),
        headers,
        body: BodyLength::Unknown,
        upgrade: None,
        protocol: Protocol::Http2,
        metadata: None,
    }
}

fn message<A: Message + Default>(answer: Answer) -> Result<A, GrpcError> {
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
        Some(status) if &status[..] == b"0" => {}
        Some(status) => {
            let status = String::from_utf8_lossy(status).into_owned();
            return Err(GrpcError::Status(status));
        }
        None => return Err(GrpcError::Malformed),
    }
    let Some((prefix, message)) = answer.body.split_first_chunk::<PREFIX>() else {
        return Err(GrpcError::Malformed);
    };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 || u32::from_be_bytes(length) as usize != message.len() {
        return Err(GrpcError::Malformed);
    }
    Ok(A::decode(message)?)
}
