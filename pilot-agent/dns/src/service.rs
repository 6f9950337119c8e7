//! What all sockets share: the table and the way upstream.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;
use ithildin_panics::contained;
use serde_json::Value;
use tracing::error;

use crate::{
    query::{Transport, Verdict, judge},
    table::Table,
    upstream::Upstream,
};

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) table: ArcSwapOption<Table>,
    pub(crate) upstream: Upstream,
    pub(crate) forward_before_table: bool,
    pub(crate) requests: AtomicU64,
}

impl Service {
    /// What becomes of `bytes`, without waiting for anybody. A query that makes us panic is dropped: it
    /// must not end the service of all others.
    pub(crate) fn judge(&self, bytes: &[u8], transport: Transport) -> Verdict {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let table = self.table.load();
        let judge = || {
            judge(
                bytes,
                transport,
                table.as_deref(),
                self.forward_before_table,
            )
        };
        contained(judge).unwrap_or_else(|reason| {
            error!(reason, length = bytes.len(), "a query is dropped");
            Verdict::Drop
        })
    }
}

/// What is to be seen of the proxy from outside; a handle that may be cloned.
#[derive(Clone, Debug)]
pub struct Status(pub(crate) Arc<Service>);

/// Counted since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Messages that clients sent (Istio's `dns_requests_total`).
    pub requests: u64,
    /// Those that were forwarded (`dns_upstream_requests_total`).
    pub upstream_requests: u64,
    /// Those of them that no server answered (`dns_upstream_failures_total`).
    pub upstream_failures: u64,
}

impl Status {
    /// Whether there has been a table.
    pub fn is_ready(&self) -> bool {
        self.0.table.load().is_some()
    }

    /// The table as istiod sent it, in protobuf's JSON form; `None` before the first.
    pub fn dump(&self) -> Option<Value> {
        self.0.table.load().as_ref().map(|table| table.dump())
    }

    pub fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            requests: get(&self.0.requests),
            upstream_requests: get(&self.0.upstream.requests),
            upstream_failures: get(&self.0.upstream.failures),
        }
    }
}
