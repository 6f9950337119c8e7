//! What the service answers.

use std::{collections::HashMap, convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite, copy, split};

use super::{calls, chat};

/// The first page of nginx, as far as anybody looks at it.
const PAGE: &str = "<!DOCTYPE html><html><head><title>Welcome to nginx!</title></head></html>\n";
/// The longest delay, as httpbin's.
const MAX_DELAY: Duration = Duration::from_secs(10);
/// An empty message of gRPC.
const GRPC_MESSAGE: &[u8] = &[0; 5];

type Body = BoxBody<Bytes, Infallible>;

/// What all connections of a service share.
#[derive(Clone, Debug, Default)]
pub(super) struct Service {
    calls: Arc<[Uri]>,
    /// How often each path was asked for.
    asked: Arc<Mutex<HashMap<String, u32>>>,
}

/// One connection, as the service sees it.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    /// Where it came in.
    pub(super) address: Option<IpAddr>,
    /// Who is at the other end, over mTLS.
    pub(super) peer: Option<String>,
}

impl Service {
    /// One that asks all of `calls` before it answers.
    pub(super) fn new(calls: Vec<Uri>) -> Self {
        Self {
            calls: calls.into(),
            ..Self::default()
        }
    }

    pub(super) async fn serve(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        connection: Connection,
    ) {
        let service = service_fn(move |request| {
            let (service, connection) = (self.clone(), connection.clone());
            async move { Ok::<_, Infallible>(service.answer(request, &connection).await) }
        });
        // A proxy may close whenever it likes.
        let _ = auto::Builder::new(TokioExecutor::new())
            .serve_connection_with_upgrades(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(
        &self,
        mut request: Request<Incoming>,
        connection: &Connection,
    ) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let first_times = self.count(&path);
        if request.headers().contains_key(header::UPGRADE) {
            return upgrade(hyper::upgrade::on(&mut request));
        }
        if path.starts_with(chat::SERVICE) {
            let service = self.clone();
            let cancelled = move || _ = service.count("/cancelled");
            return chat::answer(&path, request.into_body(), cancelled);
        }
        let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
        if request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(is_grpc)
        {
            return match status(&path, first_times, connection).await {
                StatusCode::OK => grpc(),
                _ => grpc_unavailable(),
            };
        }
        if path == "/" {
            return response(StatusCode::OK, "text/html", PAGE.to_owned());
        }
        if let Some(text) = path.strip_prefix("/base64/") {
            let text = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            return response(StatusCode::OK, "text/plain", text);
        }
        if let Some(path) = path.strip_prefix("/count") {
            let times = self.asked.lock().get(path).copied().unwrap_or(0);
            return response(StatusCode::OK, "text/plain", times.to_string());
        }
        let status = status(&path, first_times, connection).await;
        let mut body = json!({
            "method": request.method().as_str(),
            "path": path,
            "query": request.uri().query(),
            "version": format!("{:?}", request.version()),
            "headers": headers(request.headers()),
            "peer": connection.peer,
            "address": connection.address,
        });
        if !self.calls.is_empty() {
            body["calls"] = calls::all(&self.calls, request.headers()).await;
        }
        response(status, "application/json", body.to_string())
    }

    /// Counts a request, and says the how manyth it is.
    fn count(&self, path: &str) -> u32 {
        let mut asked = self.asked.lock();
        let times = asked.entry(path.to_owned()).or_default();
        *times += 1;
        *times
    }
}

/// What a path asks for.
async fn status(path: &str, times: u32, connection: &Connection) -> StatusCode {
    let mut words = path.split('/').skip(1);
    let argument = (words.next(), words.next().unwrap_or_default());
    match argument {
        (Some("status"), code) => {
            let code = code
                .parse()
                .ok()
                .and_then(|code| StatusCode::from_u16(code).ok());
            code.unwrap_or(StatusCode::BAD_REQUEST)
        }
        (Some("delay"), seconds) => {
            let delay = Duration::from_secs(seconds.parse().unwrap_or(0));
            tokio::time::sleep(delay.min(MAX_DELAY)).await;
            StatusCode::OK
        }
        (Some("flaky"), failures) if times <= failures.parse().unwrap_or(0) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        (Some("broken"), at) if connection.address.is_some_and(|own| own.to_string() == at) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        _ => StatusCode::OK,
    }
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Full::from(body).boxed());
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A call that ends well, as its trailers say.
fn grpc() -> Response<Body> {
    let trailers = HeaderMap::from_iter([(
        header::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    // As a stream, whose length nobody knows.
    let frames = [
        Frame::data(Bytes::from_static(GRPC_MESSAGE)),
        Frame::trailers(trailers),
    ];
    let body = StreamBody::new(stream::iter(frames.map(Ok)));
    let mut response = Response::new(body.boxed());
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A call that is over at once, and may be made again.
fn grpc_unavailable() -> Response<Body> {
    let mut response = response(StatusCode::OK, "application/grpc", String::new());
    let status = HeaderValue::from_static("14");
    response.headers_mut().insert("grpc-status", status);
    response
}

/// Takes on any protocol, and says back whatever it hears.
fn upgrade(upgraded: OnUpgrade) -> Response<Body> {
    tokio::spawn(async {
        if let Ok(stream) = upgraded.await {
            let (mut read, mut write) = split(TokioIo::new(stream));
            let _ = copy(&mut read, &mut write).await;
        }
    });
    let mut response = response(StatusCode::SWITCHING_PROTOCOLS, "text/plain", String::new());
    for (name, value) in [
        (header::CONNECTION, "upgrade"),
        (header::UPGRADE, "websocket"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

fn headers(headers: &HeaderMap) -> Map<String, Value> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value).into()))
        .collect()
}
