//! Asking one source for its metrics, within the scraper's time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, USER_AGENT},
};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    format::{Format, accepted_of_data_plane, accepted_of_workload},
    lines::TooLong,
};
use crate::client::{ClientError, Connector, Source};

/// How long the scraper waits, in seconds; Prometheus says it.
const TIMEOUT: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");
/// For scrapers that do not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_TIMEOUT: Duration = Duration::from_secs(300);
/// What is left of the scraper's time for the answer: a tenth, but not more than this. Without it a source
/// that hangs would cost the scraper all of the other sources.
const MAX_RESERVE: Duration = Duration::from_millis(500);
/// The largest answer of one target of several, as with Istio's agent.
pub(super) const MAX_WHOLE: usize = 10 << 20;
/// All that is held of targets at one time, in KiB: 64 MiB.
const MEMORY: u32 = 64 << 10;

/// Why a source gives nothing, or no more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("status {}", .0.as_u16())]
    Status(StatusCode),
    #[error("it breaks off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("it is not done in time")]
    Timeout,
    #[error("it answers with more than {MAX_WHOLE} bytes")]
    TooLarge,
    #[error("the answers of all targets together are too large")]
    Memory,
    #[error(transparent)]
    Line(#[from] TooLong),
}

/// What a scraper's request says that concerns the sources.
pub(super) struct Scrape {
    query: Option<String>,
    headers: HeaderMap,
    workload: HeaderValue,
    data_plane: HeaderValue,
    deadline: Instant,
}

/// A source's answer under way.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) url: String,
    pub(super) format: Format,
    body: Incoming,
    deadline: Instant,
}

/// A source's answer.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) format: Format,
    pub(super) text: Vec<u8>,
    _held: Vec<OwnedSemaphorePermit>,
}

/// What may be held of all answers together.
#[derive(Clone, Debug)]
pub(super) struct Memory(Arc<Semaphore>);

impl Scrape {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let mut headers = HeaderMap::new();
        for name in [USER_AGENT, TIMEOUT] {
            if let Some(value) = request.headers().get(&name) {
                headers.insert(name, value.clone());
            }
        }
        let limit = time_limit(headers.get(TIMEOUT));
        let accept = request.headers().get(ACCEPT);
        Self {
            query: request.uri().query().map(str::to_owned),
            workload: accepted_of_workload(accept),
            data_plane: accepted_of_data_plane(accept),
            headers,
            deadline: Instant::now() + limit - MAX_RESERVE.min(limit / 10),
        }
    }

    /// When sources must be done.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The scraper's query is the data plane's.
    pub(super) async fn data_plane(&self, url: &str) -> Result<Reader, Error> {
        let url = match &self.query {
            Some(query) => format!("{url}?{query}"),
            None => url.to_owned(),
        };
        self.open(url, &self.data_plane).await
    }

    pub(super) async fn workload(&self, url: &str) -> Result<Reader, Error> {
        self.open(url.to_owned(), &self.workload).await
    }

    /// All of it, if it is not too much.
    pub(super) async fn whole(&self, url: &str, memory: &Memory) -> Result<Whole, Error> {
        let mut reader = self.workload(url).await?;
        let (mut text, mut held) = (Vec::new(), Vec::new());
        while let Some(piece) = reader.next().await? {
            if text.len() + piece.len() > MAX_WHOLE {
                return Err(Error::TooLarge);
            }
            held.push(memory.hold(piece.len())?);
            text.extend_from_slice(&piece);
        }
        Ok(Whole {
            format: reader.format,
            text,
            _held: held,
        })
    }

    async fn open(&self, url: String, accept: &HeaderValue) -> Result<Reader, Error> {
        let mut headers = self.headers.clone();
        headers.insert(ACCEPT, accept.clone());
        let connector = Connector::plain(Source::Any);
        let response = Box::pin(connector.send(Method::GET, &url, &headers, Bytes::new()));
        let response = timeout_at(self.deadline, response).await;
        let (head, body) = response.map_err(|_| Error::Timeout)??.into_parts();
        if head.status != StatusCode::OK {
            return Err(Error::Status(head.status));
        }
        Ok(Reader {
            url,
            format: Format::of(head.headers.get(CONTENT_TYPE)),
            body,
            deadline: self.deadline,
        })
    }
}

impl Reader {
    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = timeout_at(self.deadline, self.body.frame()).await;
            let Some(frame) = frame.map_err(|_| Error::Timeout)? else {
                return Ok(None);
            };
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
    }
}

impl Memory {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MEMORY as usize)))
    }

    fn hold(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let kib = u32::try_from(bytes.div_ceil(1024)).map_err(|_| Error::Memory)?;
        let permit = Arc::clone(&self.0).try_acquire_many_owned(kib);
        permit.map_err(|_| Error::Memory)
    }
}

/// The scraper's time; a value that is none counts as not said.
fn time_limit(value: Option<&HeaderValue>) -> Duration {
    value
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .filter(|seconds| *seconds > 0.0)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .map_or(DEFAULT_TIMEOUT, |limit| limit.min(MAX_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scrapers_time() {
        for (value, expected) in [
            ("10", Duration::from_secs(10)),
            ("1.5", Duration::from_millis(1500)),
            ("1e9", MAX_TIMEOUT),
            ("0", DEFAULT_TIMEOUT),
            ("-1", DEFAULT_TIMEOUT),
            ("NaN", DEFAULT_TIMEOUT),
            ("inf", DEFAULT_TIMEOUT),
            ("soon", DEFAULT_TIMEOUT),
        ] {
            let value = HeaderValue::from_static(value);
            assert_eq!(time_limit(Some(&value)), expected, "{value:?}");
        }
        assert_eq!(time_limit(None), DEFAULT_TIMEOUT);
    }
}
