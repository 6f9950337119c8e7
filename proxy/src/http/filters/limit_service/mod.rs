//! `envoy.filters.http.ratelimit`: a service is asked whether a request is one too many.
//!
//! Invariants: a request of which there is no descriptor is not asked about; a service that cannot be
//! asked, or whose answer has a header that could not be sent, is an error, for which the configuration
//! says what becomes of requests; what waits for answers is bounded in memory (`Worker::asked`), and what
//! does not fit is such an error, too.

mod answer;
mod descriptors;
#[cfg(test)]
mod tests;

use std::{future::poll_fn, pin::pin};

use bytes::Bytes;
use http::{
    HeaderName,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use ithildin_http1::Known;
use ithildin_proto::pb::envoy::service::ratelimit::v3::{
    RateLimitRequest, RateLimitResponse, rate_limit_response::DescriptorStatus,
};

use self::{
    answer::Answer,
    descriptors::{Facts, descriptor},
};
use super::{Verdict, Way};
use crate::{
    access_log::ResponseFlags,
    config::{
        Cluster,
        limit_rules::LimitRule,
        limit_service::{Concerns, HostRules, LimitService, LimitServiceRoute},
        route::RouteAction,
    },
    http::{
        client::Client, exchange::Exchange, failure::LocalReply, grpc::Method, headers::Headers,
        prepare, race::Beside, request::Request, unary,
    },
};

/// gRPC's code for it.
const RESOURCE_EXHAUSTED: u32 = 8;

/// The only status that `retry-after` goes with.
const TOO_MANY: u16 = 429;

const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

const LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

const LIMITS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];

/// What a filter adds to a response.
#[derive(Debug)]
pub(in crate::http) struct Told {
    /// Its index.
    filter: usize,
    headers: Vec<(HeaderName, Bytes)>,
    /// It refused the request.
    is_refusal: bool,
}

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
        let context = self.context;
        let told = prepare::told_address(context.manager, &self.request.headers);
        let facts = Facts {
            request: &self.request,
            remote: told.unwrap_or(context.connection.remote.ip()),
            cluster: &cluster.name,
            own_cluster: &filter.own_cluster,
        };
        let rules = self.rules(filter, own);
        let domain = own.and_then(|it| it.domain.as_ref());
        RateLimitRequest {
            domain: domain.unwrap_or(&filter.domain).to_string(),
            descriptors: rules.filter_map(|rule| descriptor(rule, &facts)).collect(),
            hits_addend: 0,
        }
    }

    /// The rules that count for this request, in the order of their descriptors.
    fn rules<'r>(
        &'r self,
        filter: &'r LimitService,
        own: Option<&'r LimitServiceRoute>,
    ) -> impl Iterator<Item = &'r LimitRule> {
        let instead = own.map(|it| &it.rules[..]).filter(|it| !it.is_empty());
        let instead = instead.or(Some(&filter.rules[..]).filter(|it| !it.is_empty()));
        let of_route = match instead {
            Some(_) => [&[][..]; 2],
            None => self.rules_of_route(own.map(|it| it.host_rules).unwrap_or_default()),
        };
        let of_route = of_route.into_iter().flatten();
        let of_route = of_route.filter(|rule| rule.stage == filter.stage);
        instead.unwrap_or_default().iter().chain(of_route)
    }

    /// Of the route, and of its virtual host.
    fn rules_of_route(&self, host_rules: HostRules) -> [&[LimitRule]; 2] {
        let (Some(route), Some((table, host))) = (&self.outcome.route, &self.outcome.host) else {
            return [&[]; 2];
        };
        let RouteAction::Forward(forward) = &route.action else {
            return [&[]; 2];
        };
        let of_host = match host_rules {
            _ if forward.includes_host_limits => true,
            HostRules::Override => forward.limits.is_empty(),
            HostRules::Include => true,
            HostRules::Ignore => false,
        };
        let of_host = of_host.then(|| &table.hosts[*host].limits[..]);
        [&forward.limits, of_host.unwrap_or_default()]
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
        self.filters.limits.push(Told {
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

    /// Adds what the filter's service has for the response.
    pub(super) fn tell_limits(
        &mut self,
        (filter, index): (&LimitService, usize),
        headers: &mut Headers,
    ) {
        let limits = &mut self.filters.limits;
        let Some(at) = limits.iter().position(|told| told.filter == index) else {
            return;
        };
        let told = limits.remove(at);
        for (name, value) in told.headers {
            match (name == CONTENT_TYPE, told.is_refusal) {
                (false, _) => headers.append(name, value),
                // What gRPC makes of the answer stays.
                (true, true) if self.request.is_grpc() => {}
                (true, true) => headers.set(Known::ContentType, "content-type", value),
                // There is one alone, in Envoy with both.
                (true, false) => {
                    let before = headers.joined("content-type");
                    let list = before.into_iter().chain([value]);
                    let list = list.collect::<Vec<_>>().join(&b","[..]);
                    headers.set(Known::ContentType, "content-type", list);
                }
            }
        }
        if told.is_refusal {
            self.mutate_response(&filter.response_headers_to_add, headers);
        }
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
        let limits = LIMITS.into_iter().zip(limits);
        headers.extend(limits.map(|(name, value)| (name, value.into())));
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
