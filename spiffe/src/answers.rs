//! What servers answer to gRPC calls, without what tonic panics on.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use tonic::{
    body::Body,
    transport::{Channel, Error},
};
use tower::Service;

/// Of use to nobody here, and tonic's client panics on one that is no base64.
const STATUS_DETAILS: &str = "grpc-status-details-bin";

/// A channel whose answers come without the details of a status, in headers and in trailers.
#[derive(Clone, Debug)]
pub struct Answers(Channel);

impl Answers {
    /// What answers on this channel.
    pub fn of(channel: Channel) -> Self {
        Self(channel)
    }
}

impl Service<Request<Body>> for Answers {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answered = self.0.call(request);
        Box::pin(async move {
            let mut response = answered.await?;
            strip(response.headers_mut());
            Ok(response.map(|body| {
                Body::new(body.map_frame(|mut frame| {
                    frame.trailers_mut().into_iter().for_each(strip);
                    frame
                }))
            }))
        })
    }
}

fn strip(headers: &mut HeaderMap) {
    headers.remove(STATUS_DETAILS);
}
