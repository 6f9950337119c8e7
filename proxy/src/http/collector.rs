//! Services that are told what passed, in entries of access logs and in spans: each worker gathers what there is
//! to tell, and sends it together.
//!
//! Invariants: no request waits for a collector; what a worker gathers for one, and for all, is bounded, and what comes
//! beyond is dropped and counted; of a worker at most one report to a collector is on its way, and after one that
//! failed there is a pause.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt, mem,
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

/// How often it is looked whether all is told, at the end.
const FLUSH_POLL: Duration = Duration::from_millis(10);

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
    /// At most half of what is gathered.
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

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl Collector {
    /// Gathers one item, which `encode` appends to those before it.
    pub(crate) fn tell(self: &Arc<Self>, worker: &Rc<Worker>, encode: impl FnOnce(&mut Vec<u8>)) {
        let items = worker.gathered.of(self, worker);
        if !items.add(encode) {
            self.report.count(worker.index, Fate::Dropped, 1);
            items.full.notify_one();
        } else if items.are_enough() {
            items.full.notify_one();
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
        let answer = Box::pin(call(worker, cluster, &request, &body, Keep::Nothing));
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
pub(crate) struct Gathered {
    /// By the address of each collector, which its items keep.
    items: RefCell<HashMap<*const Collector, Rc<Items>>>,
    /// Nothing is waited for any more.
    closes: Cell<bool>,
}

/// For one. They are there while a task delivers them.
#[derive(Debug)]
struct Items {
    collector: Arc<Collector>,
    kept: RefCell<Kept>,
    /// There are enough, or there is no room for more.
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
        let key = Arc::as_ptr(collector);
        if let Some(items) = self.items.borrow().get(&key) {
            return Rc::clone(items);
        }
        let items = Rc::new(Items {
            collector: Arc::clone(collector),
            kept: RefCell::new(Kept::none(worker)),
            full: Notify::new(),
        });
        self.items.borrow_mut().insert(key, Rc::clone(&items));
        let delivery = Delivery {
            worker: Rc::clone(worker),
            items: Rc::clone(&items),
        };
        // At the very end of a worker it is dropped at once.
        tokio::task::spawn_local(async move { delivery.run().await });
        items
    }

    /// Tells at once what there is, at the end of a worker that has nobody else left to serve.
    pub(crate) async fn flush(&self, limit: Duration) {
        self.closes.set(true);
        for items in self.items.borrow().values() {
            items.full.notify_one();
        }
        let told = async {
            while !self.is_empty() {
                tokio::time::sleep(FLUSH_POLL).await;
            }
        };
        // What is left is counted when its task is dropped.
        let _ = tokio::time::timeout(limit, told).await;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.borrow().is_empty()
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
        if before >= MAX_GATHERED {
            return false;
        }
        encode(bytes);
        let has_room = bytes.len() <= MAX_GATHERED && share.grow(bytes.len() - before);
        match has_room {
            true => *count += 1,
            false => bytes.truncate(before),
        }
        has_room
    }

    fn are_enough(&self) -> bool {
        let (batch, kept) = (self.collector.batch, self.kept.borrow());
        kept.bytes.len() >= batch.bytes.min(MAX_GATHERED / 2) || kept.count >= batch.items
    }

    fn take(&self, worker: &Worker) -> Kept {
        mem::replace(&mut *self.kept.borrow_mut(), Kept::none(worker))
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

/// The task that delivers items, for as long as there are any.
struct Delivery {
    worker: Rc<Worker>,
    items: Rc<Items>,
}

impl Delivery {
    async fn run(&self) {
        let (worker, collector) = (&self.worker, &self.items.collector);
        let mut pauses = false;
        loop {
            let is_due = self.gather(pauses).await;
            let kept = self.items.take(worker);
            if kept.count == 0 {
                return;
            }
            if is_due {
                collector.report.count(worker.index, Fate::Due, kept.count);
            }
            let sent = collector.send(worker, &kept.bytes).await;
            let fate = ReportError::fate(&sent);
            collector.report.count(worker.index, fate, kept.count);
            pauses = sent.is_err();
            if let Err(error) = sent
                && let Some(suppressed) = worker.log.admit()
            {
                let (cluster, items) = (&collector.cluster, kept.count);
                tracing::warn!(%cluster, %error, items, suppressed, "a collector was not told");
            }
            let is_over = match pauses {
                true => worker.gathered.closes.get(),
                false => self.items.kept.borrow().count == 0,
            };
            if is_over {
                return;
            }
        }
    }

    /// Until there is enough, or it is time, which is the answer. `pauses`: whether that alone counts.
    async fn gather(&self, pauses: bool) -> bool {
        let (items, closes) = (&self.items, &self.worker.gathered.closes);
        let enough = async {
            while !closes.get() && (pauses || !items.are_enough()) {
                items.full.notified().await;
            }
        };
        let interval = Some(items.collector.batch.interval);
        self.worker.timers.timeout(interval, enough).await.is_none()
    }
}

/// However it ends: nobody else delivers what came meanwhile.
impl Drop for Delivery {
    fn drop(&mut self) {
        let (worker, collector) = (&self.worker, &self.items.collector);
        let mut gathered = worker.gathered.items.borrow_mut();
        gathered.remove(&Arc::as_ptr(collector));
        let left = self.items.take(worker).count;
        if left > 0 {
            collector.report.count(worker.index, Fate::Dropped, left);
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
