//! `envoy.filters.http.local_ratelimit`: no more requests than a bucket has tokens.

use std::sync::Arc;

use crate::{
    access_log::ResponseFlags,
    config::rate_limit::RateLimit,
    http::{exchange::Exchange, failure::LocalReply},
    stats::RateLimitStats,
};

/// gRPC's code for it.
const RESOURCE_EXHAUSTED: u32 = 8;

impl Exchange<'_> {
    /// Takes a token for the request; without one it is refused, if it is to be.
    pub(super) fn limit_rate(
        &mut self,
        limit: &Arc<RateLimit>,
        stats: &RateLimitStats,
    ) -> Result<(), LocalReply> {
        let Some(bucket) = &limit.bucket else {
            return Ok(());
        };
        if !limit.enabled.hits() {
            return Ok(());
        }
        let stats = stats.worker(self.context.worker.index);
        stats.enabled.inc();
        if bucket.take() {
            stats.ok.inc();
            return Ok(());
        }
        stats.rate_limited.inc();
        if !limit.enforced.hits() {
            self.mutate_request(&limit.request_headers_to_add_when_not_enforced);
            return Ok(());
        }
        stats.enforced.inc();
        self.filters.limited = Some(Arc::clone(limit));
        let mut reply = LocalReply::new(
            limit.status,
            "local_rate_limited",
            ResponseFlags::RATE_LIMITED,
            "local_rate_limited",
        );
        reply.grpc_status = limit
            .rate_limited_as_resource_exhausted
            .then_some(RESOURCE_EXHAUSTED);
        Err(reply)
    }
}
