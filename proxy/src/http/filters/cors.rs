//! `envoy.filters.http.cors`: which pages of other origins may read our answers.
//!
//! Where several levels of a route configuration have a policy, each of its parts is the most
//! specific level's that has it.

use bytes::Bytes;
use http::{HeaderName, header};
use ithildin_http1::Known;
use smallvec::SmallVec;

use super::{Way, is_preflight};
use crate::{
    access_log::ResponseFlags,
    config::filters::{CorsPolicy, FilterOverride, HttpFilter},
    http::{exchange::Exchange, failure::LocalReply, headers::Headers},
};

const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const ALLOW_CREDENTIALS: &str = "access-control-allow-credentials";
const EXPOSE_HEADERS: &str = "access-control-expose-headers";

const ALLOW_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");

const TRUE: Bytes = Bytes::from_static(b"true");

/// What the response to a page of an allowed origin says.
#[derive(Debug)]
pub(super) struct CorsAnswer {
    origin: Bytes,
    credentials: bool,
    expose: Option<Bytes>,
}

/// The most specific first.
type Policies<'p> = SmallVec<[&'p CorsPolicy; 2]>;

impl Exchange<'_> {
    /// Answers preflights; remembers what the response is to say.
    pub(super) fn cors(&mut self, way: &Way<'_>, filter: &HttpFilter) -> Result<(), LocalReply> {
        // Routes that answer themselves have no policy, as in Envoy.
        if way.cluster.is_none() {
            return Ok(());
        }
        let policies: Policies<'_> = way
            .overrides(filter)
            .filter_map(|own| match own {
                FilterOverride::Cors(policy) => Some(policy),
                _ => None,
            })
            .collect();
        let Some(first) = policies.first() else {
            return Ok(());
        };
        let headers = &self.request.headers;
        let origin = headers.get("origin").filter(|origin| !origin.is_empty());
        let Some(origin) = origin.filter(|_| first.enabled.hits()).cloned() else {
            return Ok(());
        };
        let is_preflight = is_preflight(&self.request);
        let allowed = is_allowed(&policies, &origin);
        match allowed {
            true => self.context.stats.cors_origin_valid.inc(),
            false => self.context.stats.cors_origin_invalid.inc(),
        }
        if allowed {
            self.filters.cors = Some(Box::new(CorsAnswer {
                origin,
                credentials: credentials(&policies),
                expose: policies.iter().find_map(|it| it.expose.clone()),
            }));
        }
        let forwards = policies.iter().find_map(|it| it.forward_unmatched);
        if !is_preflight || (!allowed && forwards.unwrap_or(true)) {
            return Ok(());
        }
        Err(self.preflight(&policies))
    }

    /// The answer to a preflight. Whether the origin is allowed is added with the response's own
    /// headers.
    fn preflight(&self, policies: &Policies<'_>) -> LocalReply {
        type Part = fn(&CorsPolicy) -> Option<&Bytes>;
        let parts: [(HeaderName, Part); 3] = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, |it| {
                it.methods.as_ref()
            }),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, |it| {
                it.headers.as_ref()
            }),
            (header::ACCESS_CONTROL_MAX_AGE, |it| it.max_age.as_ref()),
        ];
        let mut answer = Vec::new();
        if credentials(policies) {
            answer.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE));
        }
        for (name, part) in parts {
            let value = policies.iter().find_map(|it| part(it));
            answer.extend(value.map(|value| (name, value.clone())));
        }
        let asked = self
            .request
            .headers
            .get("access-control-request-private-network");
        let private = policies.iter().find_map(|it| it.private_network);
        if private.unwrap_or(false) && asked.is_some_and(|it| &it[..] == b"true") {
            answer.push((ALLOW_PRIVATE_NETWORK, TRUE));
        }
        let mut reply = LocalReply::new(200, "", ResponseFlags::NONE, "cors_response");
        reply.headers = answer;
        reply.is_bare = true;
        reply
    }

    /// Tells the page's browser that it may read the response.
    pub(super) fn allow_origin(&self, headers: &mut Headers) {
        let Some(answer) = &self.filters.cors else {
            return;
        };
        headers.set(Known::Other, ALLOW_ORIGIN, answer.origin.clone());
        if answer.credentials {
            headers.set(Known::Other, ALLOW_CREDENTIALS, "true");
        }
        if let Some(expose) = &answer.expose {
            headers.set(Known::Other, EXPOSE_HEADERS, expose.clone());
        }
    }
}

fn is_allowed(policies: &Policies<'_>, origin: &[u8]) -> bool {
    let origins = policies.iter().map(|it| &it.origins);
    let origins = origins.into_iter().find(|origins| !origins.is_empty());
    origins.is_some_and(|origins| {
        let mut origins = origins.iter();
        origins.any(|it| it.admits(b"*") || it.admits(origin))
    })
}

fn credentials(policies: &Policies<'_>) -> bool {
    let said = policies.iter().find_map(|it| it.credentials);
    said.unwrap_or(false)
}
