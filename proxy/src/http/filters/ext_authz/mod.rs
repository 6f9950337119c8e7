//! `envoy.filters.http.ext_authz`: a service is asked about each request that the filter concerns.
//!
//! Invariants: a request passes only if the service says so, or if it cannot be asked and the
//! configuration lets requests pass then; an answer with a header that could not be sent is an error, and
//! not a part of it is used; what waits for answers is bounded in memory (`Worker::asked`), and what
//! does not fit counts as a service that cannot be asked.

mod decision;
mod effects;
pub(super) mod grpc;
mod plain;

use std::{future::poll_fn, pin::pin};

use self::decision::{Decision, Denial, Judgement};
use super::{Verdict, Way};
use crate::{
    access_log::ResponseFlags,
    config::{
        ext_authz::{AuthzService, BodySettings, CheckBody, ExtAuthz},
        filters::{FilterOverride, HttpFilter},
    },
    http::{
        body::Source,
        client::Client,
        exchange::Exchange,
        failure::LocalReply,
        race::Beside,
        request::{BodyLength, Request},
    },
};

pub(in crate::http) use self::decision::ResponseHeaders;

/// What is asked about one request.
struct Question {
    /// Of routes, for services of gRPC.
    context: Vec<(String, String)>,
    body: Option<CheckBody>,
}

impl Exchange<'_> {
    /// Asks about the request, if the filter concerns it. `next` is the index of the filter behind.
    pub(super) async fn ask_leave(
        &mut self,
        (filter, next): (&ExtAuthz, usize),
        question: (&Way<'_>, &HttpFilter),
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
    ) -> Verdict {
        let stats = filter.stats.worker(self.context.worker.index);
        if !concerns(filter, &self.request) {
            stats.disabled.inc();
            return match filter.deny_at_disable {
                true => Verdict::Reply(denied(filter.status_on_error, "ext_authz_error")),
                false => Verdict::Pass,
            };
        }
        let (way, named) = question;
        let question = Question::new(filter, way, named, &self.request);
        let held = match question.body {
            Some(body) => self.hold_body(body, source, client).await,
            None => Ok(true),
        };
        let asked = match held {
            Ok(true) => {
                let asking = self.decision(filter, &question, source.ahead());
                let mut gone = pin!(poll_fn(|cx| client.poll_gone(cx)));
                let mut gone = Beside::new(gone.as_mut());
                match gone.with(pin!(asking), |()| true).await {
                    Some(judgement) => judgement,
                    None => return Verdict::Gone,
                }
            }
            Ok(false) => Decision::Error(None).into(),
            Err(verdict) => return verdict,
        };
        self.decided(filter, next, asked)
    }

    async fn decision(&self, filter: &ExtAuthz, question: &Question, body: &[u8]) -> Judgement {
        let worker = self.context.worker;
        let decision = match &filter.service {
            AuthzService::Grpc(service) => {
                let attributes = self.attributes(filter, question, body);
                let answer = Box::pin(crate::ext_authz::check(worker, service, attributes));
                answer
                    .await
                    .map_err(|error| error.to_string())
                    .map(decision::of_grpc)
            }
            AuthzService::Http(service) => {
                let answer = Box::pin(self.ask_plainly(filter, service, question, body));
                answer
                    .await
                    .map_err(|error| error.to_string())
                    .map(|answer| decision::of_http(service, answer))
            }
        };
        decision.unwrap_or_else(|error| {
            let cluster = filter.service.cluster();
            if let Some(suppressed) = worker.log.admit() {
                tracing::warn!(%cluster, error, suppressed, "an authorization service did not answer");
            }
            Decision::Error(None).into()
        })
    }

    fn decided(&mut self, filter: &ExtAuthz, next: usize, judgement: Judgement) -> Verdict {
        let Judgement { decision, metadata } = judgement;
        self.leave_metadata(filter, metadata);
        let stats = filter.stats.worker(self.context.worker.index);
        match decision {
            Decision::Allowed(allowance) => {
                let reroutes = filter.clear_route_cache && allowance.changes_request();
                self.allow(next - 1, *allowance);
                stats.ok.inc();
                match reroutes {
                    true => Verdict::Reroute(next),
                    false => Verdict::Pass,
                }
            }
            Decision::Denied(denial) => {
                stats.denied.inc();
                Verdict::Reply(refusal(filter, *denial, 403, "ext_authz_denied"))
            }
            Decision::Invalid => {
                stats.invalid.inc();
                Verdict::Reply(denied(500, "ext_authz_invalid"))
            }
            Decision::Error(denial) => {
                stats.error.inc();
                if filter.failure_mode_allow {
                    stats.failure_mode_allowed.inc();
                    self.tell_of_failure(filter);
                    return Verdict::Pass;
                }
                let denial = denial.map_or_else(Denial::default, |it| *it);
                let status = filter.status_on_error;
                Verdict::Reply(refusal(filter, denial, status, "ext_authz_error"))
            }
        }
    }
}

/// Whether the service is to be asked about this request.
fn concerns(filter: &ExtAuthz, request: &Request) -> bool {
    let metadata = request.metadata.as_deref();
    let matcher = filter.enabled_metadata.as_ref();
    filter.enabled.hits() && matcher.is_none_or(|it| it.admits(metadata))
}

/// `status` is for a denial that has none of its own.
fn refusal(filter: &ExtAuthz, denial: Denial, status: u16, details: &'static str) -> LocalReply {
    let mut reply = denied(denial.status.unwrap_or(status), details);
    reply.body = denial.body;
    if let Some(most) = filter.max_denied_body {
        reply.body.truncate(most);
    }
    reply.headers = denial.headers;
    reply
}

fn denied(status: u16, details: &'static str) -> LocalReply {
    let flags = ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE;
    LocalReply::new(status, "", flags, details)
}

impl Question {
    fn new(filter: &ExtAuthz, way: &Way<'_>, named: &HttpFilter, request: &Request) -> Self {
        let mut context: Vec<(String, String)> = Vec::new();
        let mut body = None;
        // The most specific level first: its word on bodies counts, and its keys come before others.
        for settings in way.overrides(named) {
            let FilterOverride::ExtAuthz(settings) = settings else {
                continue;
            };
            body.get_or_insert(settings.body);
            for (key, value) in &settings.context_extensions {
                if !context.iter().any(|(known, _)| known == key) {
                    context.push((key.clone(), value.clone()));
                }
            }
        }
        let body = match body.unwrap_or_default() {
            BodySettings::OfFilter => filter.body,
            BodySettings::Own(body) => Some(body),
            BodySettings::None => None,
        };
        let has_body = request.body != BodyLength::Empty && request.upgrade.is_none();
        Self {
            context,
            body: body.filter(|_| has_body),
        }
    }
}
