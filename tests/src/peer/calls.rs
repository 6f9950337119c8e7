//! What a service asks of others before it answers, as Bookinfo's front page does.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Request, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// What an application passes on, so that the hops of a request can be told to belong together.
const PASSED_ON: [&str; 3] = ["x-request-id", "end-user", "traceparent"];
const LIMIT: Duration = Duration::from_secs(10);

/// The answers in order: `url`, `status` and `body` (parsed if it is JSON), or `url` and `error`.
pub(super) async fn all(urls: &[Uri], incoming: &HeaderMap) -> Value {
    let mut answers = Vec::new();
    for url in urls {
        let answer = tokio::time::timeout(LIMIT, call(url, incoming)).await;
        let answer = answer.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in {LIMIT:?}")));
        answers.push(match answer {
            Ok((status, body)) => json!({"url": url.to_string(), "status": status, "body": body}),
            Err(error) => json!({"url": url.to_string(), "error": format!("{error:#}")}),
        });
    }
    answers.into()
}

async fn call(url: &Uri, incoming: &HeaderMap) -> anyhow::Result<(u16, Value)> {
    let authority = url.authority().context("the URL has no host")?;
    let port = authority.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((authority.host(), port)).await?;
    let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::get(path).header(header::HOST, authority.as_str());
    for name in PASSED_ON {
        if let Some(value) = incoming.get(name) {
            request = request.header(name, value);
        }
    }
    let response = client.send_request(request.body(Empty::<Bytes>::new())?);
    let response = response.await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    let body = serde_json::from_slice(&body)
        .unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into());
    Ok((status, body))
}
