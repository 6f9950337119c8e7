//! Circuit breakers: Envoy's thresholds, compared with the gauges that the workers keep anyway.
//!
//! A threshold is for the cluster, not for a worker: the gauges of all workers are summed. Two
//! workers that decide at the same instant may exceed it by one, as in Envoy.

use std::{cell::Cell, rc::Rc};

use super::{FailureKind, cluster::Context, failure::UpstreamFailure, hosts::Host};
use crate::{
    config::Cluster,
    stats::{ClusterBlock, Gauge},
};

/// Whether one more is admitted.
fn admits(cluster: &Cluster, limit: u32, gauge: impl Fn(&ClusterBlock) -> &Gauge) -> bool {
    // What Istio sets by default; saves a look at the other workers' cache lines.
    if limit == u32::MAX {
        return true;
    }
    let active = cluster.stats.workers().gauge(|block| gauge(block).get());
    active < u64::from(limit)
}

/// Whether one more connection may be opened. A pool without any may always open one.
pub(super) fn admits_connection(context: &Context, pool_is_empty: bool) -> bool {
    let limit = context.cluster.limits.max_connections;
    let admitted = admits(&context.cluster, limit, |block| &block.upstream_cx_active);
    if !admitted {
        context.stats().upstream_cx_overflow.inc();
    }
    admitted || pool_is_empty
}

/// Counts one request that waits for a connection.
#[derive(Debug)]
pub(super) struct PendingPermit {
    context: Rc<Context>,
    is_over: Cell<bool>,
}

impl PendingPermit {
    pub(super) fn admit(context: &Rc<Context>) -> Result<Self, UpstreamFailure> {
        let (cluster, stats) = (&context.cluster, context.stats());
        let limit = cluster.limits.max_pending_requests;
        if !admits(cluster, limit, |block| &block.upstream_rq_pending_active) {
            stats.upstream_rq_pending_overflow.inc();
            return Err(FailureKind::Overflow.into());
        }
        stats.upstream_rq_pending_total.inc();
        stats.upstream_rq_pending_active.inc();
        Ok(Self {
            context: Rc::clone(context),
            is_over: Cell::new(false),
        })
    }

    /// The request waits no longer: it has its connection, or there is none for it.
    pub(super) fn end<T>(self, opened: &Result<T, UpstreamFailure>) {
        self.is_over.set(true);
        if opened
            .as_ref()
            .is_err_and(|failure| failure.kind != FailureKind::Overflow)
        {
            self.context.stats().upstream_rq_pending_failure_eject.inc();
        }
    }
}

impl Drop for PendingPermit {
    fn drop(&mut self) {
        let stats = self.context.stats();
        stats.upstream_rq_pending_active.dec();
        if !self.is_over.get() {
            stats.upstream_rq_cancelled.inc();
        }
    }
}

/// Counts one request on its cluster and its endpoint.
#[derive(Debug)]
pub(super) struct RequestPermit {
    context: Rc<Context>,
    host: Rc<Host>,
}

impl RequestPermit {
    pub(super) fn admit(context: &Rc<Context>, host: &Rc<Host>) -> Result<Self, UpstreamFailure> {
        let (cluster, stats) = (&context.cluster, context.stats());
        let limit = cluster.limits.max_requests;
        if !admits(cluster, limit, |block| &block.upstream_rq_active) {
            stats.upstream_rq_active_overflow.inc();
            return Err(FailureKind::Overflow.into());
        }
        Ok(Self::without_limit(context, host))
    }

    /// TCP sessions are limited by their connections.
    pub(super) fn without_limit(context: &Rc<Context>, host: &Rc<Host>) -> Self {
        let stats = context.stats();
        stats.upstream_rq_total.inc();
        stats.upstream_rq_active.inc();
        let endpoint = host.stats(context);
        endpoint.rq_total.inc();
        endpoint.rq_active.inc();
        Self {
            context: Rc::clone(context),
            host: Rc::clone(host),
        }
    }

    pub(super) fn host(&self) -> &Rc<Host> {
        &self.host
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.context.stats().upstream_rq_active.dec();
        self.host.stats(&self.context).rq_active.dec();
    }
}

/// Counts one retry.
#[derive(Debug)]
pub struct RetryPermit(Rc<Context>);

impl RetryPermit {
    pub(super) fn admit(context: &Rc<Context>) -> Option<Self> {
        let (cluster, stats) = (&context.cluster, context.stats());
        let limit = match cluster.limits.retry_budget {
            Some(budget) => {
                let workers = cluster.stats.workers();
                let active = workers.gauge(|it| it.upstream_rq_active.get());
                let pending = workers.gauge(|it| it.upstream_rq_pending_active.get());
                budget.limit(active + pending)
            }
            None => cluster.limits.max_retries,
        };
        if !admits(cluster, limit, |block| &block.upstream_rq_retry_active) {
            stats.upstream_rq_retry_overflow.inc();
            return None;
        }
        stats.upstream_rq_retry.inc();
        stats.upstream_rq_retry_active.inc();
        Some(Self(Rc::clone(context)))
    }
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.0.stats().upstream_rq_retry_active.dec();
    }
}
