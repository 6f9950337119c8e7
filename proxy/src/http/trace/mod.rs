//! Spans of requests: whether a request has one (`decision`), where it comes from (`context`, `b3`), what it
//! tells (`tags`), and in which words (`otlp`, `zipkin`).
//!
//! Invariants: a connection manager without tracing pays for no more than checks; ids that came from a client have
//! their length or are not read; nobody waits for who is told of spans.

mod b3;
mod context;
mod copies;
mod decision;
mod otlp;
mod span;
mod tags;
#[cfg(test)]
mod tests;
mod tries;
mod zipkin;

pub(super) use copies::CopySpan;
pub(super) use decision::undecided;
pub(crate) use otlp::OtlpReport;
pub(super) use tries::TryEnd;
pub(crate) use zipkin::ZipkinReport;

use std::{borrow::Cow, rc::Rc};

use bytes::Bytes;
use ithildin_http1::Known;

use self::{
    decision::{Reason, decide},
    span::Span,
    tags::{Source, Tags},
    tries::Attempt,
};
use super::{exchange::Exchange, headers::Headers};
use crate::{
    access_log::{Entry, SpanIds, Template, Unset},
    config::{
        route::Route,
        trace::{Decorator, Dialect, Sampling, Tracer, Tracing},
    },
    worker::Worker,
};

/// What one side calls a request, told to the other.
const OPERATION: &str = "x-envoy-decorator-operation";

/// The spans of one request.
#[derive(Debug)]
pub(super) struct Trace {
    /// What was decided last.
    reason: Reason,
    /// Of the request. `None`: nobody is told of any, or what it tells of its own makes no sense.
    span: Option<Span>,
    /// Of the try that is under way, where tries have spans.
    attempt: Option<Box<Attempt>>,
    /// What the client is to call it.
    told_client: Option<Bytes>,
}

/// A span that is told of.
struct Ended<'s> {
    span: &'s Span,
    name: Cow<'s, str>,
    tags: Tags<'s>,
}

impl Ended<'_> {
    fn tell(&self, tracer: &Tracer, worker: &Rc<Worker>) {
        let Some(collector) = &tracer.collector else {
            return;
        };
        collector.tell(worker, |out| match &tracer.dialect {
            Dialect::OpenTelemetry { .. } => otlp::append(self, out),
            Dialect::Zipkin(zipkin) => zipkin::append(zipkin, self, out),
        });
    }
}

impl Trace {
    /// Whether somebody is told of it.
    pub(super) fn is_sampled(&self) -> bool {
        self.span.as_ref().is_some_and(|span| span.ids.sampled)
    }

    /// For logs.
    pub(super) fn ids(&self) -> Option<SpanIds> {
        self.span.as_ref().map(|span| span.ids)
    }

    fn call(&mut self, operation: &str) {
        if let Some(span) = &mut self.span {
            span.name = operation.into();
        }
    }
}

impl Exchange<'_> {
    /// The route is found: decides whether the request is traced.
    pub(super) fn begin_trace(&mut self, tracing: &Tracing) {
        let route = self.outcome.route.clone();
        let sampling = sampling(tracing, route.as_deref());
        let reason = decide(tracing, sampling, &mut self.request);
        let tracer = tracing.tracer.as_ref();
        let span = tracer.and_then(|tracer| {
            Span::of_request(tracing, &tracer.dialect, &self.request, reason.traces())
        });
        let mut trace = Box::new(Trace {
            reason,
            span,
            attempt: None,
            told_client: None,
        });
        let headers = &mut self.request.headers;
        let mut operation = operation(tracing, route.as_deref());
        if let Some(decorator) = operation {
            trace.call(&decorator.operation);
        }
        // The side that serves a request is told what the side that asks calls it.
        let is_named_here = is_named(tracing, route.as_deref());
        if !tracing.egress
            && !is_named_here
            && let Some(told) = headers.get(OPERATION).cloned()
        {
            if !told.is_empty() {
                trace.call(&String::from_utf8_lossy(&told));
                operation = None;
            }
            headers.remove(OPERATION);
        }
        if let Some(told) = operation.and_then(|decorator| decorator.told.clone()) {
            match tracing.egress {
                true => headers.set(Known::XEnvoy, OPERATION, told),
                false => trace.told_client = Some(told),
            }
        }
        self.trace = Some(trace);
    }

    /// A filter had the route found again: what was decided here is decided anew, as far as the id of the
    /// request does not tell of it already.
    pub(super) fn reroute_trace(&mut self, tracing: &Tracing, mut trace: Box<Trace>) {
        let route = self.outcome.route.clone();
        let sampling = sampling(tracing, route.as_deref());
        trace.reason = decide(tracing, sampling, &mut self.request);
        if let Some(span) = trace.span.as_mut().filter(|span| span.is_our_decision) {
            span.ids.sampled = trace.reason.traces();
        }
        let operation = operation(tracing, route.as_deref());
        if let Some(decorator) = operation {
            trace.call(&decorator.operation);
        }
        let told = operation.and_then(|decorator| decorator.told.clone());
        if !tracing.egress {
            trace.told_client = trace.told_client.and(told);
        } else if let Some(told) = told {
            self.request.headers.set(Known::XEnvoy, OPERATION, told);
        }
        self.trace = Some(trace);
    }

    /// The same for the head of a response, whoever made it.
    pub(super) fn name_by_response(&mut self, headers: &mut Headers) {
        let Some(tracing) = &self.context.manager.tracing else {
            return;
        };
        let trace = self.trace.as_deref_mut();
        if tracing.egress {
            let Some(told) = headers.get(OPERATION).cloned() else {
                return;
            };
            if let Some(trace) = trace.filter(|_| !told.is_empty()) {
                trace.call(&String::from_utf8_lossy(&told));
            }
            headers.remove(OPERATION);
        } else if let Some(told) = trace.and_then(|trace| trace.told_client.take()) {
            headers.set(Known::XEnvoy, OPERATION, told);
        }
    }

    /// Whether a route says what a span tells: it may be any header of the response.
    pub(super) fn span_tells_of_route(&self) -> bool {
        let is_sampled = self.trace.as_ref().is_some_and(|trace| trace.is_sampled());
        let route = self.outcome.route.as_ref().filter(|_| is_sampled);
        route.is_some_and(|route| route.tracing.is_some())
    }

    /// Counts what was decided last.
    pub(super) fn count_trace(&self) {
        if let Some(trace) = &self.trace {
            trace.reason.count(self.context.stats);
        }
    }

    /// The request is over.
    pub(super) fn end_trace(&self, entry: &Entry<'_>) {
        let span = self.trace.as_ref().and_then(|trace| trace.span.as_ref());
        let (Some(span), Some((tracing, tracer))) = (span, self.tracer()) else {
            return;
        };
        let source = self.tag_source(tracing, entry);
        let own = source.route.and_then(|route| route.tracing.as_ref());
        let own = own.and_then(|own| own.operation.as_ref());
        let ended = Ended {
            name: name(span, own.or(tracing.operation.as_ref()), entry),
            span,
            tags: Tags::of_request(&source),
        };
        ended.tell(tracer, self.context.worker);
    }

    fn tag_source<'t>(&'t self, tracing: &'t Tracing, entry: &'t Entry<'t>) -> Source<'t> {
        Source {
            tracing,
            route: self.outcome.route.as_deref(),
            cluster: self.outcome.target.as_deref(),
            entry,
        }
    }
}

impl<'x> Exchange<'x> {
    fn tracer(&self) -> Option<(&'x Tracing, &'x Tracer)> {
        let tracing = self.context.manager.tracing.as_deref()?;
        Some((tracing, tracing.tracer.as_deref()?))
    }
}

fn sampling<'c>(tracing: &'c Tracing, route: Option<&'c Route>) -> &'c Sampling {
    let own = route.and_then(|route| route.tracing.as_ref());
    own.map_or(&tracing.sampling, |own| &own.sampling)
}

/// Whether the configuration says what a span is called: then it is called so when it is over.
fn is_named(tracing: &Tracing, route: Option<&Route>) -> bool {
    let own = route.and_then(|route| route.tracing.as_ref());
    tracing.operation.is_some() || own.is_some_and(|own| own.operation.is_some())
}

/// What the route calls a request, if that counts.
fn operation<'r>(tracing: &Tracing, route: Option<&'r Route>) -> Option<&'r Decorator> {
    let decorator = route?.decorator.as_deref();
    decorator.filter(|_| !is_named(tracing, route))
}

/// What the configuration calls a span goes before all others.
fn name<'s>(span: &'s Span, template: Option<&Template>, entry: &Entry<'_>) -> Cow<'s, str> {
    let Some(template) = template else {
        return Cow::Borrowed(&span.name);
    };
    let mut name = Vec::new();
    template.render(entry, Unset::Empty, &mut name);
    Cow::Owned(String::from_utf8_lossy(&name).into_owned())
}
