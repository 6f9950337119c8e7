//! `pilot-agent request`: one request to the proxy's admin or to the agent on this host.
//!
//! `istioctl proxy-config` reads standard output as the answer, and native sidecars run it before they
//! stop, so nothing but the answer's body is written there.

use std::{io::Write, time::Duration};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use ithildin_status::{Connector, Source};
use tokio::time::timeout;

/// Envoy's admin, what was once a tunnel to istiod's debug pages, the agent, and readiness.
const ALLOWED_PORTS: [u16; 4] = [15000, 15004, 15020, 15021];
/// For the whole answer.
const TIMEOUT: Duration = Duration::from_secs(60);
/// As much of a refusal as is shown.
const MAX_REFUSAL: usize = 64 << 10;

/// Make an HTTP request to the proxy's admin API
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Port of this host: 15000 is the proxy's admin, 15020 the agent's
    #[arg(long = "debug-port", value_name = "PORT", default_value_t = 15000)]
    debug_port: u16,
    /// GET or POST
    method: String,
    /// Path, with or without a slash at its beginning, and a query
    path: String,
    /// Body; further arguments are ignored
    #[arg(allow_hyphen_values = true)]
    body: Vec<String>,
}

/// Writes the answer's body to standard output.
///
/// # Errors
/// A port that is not allowed, no answer, or one that is a failure; 404 is not.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let port = args.debug_port;
    ensure!(
        ALLOWED_PORTS.contains(&port),
        "debug port {port} is not in allowed list {ALLOWED_PORTS:?}"
    );
    let body = args.body.into_iter().next().unwrap_or_default();
    let out = std::io::stdout().lock();
    let done = Box::pin(send(port, &args.method, &args.path, body, out));
    match timeout(TIMEOUT, done).await {
        Ok(done) => done,
        Err(_) => bail!("no whole answer within {TIMEOUT:?}"),
    }
}

async fn send(
    port: u16,
    method: &str,
    path: &str,
    body: String,
    mut out: impl Write,
) -> anyhow::Result<()> {
    let method =
        Method::from_bytes(method.as_bytes()).with_context(|| format!("method {method:?}"))?;
    let path = path.strip_prefix('/').unwrap_or(path);
    let url = format!("http://localhost:{port}/{path}");
    let connector = Connector::plain(Source::Any);
    let headers = HeaderMap::new();
    let response = connector.send(method, &url, &headers, body.into()).await?;
    let status = response.status();
    if (status.is_client_error() || status.is_server_error()) && status != StatusCode::NOT_FOUND {
        let text = refusal(response).await;
        bail!(
            "received unsuccessful status code {}: {text}",
            status.as_u16()
        );
    }
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("the answer breaks off")?.into_data() {
            out.write_all(&data)?;
        }
    }
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

async fn refusal(response: Response<Incoming>) -> String {
    let body = Limited::new(response.into_body(), MAX_REFUSAL)
        .collect()
        .await;
    let bytes = body.map_or_else(|_| Bytes::new(), http_body_util::Collected::to_bytes);
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// What is printed when a server answers so, and what it was sent.
    async fn asked(
        answer: &'static str,
        path: &str,
        body: &str,
    ) -> (anyhow::Result<String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let count = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request[..count].to_vec()).unwrap()
        });
        let mut out = Vec::new();
        let done = send(port, "POST", path, body.to_owned(), &mut out).await;
        let printed = done.map(|()| String::from_utf8(out).unwrap());
        (printed, server.await.unwrap())
    }

    #[tokio::test]
    async fn the_body_and_nothing_else_is_printed() {
        const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        for path in ["config_dump?include_eds", "/config_dump?include_eds"] {
            let (printed, sent) = asked(OK, path, "body").await;
            assert_eq!(printed.unwrap(), "{}\n");
            assert!(
                sent.starts_with("POST /config_dump?include_eds HTTP/1.1\r\n"),
                "{sent}"
            );
            assert!(sent.ends_with("\r\n\r\nbody"), "{sent}");
        }
        let (_, sent) = asked(OK, "stats?filter=^a|b c$", "").await;
        assert!(
            sent.starts_with("POST /stats?filter=^a|b%20c$ HTTP/1.1\r\n"),
            "{sent}"
        );
    }

    #[tokio::test]
    async fn failures() {
        let missing = "HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\nno";
        assert_eq!(asked(missing, "x", "").await.0.unwrap(), "no\n");
        for (answer, expected) in [
            (
                "HTTP/1.1 503 No\r\ncontent-length: 9\r\n\r\nnot ready",
                "received unsuccessful status code 503: not ready",
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nnot",
                "breaks off",
            ),
            ("nonsense\r\n\r\n", "no answer"),
        ] {
            let error = format!("{:#}", asked(answer, "x", "").await.0.unwrap_err());
            assert!(error.contains(expected), "{answer:?}: {error}");
        }
    }
}
