//! A service like httpbin, as far as the walk-throughs use it: `/status/N`, `/delay/N`, `/headers`.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, time::sleep};

/// The longest delay, as httpbin's.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// Serves until the task is dropped.
pub(super) async fn serve(listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: it passes.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            // A proxy may close whenever it likes.
            let _ = connection.await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    let response = match path.split('/').collect::<Vec<_>>()[..] {
        ["", "status", code] => match code.parse().map(StatusCode::from_u16) {
            Ok(Ok(status)) => respond(status, Bytes::new()),
            _ => respond(
                StatusCode::BAD_REQUEST,
                Bytes::from_static(b"Invalid status code"),
            ),
        },
        ["", "delay", seconds] => {
            let delay = seconds
                .parse()
                .ok()
                .and_then(|s| Duration::try_from_secs_f64(s).ok());
            sleep(delay.unwrap_or_default().min(MAX_DELAY)).await;
            respond(StatusCode::OK, headers(request.headers()))
        }
        ["", "headers"] => respond(StatusCode::OK, headers(request.headers())),
        _ => respond(StatusCode::NOT_FOUND, Bytes::new()),
    };
    Ok(response)
}

fn respond(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let json = !body.is_empty();
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let kind = if json {
        "application/json"
    } else {
        "text/html; charset=utf-8"
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    let any = http::HeaderValue::from_static("*");
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
    response
}

/// The request's headers, several of one name joined by commas.
fn headers(headers: &HeaderMap) -> Bytes {
    let mut all = Map::new();
    for name in headers.keys() {
        let values = headers.get_all(name).iter();
        let values: Vec<_> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        all.insert(name.to_string(), Value::from(values.join(",")));
    }
    Bytes::from(json!({ "headers": all }).to_string())
}
