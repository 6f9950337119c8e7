//! The gRPC call of an aggregated stream, as a client.
//!
//! tonic makes the connection and the request. The response is read here: tonic's own reader keeps a buffer
//! as large as the largest message for as long as the stream lives, which is all that a mesh sends at the
//! start.
//!
//! Source: gRPC over HTTP/2 (`PROTOCOL-HTTP2.md`) and "HTTP to gRPC Status Code Mapping".

mod frames;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;

use futures_util::StreamExt;
use http::{
    HeaderValue, Method, StatusCode, Uri, Version,
    header::{CONTENT_TYPE, TE},
};
use http_body_util::BodyExt;
use ithildin_spiffe::Answers;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status,
    body::Body,
    codec::{Codec, EncodeBody},
    transport::Channel,
};
use tonic_prost::ProstCodec;
use tower::ServiceExt;

use super::{MAX_MESSAGE, follow::Prepare};
use crate::subscription::{Client, DeltaClient, SotwClient};
use frames::Frames;

/// A protocol, and its method of `envoy.service.discovery.v3.AggregatedDiscoveryService`.
pub(super) trait Aggregated:
    Client<Request: Message, Response: Message + Default> + Sized
{
    const METHOD: &str;
}

impl Aggregated for SotwClient {
    const METHOD: &str =
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
}

impl Aggregated for DeltaClient {
    const METHOD: &str =
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
}

/// The messages of a response.
pub(super) struct Messages<T> {
    body: Body,
    frames: Frames,
    kind: PhantomData<fn() -> T>,
}

/// Opens a stream of either protocol.
///
/// # Errors
/// When `prepare` refuses the call, when there is no connection, and when the server refuses the stream.
pub(super) async fn open<M: Aggregated>(
    prepare: &Prepare,
    channel: Channel,
    requests: mpsc::Receiver<M::Request>,
) -> Result<Messages<M::Response>, Status> {
    let mut call = Request::new(());
    prepare(&mut call).map_err(Status::failed_precondition)?;
    let encoder = ProstCodec::<M::Request, M::Response>::default().encoder();
    let requests = ReceiverStream::new(requests).map(Ok);
    let body = EncodeBody::new_client(encoder, requests, None, None);
    let mut request = http::Request::new(Body::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(M::METHOD);
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = call.into_parts().0.into_headers();
    let headers = request.headers_mut();
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let unreached = |error: tonic::transport::Error| Status::from_error(Box::new(error));
    let response = Answers::of(channel).oneshot(request);
    let response = response.await.map_err(unreached)?;
    let (head, body) = response.into_parts();
    // A response without messages has its trailers as headers.
    match Status::from_header_map(&head.headers) {
        Some(status) if status.code() != Code::Ok => return Err(status),
        None if head.status != StatusCode::OK => return Err(no_grpc(head.status)),
        _ => {}
    }
    Ok(Messages {
        body,
        frames: Frames::new(MAX_MESSAGE),
        kind: PhantomData,
    })
}

impl<T: Message + Default> Messages<T> {
    /// The next message; `None` at the end of a stream that the server ended in order. May be dropped and
    /// called again.
    ///
    /// # Errors
    /// When the stream is lost, when the server ends it with an error, and when it sends no messages.
    pub(super) async fn next(&mut self) -> Result<Option<T>, Status> {
        loop {
            if let Some(message) = self.frames.next()? {
                let message = T::decode(message);
                return message
                    .map(Some)
                    .map_err(|error| Status::internal(format!("the message is broken: {error}")));
            }
            let Some(frame) = self.body.frame().await.transpose()? else {
                return self.ended(None);
            };
            match frame.into_data() {
                Ok(data) => self.frames.push(data),
                Err(frame) => {
                    let trailers = frame.into_trailers().ok();
                    return self.ended(trailers.and_then(|it| Status::from_header_map(&it)));
                }
            }
        }
    }

    fn ended(&self, status: Option<Status>) -> Result<Option<T>, Status> {
        match status {
            Some(status) if status.code() != Code::Ok => Err(status),
            _ if self.frames.is_amid() => Err(Status::internal("the stream ended amid a message")),
            _ => Ok(None),
        }
    }
}

fn no_grpc(status: StatusCode) -> Status {
    let code = match status {
        StatusCode::BAD_REQUEST => Code::Internal,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
        _ => Code::Unknown,
    };
    Status::new(code, format!("the answer is no gRPC: HTTP status {status}"))
}
