//! What the filters that limit rates have in common: which rules count for a request, and what is added to
//! its response.

use bytes::Bytes;
use http::{HeaderName, header::CONTENT_TYPE};
use ithildin_http1::Known;

use super::descriptors::Facts;
use crate::{
    config::{
        limit_rules::{HostRules, LimitRule},
        route::RouteAction,
    },
    http::{exchange::Exchange, headers::Headers, prepare},
};

/// Of draft-polli-ratelimit-headers-03.
const HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];

/// What a filter adds to a response.
#[derive(Debug)]
pub(super) struct LimitHeaders {
    /// Its index.
    pub(super) filter: usize,
    pub(super) headers: Vec<(HeaderName, Bytes)>,
    /// It refused the request.
    pub(super) is_refusal: bool,
}

/// The limit, what is left of it, and the seconds until there is more, as headers.
pub(super) fn headers(limits: [String; 3]) -> impl Iterator<Item = (HeaderName, Bytes)> {
    HEADERS.into_iter().zip(limits.map(Bytes::from))
}

impl Exchange<'_> {
    /// What descriptors of the request are made of.
    pub(super) fn limit_facts<'f>(&'f self, cluster: &'f str, own_cluster: &'f str) -> Facts<'f> {
        let context = self.context;
        let told = prepare::told_address(context.manager, &self.request.headers);
        Facts {
            request: &self.request,
            remote: told.unwrap_or(context.connection.remote.ip()),
            cluster,
            own_cluster,
        }
    }

    /// The rules that count for this request, in the order of their descriptors: a filter's, if it has any, or
    /// those of its stage of the route and its virtual host.
    pub(super) fn limit_rules<'r>(
        &'r self,
        of_filter: &'r [LimitRule],
        stage: u32,
        host_rules: HostRules,
    ) -> impl Iterator<Item = &'r LimitRule> {
        let of_route = match of_filter {
            [] => self.rules_of_route(host_rules),
            _ => [&[][..]; 2],
        };
        let of_route = of_route.into_iter().flatten();
        let of_route = of_route.filter(move |rule| rule.stage == stage);
        of_filter.iter().chain(of_route)
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

    /// Adds to the response what the filter of that index has for it; whether that refused the request.
    pub(super) fn tell_limits(&mut self, index: usize, headers: &mut Headers) -> bool {
        let limits = &mut self.filters.limits;
        let Some(at) = limits.iter().position(|told| told.filter == index) else {
            return false;
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
        told.is_refusal
    }
}
