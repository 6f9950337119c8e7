//! `/stats/prometheus`: the agent's metrics, the data plane's and the workload's, one after the other.
//!
//! Whatever fails is missing, logged and counted, and spoils nothing else: a workload that is dead, slow
//! or hostile still leaves the data plane's metrics. Memory is bounded: what is read is passed on at the
//! scraper's pace, and what must be held (several targets) has a limit of each and of all.

mod format;
mod lines;
mod merge;
mod output;
mod own;
mod process;
mod scrape;
mod targets;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, VARY},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, timeout},
};

pub use self::targets::{SCRAPE_ENV, ScrapeTarget, TargetError};
use self::{
    format::Format,
    merge::{Merge, Workload},
    output::{Coding, Output},
    own::{Kind, Own},
    scrape::Scrape,
};
use crate::{
    agent::Agent,
    options::Options,
    response::{Body, TEXT, answer},
};

/// Scrapes at a time; more wait.
const SCRAPES: usize = 8;
/// A scrape that waits for longer is refused.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a scraper may take to read what is there, beyond its timeout.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Families that belong to the workload, which is a process too: the data plane's would stand beside the same
/// ones of the workload. The agent's own have another name.
const WORKLOADS: &str = "process_";
/// Pieces between what reads sources and what the scraper reads.
const PIECES: usize = 4;

/// Answers scrapes.
pub(crate) struct Metrics {
    agent: Arc<dyn Agent>,
    own: Arc<Own>,
    /// Without a query.
    data_plane: String,
    merge_data_plane: bool,
    targets: Vec<ScrapeTarget>,
    scrapes: Arc<Semaphore>,
    memory: scrape::Memory,
}

impl Metrics {
    pub(crate) fn new(options: &Options, agent: Arc<dyn Agent>) -> Self {
        Self {
            agent,
            own: Arc::new(Own::new()),
            data_plane: format!(
                "http://localhost:{}/stats/prometheus",
                options.data_plane_metrics
            ),
            merge_data_plane: options.merge_data_plane,
            targets: options.scrape_targets.clone(),
            scrapes: Arc::new(Semaphore::new(SCRAPES)),
            memory: scrape::Memory::new(),
        }
    }

    /// Everything.
    pub(crate) async fn merged<B>(&self, request: &Request<B>) -> Response<Body> {
        let Some(permit) = self.permit().await else {
            return too_many();
        };
        self.own.scraped();
        let scrape = Scrape::of(request);
        let (data_plane, (workload, format)) = tokio::join!(
            self.scrape_data_plane(&scrape, self.merge_data_plane),
            self.scrape_workload(&scrape),
        );
        let merge = Merge {
            agent: self.own.text(&*self.agent).await,
            data_plane,
            without: Some(WORKLOADS),
            workload,
            format,
            own: Arc::clone(&self.own),
        };
        start(merge, &scrape, request, permit)
    }

    /// The data plane's alone, for its own port.
    pub(crate) async fn of_the_data_plane<B>(&self, request: &Request<B>) -> Response<Body> {
        let Some(permit) = self.permit().await else {
            return too_many();
        };
        let scrape = Scrape::of(request);
        let Some(data_plane) = self.scrape_data_plane(&scrape, true).await else {
            let text = "the data plane does not tell its metrics; the agent's log says why\n";
            return answer(StatusCode::BAD_GATEWAY, TEXT, text);
        };
        let merge = Merge {
            agent: Vec::new(),
            data_plane: Some(data_plane),
            without: None,
            workload: Workload::None,
            format: Format::Text,
            own: Arc::clone(&self.own),
        };
        start(merge, &scrape, request, permit)
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.scrapes).acquire_owned();
        timeout(QUEUE_TIMEOUT, permit).await.ok()?.ok()
    }

    async fn scrape_data_plane(&self, scrape: &Scrape, wanted: bool) -> Option<scrape::Reader> {
        if !wanted {
            return None;
        }
        let opened = scrape.data_plane(&self.data_plane).await;
        let failed = |error| self.own.failed(Kind::DataPlane, &self.data_plane, &error);
        opened.map_err(failed).ok()
    }

    /// The workload's metrics and their format: a single target's as they come, several ones' whole.
    async fn scrape_workload(&self, scrape: &Scrape) -> (Workload, Format) {
        let failed = |url: &str, error| self.own.failed(Kind::Application, url, &error);
        let [only] = self.targets.as_slice() else {
            let all = self.targets.iter().map(|target| async move {
                let url = target.url();
                let whole = scrape.whole(&url, &self.memory).await;
                whole.map_err(|error| failed(&url, error)).ok()
            });
            let all: Vec<_> = futures_util::future::join_all(all).await;
            let all: Vec<_> = all.into_iter().flatten().collect();
            let format = Format::common(all.iter().map(|target| target.format));
            return (Workload::Whole(all), format);
        };
        let url = only.url();
        match scrape.workload(&url).await {
            Ok(reader) => {
                let format = reader.format;
                (Workload::Stream(reader), format)
            }
            Err(error) => {
                failed(&url, error);
                (Workload::None, Format::Text)
            }
        }
    }
}

/// Begins the answer; the rest follows while the scraper reads.
fn start<B>(
    merge: Merge,
    scrape: &Scrape,
    request: &Request<B>,
    permit: OwnedSemaphorePermit,
) -> Response<Body> {
    let coding = Coding::of(request.headers());
    let (chunks, body) = mpsc::channel(PIECES);
    let mut response = Response::new(Body::stream(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, merge.format.content_type());
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(coding) = coding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    }
    let deadline = scrape.deadline().max(Instant::now()) + READ_TIMEOUT;
    let output = Output::new(chunks, coding, deadline);
    tokio::spawn(async move {
        merge.write(output).await;
        drop(permit);
    });
    response
}

fn too_many() -> Response<Body> {
    let text = "too many scrapes at a time\n";
    answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
}
