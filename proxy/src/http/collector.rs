//! Services that are told what passed, in entries of access logs and in spans: each worker gathers what there is
//! to tell, and sends it together.
//!
//! Invariants: no request waits for a collector; what a worker gathers for one, and for all, is bounded, and what comes
//! beyond is dropped and counted; of a worker at most one report to a collector is on its way.

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt, mem, ptr,
    rc::Rc,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderName;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    call::{Answer, CallError, Keep, call},
    grpc::{self, GrpcError},
    headers::Headers,
    request::{BodyLength, Protocol, Request},
};
use crate::worker::{Share, Worker};

/// The most that a worker gathers for one collector, in bytes: servers of gRPC take messages of 4 MiB.
pub(super) const MAX_GATHERED: usize = 2 << 20;

/// The most that is read of an answer's body, in bytes. It says what went wrong, or nothing.
pub(super) const MAX_ANSWER: usize = 64 << 10;

/// Where a service is, how it is spoken to, and when.
#[derive(Debug)]
pub(crate) struct Collector {
    pub(crate) cluster: Box<str>,
    pub(crate) authority: Bytes,
    /// Of a method, or of a POST.
    pub(crate) path: Bytes,
    pub(crate) speaks: Speaks,
    /// For the answer.
    pub(crate) timeout: Duration,
    pub(crate) batch: Batch,
    pub(crate) report: Box<dyn Report>,
}

#[derive(Debug)]
pub(crate) enum Speaks {
    /// With this metadata.
    Grpc(Vec<(HeaderName, Bytes)>),
    /// With these fields besides those of the message.
    Http(Vec<(HeaderName, Bytes)>),
}

/// What is gathered is sent with the first of these.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    /// Since its first item, or since the report before it was answered.
    pub(crate) interval: Duration,
    pub(crate) bytes: usize,
    pub(crate) items: u64,
}

/// What a collector is told.
pub(crate) trait Report: fmt::Debug + Send + Sync {
    /// Appends the body of a request, or its one message of gRPC, with `items` as they were gathered.
    fn write(&self, items: &[u8], body: &mut Vec<u8>);

    /// So many items of a worker's met with this.
    fn count(&self, worker: usize, fate: Fate, items: u64);
}

/// What items meet with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// There was no room for them.
    Dropped,
    /// They are sent, as it is time. What becomes of them is counted besides.
    Due,
    Sent,
    NoCluster,
    /// There was no answer.
    Failed,
    /// The answer was an error.
    Refused,
}

/// Collectors by what configures them, so that all of one kind share what is gathered and what is on its way.
#[derive(Debug, Default)]
pub(crate) struct Collectors(Mutex<HashMap<Box<[u8]>, Weak<Collector>>>);

impl Collectors {
    /// The one of this `configuration`, made where nobody has it.
    pub(crate) fn shared(
        &self,
        configuration: &[u8],
        make: impl FnOnce() -> Collector,
    ) -> Arc<Collector> {
        let mut known = self.0.lock();
        if let Some(collector) = known.get(configuration).and_then(Weak::upgrade) {
            return collector;
        }
        known.retain(|_, it| it.strong_count() > 0);
        let collector = Arc::new(make());
        known.insert(configuration.into(), Arc::downgrade(&collector));
        collector
    }
}

impl Collector {
    /// Gathers one item, which `encode` appends to those before it.
    pub(crate) fn tell(self: &Arc<Self>, worker: &Rc<Worker>, encode: impl FnOnce(&mut Vec<u8>)) {
        let gathered = worker.gathered.of(self, worker);
        if !gathered.add(encode) {
            self.report.count(worker.index, Fate::Dropped, 1);
        } else if gathered.is_full(self.batch) {
            gathered.full.notify_one();
        }
    }

    async fn send(&self, worker: &Worker, items: &[u8]) -> Result<(), ReportError> {
        let snapshot = worker.snapshot();
        let cluster = snapshot.clusters.get(&*self.cluster);
        let cluster = cluster.ok_or(ReportError::NoCluster)?;
        let write = |body: &mut Vec<u8>| self.report.write(items, body);
        let body = match &self.speaks {
            Speaks::Grpc(_) => grpc::framed(write)?,
            Speaks::Http(_) => {
                let mut body = Vec::new();
                write(&mut body);
                body.into()
            }
        };
        let request = self.request(body.len());
        let mut share = worker.reported.none();
        let keep = Keep::UpTo(MAX_ANSWER, &mut share);
        let answer = Box::pin(call(worker, cluster, &request, &body, keep));
        let answer = worker.timers.timeout(Some(self.timeout), answer).await;
        self.judge(&answer.ok_or(ReportError::Slow)??)
    }

    fn request(&self, length: usize) -> Request {
        let (mut headers, fields, body, protocol) = match &self.speaks {
            Speaks::Grpc(fields) => {
                let headers = grpc::headers(None);
                (headers, fields, BodyLength::Unknown, Protocol::Http2)
            }
            Speaks::Http(fields) => {
                let length = BodyLength::Known(length as u64);
                (Headers::default(), fields, length, Protocol::Http11)
            }
        };
        for (name, value) in fields {
            headers.append(name.clone(), value.clone());
        }
        Request {
            method: Bytes::from_static(b"POST"),
            scheme: Some("http"),
            authority: self.authority.clone(),
            path: self.path.clone(),
            headers,
            body,
            upgrade: None,
            protocol,
            metadata: None,
        }
    }

    fn judge(&self, answer: &Answer) -> Result<(), ReportError> {
        match (&self.speaks, answer.status) {
            (Speaks::Grpc(_), _) => Ok(grpc::succeeded(answer)?),
            (Speaks::Http(_), 200..300) => Ok(()),
            (Speaks::Http(_), status) => Err(ReportError::Status(status)),
        }
    }
}

/// What a worker gathers for all collectors.
#[derive(Debug, Default)]
pub(crate) struct Gathered(RefCell<HashMap<*const Collector, Rc<Items>>>);

/// For one. They are there while a task delivers them.
#[derive(Debug)]
struct Items {
    kept: RefCell<Kept>,
    full: Notify,
}

#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    count: u64,
    share: Share,
}

impl Gathered {
    fn of(&self, collector: &Arc<Collector>, worker: &Rc<Worker>) -> Rc<Items> {
        let mut gathered = self.0.borrow_mut();
        let items = gathered.entry(Arc::as_ptr(collector)).or_insert_with(|| {
            let items = Rc::new(Items {
                kept: RefCell::new(Kept::none(worker)),
                full: Notify::new(),
            });
            let (worker, collector) = (Rc::clone(worker), Arc::clone(collector));
            let delivered = Rc::clone(&items);
            tokio::task::spawn_local(async move { delivered.deliver(&worker, &collector).await });
            items
        });
        Rc::clone(items)
    }
}

impl Items {
    /// Whether there was room.
    fn add(&self, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut kept = self.kept.borrow_mut();
        let Kept {
            bytes,
            count,
            share,
        } = &mut *kept;
        let before = bytes.len();
        encode(bytes);
        let has_room = bytes.len() <= MAX_GATHERED && share.grow(bytes.len() - before);
        match has_room {
            true => *count += 1,
            false => bytes.truncate(before),
        }
        has_room
    }

    fn is_full(&self, batch: Batch) -> bool {
        let kept = self.kept.borrow();
        kept.bytes.len() >= batch.bytes || kept.count >= batch.items
    }

    fn is_empty(&self) -> bool {
        self.kept.borrow().count == 0
    }

    /// Sends what there is, again and again until there is nothing.
    async fn deliver(&self, worker: &Rc<Worker>, collector: &Arc<Collector>) {
        let (batch, report) = (collector.batch, &collector.report);
        loop {
            let is_due = match self.is_full(batch) {
                true => false,
                false => {
                    let full = self.full.notified();
                    let full = worker.timers.timeout(Some(batch.interval), full);
                    full.await.is_none()
                }
            };
            let kept = mem::replace(&mut *self.kept.borrow_mut(), Kept::none(worker));
            if is_due {
                report.count(worker.index, Fate::Due, kept.count);
            }
            let sent = collector.send(worker, &kept.bytes).await;
            report.count(worker.index, ReportError::fate(&sent), kept.count);
            if let Err(error) = sent
                && let Some(suppressed) = worker.log.admit()
            {
                let (cluster, items) = (&collector.cluster, kept.count);
                tracing::warn!(%cluster, %error, items, suppressed, "a collector was not told");
            }
            if self.is_empty() {
                let mut gathered = worker.gathered.0.borrow_mut();
                gathered.remove(&ptr::from_ref(&**collector));
                return;
            }
        }
    }
}

impl Kept {
    fn none(worker: &Worker) -> Self {
        Self {
            bytes: Vec::new(),
            count: 0,
            share: worker.reported.none(),
        }
    }
}

/// Why a collector has not got a report.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error("the cluster is not there")]
    NoCluster,
    #[error("no answer in time")]
    Slow,
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("HTTP status {0}")]
    Status(u16),
    #[error(transparent)]
    Grpc(#[from] GrpcError),
}

impl ReportError {
    fn fate(sent: &Result<(), Self>) -> Fate {
        match sent {
            Ok(()) => Fate::Sent,
            Err(Self::NoCluster) => Fate::NoCluster,
            Err(Self::Slow | Self::Call(_)) => Fate::Failed,
            Err(Self::Status(_) | Self::Grpc(_)) => Fate::Refused,
        }
    }
}
