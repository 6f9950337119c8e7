//! `envoy.filters.http.ratelimit`: a service is asked whether a request is one too many.
//!
//! Invariants: a request of which there is no descriptor is not asked about; a service that cannot be
//! asked, or whose answer has a header that could not be sent, is an error, for which the configuration
//! says what becomes of requests; what waits for answers is bounded in memory (`Worker::asked`), and what
//! does not fit is such an error, too.

mod answer;
#[cfg(test)]
mod tests;

use std::{future::poll_fn, pin::pin};

use bytes::Bytes;
use http::{HeaderName, header::RETRY_AFTER};
use ithildin_proto::pb::envoy::service::ratelimit::v3::{
    RateLimitRequest, RateLimitResponse, rate_limit_response::DescriptorStatus,
};

use self::answer::Answer;
use super::{
    Verdict, Way,
    descriptors::descriptor,
    limits::{self, LimitHeaders},
};
use crate::{
    access_log::ResponseFlags,
    config::{
        Cluster,
        limit_service::{Concerns, LimitService, LimitServiceRoute},
    },
    http::{
        client::Client, exchange::Exchange, failure::LocalReply, grpc::Method, race::Beside,
        request::Request, unary,
    },
};

/// gRPC's code for it.
const RESOURCE_EXHAUSTED: u32 = 8;

/// The only status that `retry-after` goes with.
const TOO_MANY: u16 = 429;

const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

const LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

impl Exchange<'_> {
    /// Asks about the request, if the filter, whose index is told, concerns it.
    pub(super) async fn ask_limits(
        &mut self,
        (filter, index): (&LimitService, usize),
        own: Option<&LimitServiceRoute>,
        way: &Way<'_>,
        client: &mut Client<'_, '_>,
    ) -> Verdict {
        let Some(cluster) = way.cluster() else {
            return Verdict::Pass;
        };
        if !filter.enabled.hits() || !concerns(filter, &self.request) {
            return Verdict::Pass;
        }
        let question = self.limits_question(filter, own, cluster);
        if question.descriptors.is_empty() {
            return Verdict::Pass;
        }
        let answer = {
            let asking = self.limits_answer(filter, &question);
            let mut gone = pin!(poll_fn(|cx| client.poll_gone(cx)));
            let mut gone = Beside::new(gone.as_mut());
            match gone.with(pin!(asking), |()| true).await {
                Some(answer) => answer,
                None => return Verdict::Gone,
            }
        };
        match answer {
            Some(answer) => self.limits_answered((filter, index), cluster, answer),
            None => self.limits_unanswered(filter, cluster),
        }
    }

    fn limits_question(
        &self,
        filter: &LimitService,
        own: Option<&LimitServiceRoute>,
        cluster: &Cluster,
    ) -> RateLimitRequest {
        let facts = self.limit_facts(&cluster.name, &filter.own_cluster);
        let instead = own.map(|it| &it.rules[..]).filter(|it| !it.is_empty());
        let instead = instead.unwrap_or(&filter.rules);
        let host_rules = own.map(|it| it.host_rules).unwrap_or_default();
        let rules = self.limit_rules(instead, filter.stage, host_rules);
        let domain = own.and_then(|it| it.domain.as_ref());
        RateLimitRequest {
            domain: domain.unwrap_or(&filter.domain).to_string(),
            descriptors: rules.filter_map(|rule| descriptor(rule, &facts)).collect(),
            hits_addend: 0,
        }
    }

    /// `None`: the service could not be asked, or its answer is none.
    async fn limits_answer(
        &self,
        filter: &LimitService,
        question: &RateLimitRequest,
    ) -> Option<Answer> {
        let worker = self.context.worker;
        let service = &filter.service;
        let method = Method {
            path: SHOULD_RATE_LIMIT,
            cluster: &service.cluster,
            authority: &service.authority,
            timeout: service.timeout,
        };
        let answer = Box::pin(unary::<RateLimitResponse>(worker, method, question)).await;
        let answer = answer.map_err(|error| error.to_string());
        let answer = answer.and_then(|it| Answer::try_from(it).map_err(|error| error.to_string()));
        answer
            .inspect_err(|error| {
                let cluster = &service.cluster;
                if let Some(suppressed) = worker.log.admit() {
                    tracing::warn!(%cluster, error, suppressed, "a rate limit service did not answer");
                }
            })
            .ok()
    }

    fn limits_answered(
        &mut self,
        (filter, index): (&LimitService, usize),
        cluster: &Cluster,
        answer: Answer,
    ) -> Verdict {
        if !answer.metadata.is_empty() {
            let left = self.request.metadata.get_or_insert_default();
            for (key, value) in answer.metadata {
                left.set(&filter.namespace, &key, value);
            }
        }
        let stats = cluster.stats.worker(self.context.worker.index);
        match answer.is_over {
            true => stats.ratelimit.used().over_limit.inc(),
            false => stats.ratelimit.used().ok.inc(),
        }
        if answer.is_over {
            self.count_code(cluster, filter.status);
        }
        let is_refusal = answer.is_over && filter.enforced.hits();
        let mut headers = answer.response_headers;
        if answer.is_over && filter.tells_limited {
            headers.retain(|(name, _)| *name != LIMITED);
            headers.push((LIMITED, Bytes::from_static(b"true")));
        }
        tell_statuses(filter, &answer.statuses, is_refusal, &mut headers);
        self.filters.limits.push(LimitHeaders {
            filter: index,
            headers,
            is_refusal,
        });
        if is_refusal {
            return Verdict::Reply(refusal(filter, answer.body));
        }
        for (name, value) in answer.request_headers {
            self.request.headers.append(name, value);
        }
        Verdict::Pass
    }

    fn limits_unanswered(&self, filter: &LimitService, cluster: &Cluster) -> Verdict {
        let stats = cluster.stats.worker(self.context.worker.index);
        let stats = stats.ratelimit.used();
        stats.error.inc();
        if !filter.denied_on_error.hits() {
            stats.failure_mode_allowed.inc();
            return Verdict::Pass;
        }
        Verdict::Reply(LocalReply::new(
            filter.status_on_error,
            "",
            ResponseFlags::RATE_LIMIT_SERVICE_ERROR,
            "rate_limiter_error",
        ))
    }
}

/// Whether requests of its kind are asked about.
fn concerns(filter: &LimitService, request: &Request) -> bool {
    let internal = request.headers.get("x-envoy-internal");
    let is_internal = internal.is_some_and(|it| it == "true");
    match filter.concerns {
        Concerns::Internal => is_internal,
        Concerns::External => !is_internal,
        Concerns::Both => true,
    }
}

/// Adds what the client learns of the limits.
fn tell_statuses(
    filter: &LimitService,
    statuses: &[DescriptorStatus],
    is_refusal: bool,
    headers: &mut Vec<(HeaderName, Bytes)>,
) {
    if filter.tells_limits
        && let Some(limits) = answer::limits(statuses)
    {
        headers.extend(limits::headers(limits));
    }
    let has_reset = |(name, _): &(HeaderName, _)| *name == RETRY_AFTER;
    if is_refusal
        && filter.tells_reset
        && filter.status == TOO_MANY
        && !headers.iter().any(has_reset)
        && let Some(seconds) = answer::retry_after(statuses)
    {
        headers.push((RETRY_AFTER, seconds.to_string().into()));
    }
}

fn refusal(filter: &LimitService, body: Bytes) -> LocalReply {
    let mut reply = LocalReply::new(
        filter.status,
        "",
        ResponseFlags::RATE_LIMITED,
        "request_rate_limited",
    );
    reply.body = body;
    reply.grpc_status = filter
        .rate_limited_as_resource_exhausted
        .then_some(RESOURCE_EXHAUSTED);
    reply
}
