//! Spans of tries, where each has one of its own, and what upstreams are told of spans.

use super::{
    Ended, Exchange, name,
    span::Span,
    tags::{Tags, Try},
};
use crate::{
    access_log::ResponseFlags,
    config::Cluster,
    http::{client::Response, exchange::Broken, headers::Headers, request::BodyLength},
};

/// The span of one try.
#[derive(Debug)]
pub(super) struct Attempt {
    span: Span,
    /// How many there were before it.
    retry: u32,
    /// Of its response: the status, and what a span tells of the head.
    status: Option<u16>,
    headers: Headers,
    is_whole: bool,
}

/// How a try ended.
#[derive(Clone, Copy)]
pub(in crate::http) struct TryEnd {
    flags: ResponseFlags,
    why: Why,
}

/// Why a try brought no whole response, if it did not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Answered,
    /// There was no host to try.
    NoHost,
    /// There was no connection, for this reason.
    NoConnection(&'static str),
    /// The upstream broke it off.
    Broken(&'static str),
    /// We did.
    Cancelled,
}

impl TryEnd {
    pub(in crate::http) fn of(result: Result<(), &Broken>) -> Self {
        let none = ResponseFlags::NONE;
        let (flags, why) = match result {
            Ok(()) => (none, Why::Answered),
            Err(Broken::Refused | Broken::Client | Broken::BadRequest(_)) => (none, Why::Cancelled),
            Err(Broken::Slow) => (ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, Why::Cancelled),
            Err(Broken::Unavailable(failure)) if failure.endpoint.is_none() => {
                (failure.kind.flags(), Why::NoHost)
            }
            Err(Broken::Unavailable(failure)) => {
                let kind = failure.kind;
                (kind.flags(), Why::NoConnection(kind.reset_reason()))
            }
            Err(Broken::BeforeResponse { reply, .. }) => (reply.flags, broken(reply.flags)),
            Err(Broken::Midway(flags, _)) => (*flags, broken(*flags)),
        };
        Self { flags, why }
    }
}

/// Envoy's words.
fn broken(flags: ResponseFlags) -> Why {
    Why::Broken(
        if flags.intersects(ResponseFlags::UPSTREAM_PROTOCOL_ERROR) {
            "protocol error"
        } else if flags.intersects(ResponseFlags::UPSTREAM_REMOTE_RESET) {
            "remote reset"
        } else {
            "connection termination"
        },
    )
}

impl Exchange<'_> {
    /// A try begins: its upstream is told of its span, or of the request's.
    pub(in crate::http) fn begin_try_span(&mut self, cluster: &Cluster) {
        let Some((tracing, tracer)) = self.tracer() else {
            return;
        };
        let Some(trace) = self.trace.as_deref_mut() else {
            return;
        };
        let Some(span) = &trace.span else {
            return;
        };
        if tracing.upstream_spans {
            trace.attempt = Some(Box::new(Attempt {
                span: span.child(match span.ids.sampled {
                    true => format!("router {} egress", cluster.stat_name),
                    false => String::new(),
                }),
                retry: self.outcome.attempts.saturating_sub(1),
                status: None,
                headers: Headers::default(),
                is_whole: false,
            }));
        }
        if tracing.propagates {
            let told = trace.attempt.as_ref().map_or(span, |attempt| &attempt.span);
            told.tell(&tracer.dialect, &mut self.request.headers);
        }
    }

    /// The upstream answers a try.
    pub(in crate::http) fn try_is_answered(&mut self, answer: &Response) {
        let wanted = &self.context.manager.access_log.needs().response_headers;
        let trace = self.trace.as_deref_mut();
        let attempt = trace.and_then(|trace| trace.attempt.as_mut());
        if let Some(attempt) = attempt.filter(|it| it.span.ids.sampled) {
            attempt.status = Some(answer.status);
            attempt.headers = answer.headers.only(wanted);
            attempt.is_whole = answer.body == BodyLength::Empty;
        }
    }

    /// A try is over.
    pub(in crate::http) fn end_try_span(&mut self, end: TryEnd) {
        let trace = self.trace.as_deref_mut();
        let Some(attempt) = trace.and_then(|trace| trace.attempt.take()) else {
            return;
        };
        let Some((tracing, tracer)) = self.tracer() else {
            return;
        };
        if !attempt.span.ids.sampled || end.why == Why::NoHost {
            return;
        }
        let trailers = self.meter.kept_trailers();
        // As in Envoy: a response that is its head ends its try before it is the request's.
        let response = (!attempt.is_whole).then_some(&self.outcome.response_headers);
        let entry = self.entry(response);
        let source = self.tag_source(tracing, &entry);
        let own = source.route.and_then(|route| route.tracing.as_ref());
        let own = own.and_then(|own| own.upstream_operation.as_ref());
        let connected = !matches!(end.why, Why::NoConnection(_));
        let told = Try {
            retry: attempt.retry,
            protocol: entry.upstream.protocol.filter(|_| connected),
            status: attempt.status,
            flags: end.flags,
            answer: [&attempt.headers, &trailers],
        };
        let mut tags = Tags::of_try(&source, &told);
        match end.why {
            Why::NoConnection(reason) | Why::Broken(reason) => tags.is_broken(reason),
            Why::Cancelled if !attempt.is_whole => tags.is_cancelled(),
            Why::Cancelled | Why::Answered | Why::NoHost => {}
        }
        let ended = Ended {
            name: name(
                &attempt.span,
                own.or(tracing.upstream_operation.as_ref()),
                &entry,
            ),
            span: &attempt.span,
            tags,
        };
        ended.tell(tracer, self.context.worker);
    }

    /// A request that is over in the middle of a try.
    pub(in crate::http) fn end_last_try_span(&mut self) {
        self.end_try_span(TryEnd {
            flags: ResponseFlags::NONE,
            why: Why::Cancelled,
        });
    }
}
