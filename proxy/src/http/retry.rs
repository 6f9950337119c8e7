//! Whether a request is tried again (`envoy.config.route.v3.RetryPolicy`).

use std::{rc::Rc, sync::Arc, time::Duration};

use super::{exchange::Context, tape::Tape};
use crate::{
    access_log::ResponseFlags,
    config::{
        Cluster,
        cluster::Endpoint,
        route::{RetryOn, RetryPolicy},
    },
    upstream::{FailureKind, RetryPermit},
};

/// A pooled connection that turns out to be closed costs one try of its own, without a policy.
const STALE_TRIES: u32 = 2;

/// The tries that are left for one request.
pub(super) struct Budget<'p> {
    context: &'p Context<'p>,
    cluster: &'p Arc<Cluster>,
    policy: Option<&'p RetryPolicy>,
    hash: Option<u64>,
    body: Body,
    retries: u32,
    stale: u32,
    tried: Vec<Arc<Endpoint>>,
    /// Held until the retry is over.
    permit: Option<RetryPermit>,
    exhausted: bool,
}

/// What is left of the request's body when it has been sent.
pub(super) enum Body {
    /// There is none.
    None,
    Kept(Rc<Tape>),
    /// Nothing: there is no policy that would send it again.
    Gone,
}

/// How a try failed.
#[derive(Clone, Copy)]
pub(super) enum Cause {
    /// There was no connection.
    Unavailable(FailureKind),
    /// The connection or stream ended before a response. `stale`: the upstream cannot have acted on
    /// the request.
    Reset { stale: bool },
    /// `per_try_timeout` was over first.
    Slow,
    /// A response, and its `grpc-status` if that came with its head.
    Response {
        status: u16,
        grpc: Option<u32>,
        /// `x-envoy-ratelimited`: more tries are what the upstream does not want.
        limited: bool,
    },
}

impl<'p> Budget<'p> {
    pub(super) fn new(
        context: &'p Context<'p>,
        cluster: &'p Arc<Cluster>,
        policy: Option<&'p RetryPolicy>,
        hash: Option<u64>,
        body: Body,
    ) -> Self {
        Self {
            context,
            cluster,
            policy,
            hash,
            body,
            retries: 0,
            stale: 0,
            tried: Vec::new(),
            permit: None,
            exhausted: false,
        }
    }

    /// What the request's host is chosen by.
    pub(super) fn hash(&self) -> Option<u64> {
        self.hash
    }

    pub(super) fn cluster(&self) -> &'p Cluster {
        self.cluster
    }

    /// Whether one more try was wanted than the policy allows.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Whether the policy has been made use of.
    pub(super) fn has_retried(&self) -> bool {
        self.retries > 0
    }

    /// Whether responses may be refused for what they say: then their heads are worth a look.
    pub(super) fn judges_responses(&self) -> bool {
        self.policy.is_some()
    }

    /// Endpoints that should not be chosen again.
    pub(super) fn excluded(&self) -> &[Arc<Endpoint>] {
        &self.tried
    }

    pub(super) fn selection_attempts(&self) -> u32 {
        let policy = self.policy.filter(|policy| policy.avoid_previous_hosts);
        policy.map_or(0, |policy| policy.host_selection_attempts)
    }

    /// See [`LbRequest::avoid_priorities_every`](crate::upstream::LbRequest::avoid_priorities_every).
    pub(super) fn avoid_priorities_every(&self) -> u32 {
        self.policy
            .map_or(0, |policy| policy.avoid_priorities_every)
    }

    /// Whether the request is sent again after a try that failed, on `endpoint` if one was chosen.
    /// If so, [`back_off`](Self::back_off) first.
    pub(super) fn grants(&mut self, cause: Cause, endpoint: Option<&Arc<Endpoint>>) -> bool {
        if !self.can_repeat() {
            return false;
        }
        if matches!(cause, Cause::Reset { stale: true }) && self.stale < STALE_TRIES {
            self.stale += 1;
            return true;
        }
        let Some(policy) = self.policy.filter(|policy| wants(policy, cause)) else {
            return false;
        };
        let stats = self.cluster.stats.worker(self.context.worker.index);
        if self.retries >= policy.attempts {
            stats.upstream_rq_retry_limit_exceeded.inc();
            self.exhausted = true;
            return false;
        }
        // Of the try before: it is over.
        self.permit = None;
        self.permit = self.context.worker.upstreams.retry(self.cluster);
        if self.permit.is_none() {
            return false;
        }
        self.retries += 1;
        if let Some(endpoint) = endpoint
            && (policy.avoid_previous_hosts || policy.avoid_priorities_every > 0)
        {
            self.tried.push(Arc::clone(endpoint));
        }
        true
    }

    /// Waits as long as the policy says. A connection that was closed while it was idle says
    /// nothing of the upstream's health: then there is no wait.
    pub(super) async fn back_off(&self) {
        if let (Some(policy), Some(_)) = (self.policy, &self.permit) {
            let stats = self.cluster.stats.worker(self.context.worker.index);
            stats.upstream_rq_retry_backoff_exponential.inc();
            tokio::time::sleep(backoff(policy, self.retries)).await;
        }
    }

    /// Counts a response that came in the end.
    pub(super) fn succeeded(&self, status: u16) {
        if self.has_retried() && status < 500 {
            let stats = self.cluster.stats.worker(self.context.worker.index);
            stats.upstream_rq_retry_success.inc();
        }
    }

    fn can_repeat(&self) -> bool {
        match &self.body {
            Body::None => true,
            Body::Kept(tape) => tape.can_replay(),
            Body::Gone => false,
        }
    }
}

/// Whether the conditions of the policy are met.
fn wants(policy: &RetryPolicy, cause: Cause) -> bool {
    let on = &policy.on;
    match cause {
        Cause::Unavailable(kind) => {
            let connection = kind.flags() == ResponseFlags::UPSTREAM_CONNECTION_FAILURE;
            connection
                && (on.server_error
                    || on.gateway_error
                    || on.reset
                    || on.reset_before_request
                    || on.connect_failure)
        }
        Cause::Reset { stale } => {
            on.server_error || on.gateway_error || on.reset || (stale && on.refused_stream)
        }
        Cause::Slow => on.server_error || on.gateway_error || on.reset,
        Cause::Response { limited: true, .. } => on.rate_limited,
        Cause::Response { status, grpc, .. } => {
            (on.server_error && (500..600).contains(&status))
                || (on.gateway_error && matches!(status, 502..=504))
                || (on.retriable_4xx && status == 409)
                || (on.retriable_status_codes
                    && policy.statuses.iter().any(|it| it.as_u16() == status))
                || grpc.is_some_and(|code| wants_grpc(on, code))
        }
    }
}

/// By the codes of gRPC.
fn wants_grpc(on: &RetryOn, code: u32) -> bool {
    match code {
        1 => on.grpc_cancelled,
        4 => on.grpc_deadline_exceeded,
        8 => on.grpc_resource_exhausted,
        13 => on.grpc_internal,
        14 => on.grpc_unavailable,
        _ => false,
    }
}

/// Envoy's: a random time below the base interval, doubled for each try, and bounded.
fn backoff(policy: &RetryPolicy, retry: u32) -> Duration {
    let ceiling = policy
        .base_interval
        .saturating_mul(1 << retry.saturating_sub(1).min(16))
        .min(policy.max_interval);
    ceiling.mul_f64(fastrand::f64())
}
