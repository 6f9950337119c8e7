//! `pilot-agent wait`: until the proxy is ready; the hook of `holdApplicationUntilProxyStarts`.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use ithildin_proxy::causes;
use ithildin_status::{Connector, Source};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};

/// As much of an answer as is read, to say what is waited for.
const MAX_BODY: usize = 4 << 10;

/// Wait until the proxy is ready
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Maximum number of seconds to wait
    #[arg(long = "timeoutSeconds", value_name = "N", default_value_t = 60)]
    timeout_seconds: u64,
    /// Milliseconds to wait for each response
    #[arg(long = "requestTimeoutMillis", value_name = "N", default_value_t = 500)]
    request_timeout_millis: u64,
    /// Milliseconds between attempts
    #[arg(long = "periodMillis", value_name = "N", default_value_t = 500)]
    period_millis: u64,
    /// Where readiness is asked for
    #[arg(long, default_value = "http://localhost:15021/healthz/ready")]
    url: String,
}

/// Asks until the answer is 200.
///
/// # Errors
/// The time is over; it says what the last attempt met.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let limit = Duration::from_secs(args.timeout_seconds);
    info!(url = args.url, ?limit, "waiting for the proxy to be ready");
    let request_limit = Duration::from_millis(args.request_timeout_millis);
    let end = Instant::now() + limit;
    loop {
        let attempt = timeout(request_limit, Box::pin(attempt(&args.url))).await;
        let attempt = attempt.with_context(|| format!("no answer within {request_limit:?}"));
        let error = match attempt.and_then(|answered| answered) {
            Ok(()) => break,
            Err(error) => error,
        };
        debug!("not ready yet: {error:#}");
        let next = Instant::now() + Duration::from_millis(args.period_millis);
        if next >= end {
            let last = causes::told(&error);
            bail!("timeout waiting for Envoy proxy to become ready. Last error: {last}");
        }
        sleep(next - Instant::now()).await;
    }
    info!("the proxy is ready");
    Ok(())
}

async fn attempt(url: &str) -> anyhow::Result<()> {
    let connector = Connector::plain(Source::Any);
    let headers = HeaderMap::new();
    let response = connector
        .send(Method::GET, url, &headers, Bytes::new())
        .await?;
    let status = response.status();
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        text.extend_from_slice(&data);
        if text.len() >= MAX_BODY {
            break;
        }
    }
    let text = String::from_utf8_lossy(&text);
    ensure!(
        status == StatusCode::OK,
        "HTTP status code {}: {}",
        status.as_u16(),
        text.trim_end()
    );
    Ok(())
}
