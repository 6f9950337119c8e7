//! Whether a request is tried again (`envoy.config.route.v3.RetryPolicy`).

use std::{sync::Arc, time::Duration};

use super::exchange::Context;
use crate::{
    access_log::ResponseFlags,
    config::{Cluster, cluster::Endpoint, route::RetryPolicy},
    upstream::{RetryPermit, UpstreamFailure},
};

/// A pooled connection that turns out to be closed costs one try of its own, without a policy.
const STALE_TRIES: u32 = 2;

/// The tries that are left for one request.
pub(super) struct Budget<'p> {
    policy: Option<&'p RetryPolicy>,
    repeatable: bool,
    attempts: u32,
    stale: u32,
    tried: Vec<Arc<Endpoint>>,
    permit: Option<RetryPermit>,
    exhausted: bool,
}

impl<'p> Budget<'p> {
    pub(super) fn new(policy: Option<&'p RetryPolicy>, repeatable: bool) -> Self {
        Self {
            policy,
            repeatable,
            attempts: 0,
            stale: 0,
            tried: Vec::new(),
            permit: None,
            exhausted: false,
        }
    }

    /// Whether one more try was wanted than the policy allows.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Endpoints that should not be chosen again.
    pub(super) fn excluded(&self) -> &[Arc<Endpoint>] {
        &self.tried
    }

    pub(super) fn selection_attempts(&self) -> u32 {
        self.policy
            .map_or(0, |policy| policy.host_selection_attempts)
    }

    /// No connection was made: nothing was sent.
    pub(super) async fn after_failure(
        &mut self,
        context: &Context<'_>,
        cluster: &Arc<Cluster>,
        failure: &UpstreamFailure,
    ) -> bool {
        let Some(policy) = self.policy else {
            return false;
        };
        let connection = failure.kind.flags() == ResponseFlags::UPSTREAM_CONNECTION_FAILURE;
        let wanted = policy.on.server_error
            || policy.on.gateway_error
            || (connection && (policy.on.connect_failure || policy.on.reset));
        if let Some(endpoint) = &failure.endpoint
            && policy.avoid_previous_hosts
        {
            self.tried.push(Arc::clone(endpoint));
        }
        connection && wanted && self.again(policy, context, cluster).await
    }

    /// The connection ended before a response began.
    pub(super) async fn after_reset(
        &mut self,
        context: &Context<'_>,
        cluster: &Arc<Cluster>,
        stale: bool,
    ) -> bool {
        if !self.repeatable {
            return false;
        }
        if stale && self.stale < STALE_TRIES {
            self.stale += 1;
            return true;
        }
        let Some(policy) = self.policy else {
            return false;
        };
        let wanted = policy.on.server_error
            || policy.on.gateway_error
            || policy.on.reset
            || (stale && (policy.on.refused_stream || policy.on.reset_before_request));
        wanted && self.again(policy, context, cluster).await
    }

    async fn again(
        &mut self,
        policy: &RetryPolicy,
        context: &Context<'_>,
        cluster: &Arc<Cluster>,
    ) -> bool {
        let stats = cluster.stats.worker(context.worker.index);
        if self.attempts >= policy.attempts {
            stats.upstream_rq_retry_limit_exceeded.inc();
            self.exhausted = true;
            return false;
        }
        let Some(permit) = context.worker.upstreams.retry(cluster) else {
            stats.upstream_rq_retry_overflow.inc();
            return false;
        };
        self.attempts += 1;
        self.permit = Some(permit);
        tokio::time::sleep(backoff(policy, self.attempts)).await;
        true
    }
}

/// Envoy's: a random time below the base interval, doubled for each try, and bounded.
fn backoff(policy: &RetryPolicy, attempt: u32) -> Duration {
    let ceiling = policy
        .base_interval
        .saturating_mul(1 << attempt.min(16))
        .saturating_sub(policy.base_interval)
        .min(policy.max_interval);
    ceiling.mul_f64(fastrand::f64())
}
