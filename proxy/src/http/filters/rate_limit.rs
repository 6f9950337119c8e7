//! `envoy.filters.http.local_ratelimit`: no more requests than buckets have tokens.

use std::sync::Arc;

use super::{
    Way,
    descriptors::descriptor,
    limits::{self, LimitHeaders},
};
use crate::{
    access_log::ResponseFlags,
    config::rate_limit::{RateLimit, TokenBucket},
    http::{exchange::Exchange, failure::LocalReply},
    stats::RateLimitStats,
};

/// gRPC's code for it.
const RESOURCE_EXHAUSTED: u32 = 8;

/// What came of a draw.
struct Drawn<'l> {
    allowed: bool,
    /// The bucket that was empty, or else the one that the client is told of.
    bucket: &'l TokenBucket,
}

impl Exchange<'_> {
    /// Takes tokens for the request by the filter of that index, or by what its route says in its place;
    /// without them the request is refused, if it is to be.
    pub(super) fn limit_rate(
        &mut self,
        (filter, index): (&Arc<RateLimit>, usize),
        own: Option<&Arc<RateLimit>>,
        stats: &RateLimitStats,
        way: &Way<'_>,
    ) -> Result<(), LocalReply> {
        let limit = own.unwrap_or(filter);
        let limits_nothing = limit.bucket.is_none() && limit.descriptors.is_empty();
        if limits_nothing || !limit.enabled.hits() {
            return Ok(());
        }
        let stats = stats.worker(self.context.worker.index);
        stats.enabled.inc();
        let drawn = self.draw(limit, &filter.own_cluster, way);
        if let Some(Drawn { bucket, .. }) = drawn.as_ref().filter(|_| limit.tells_limits) {
            let state = bucket.state().map(|it| it.to_string());
            self.filters.limits.push(LimitHeaders {
                filter: index,
                headers: limits::headers(state).collect(),
                is_refusal: false,
            });
        }
        if drawn.is_none_or(|it| it.allowed) {
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
        Err(refusal(limit))
    }

    /// Draws from the buckets of the request's descriptors, those that fill slowly first, and from that of all
    /// requests. `None`: no bucket is for it.
    fn draw<'l>(
        &self,
        limit: &'l RateLimit,
        own_cluster: &str,
        way: &Way<'_>,
    ) -> Option<Drawn<'l>> {
        let described = match limit.descriptors.is_empty() {
            true => Vec::new(),
            false => self.described(limit, own_cluster, way),
        };
        let of_all = limit.bucket.as_ref();
        let needs_of_all = described.is_empty() || limit.always_draws;
        let of_all_too = of_all.filter(|_| needs_of_all).map(|bucket| (bucket, 1));
        let mut needed = described.iter().copied().chain(of_all_too);
        if let Some((bucket, _)) = needed.find(|(bucket, hits)| !bucket.take(*hits)) {
            return Some(Drawn {
                allowed: false,
                bucket,
            });
        }
        let first = described.first().map(|(bucket, _)| *bucket);
        let allowed = true;
        first.or(of_all).map(|bucket| Drawn { allowed, bucket })
    }

    /// The buckets of the request's descriptors, and how many tokens it needs of each.
    fn described<'l>(
        &self,
        limit: &'l RateLimit,
        own_cluster: &str,
        way: &Way<'_>,
    ) -> Vec<(&'l TokenBucket, u64)> {
        let cluster = way.cluster().map(|it| &*it.name).unwrap_or_default();
        let facts = self.limit_facts(cluster, own_cluster);
        let rules = self.limit_rules(&limit.rules, limit.stage, limit.host_rules);
        let mut buckets: Vec<_> = rules
            .filter_map(|rule| {
                let entries = descriptor(rule, &facts)?.entries.into_iter();
                let entries: Vec<_> = entries.map(|it| (it.key, it.value)).collect();
                let bucket = limit.descriptors.get(&entries)?;
                Some((bucket, rule.hits.map_or(1, |it| it.number)))
            })
            .collect();
        buckets.sort_by(|(one, _), (other, _)| one.by_speed(other));
        buckets
    }
}

fn refusal(limit: &RateLimit) -> LocalReply {
    let mut reply = LocalReply::new(
        limit.status,
        "local_rate_limited",
        ResponseFlags::RATE_LIMITED,
        "local_rate_limited",
    );
    reply.grpc_status = limit
        .rate_limited_as_resource_exhausted
        .then_some(RESOURCE_EXHAUSTED);
    reply
}
