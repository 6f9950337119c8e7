//! One span: made when its work begins, told when that is over.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use super::{
    b3,
    context::{self, Extracted, Parent},
};
use crate::{
    access_log::SpanIds,
    config::trace::{Dialect, Tracing, Zipkin},
    http::{headers::Headers, request::Request},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Server,
    Client,
}

#[derive(Debug)]
pub(super) struct Span {
    pub(super) ids: SpanIds,
    pub(super) parent: Option<u64>,
    /// Whether the parent is another hop's.
    pub(super) has_remote_parent: bool,
    /// Whether nobody but this hop decided that somebody is told of it, or nobody.
    pub(super) is_our_decision: bool,
    /// `tracestate`, as it came.
    pub(super) state: Option<Bytes>,
    pub(super) kind: Kind,
    pub(super) name: Box<str>,
    pub(super) started: SystemTime,
    since: Instant,
}

impl Span {
    /// Of a request that came; `None` if nobody can make sense of what it tells of its own. `traced` is
    /// what was decided here, which counts where nobody did before.
    pub(super) fn of_request(
        tracing: &Tracing,
        dialect: &Dialect,
        request: &Request,
        traced: bool,
    ) -> Option<Self> {
        let host = || String::from_utf8_lossy(&request.authority).into_owned();
        match dialect {
            Dialect::OpenTelemetry { samples_all } => {
                let kind = kind(tracing.own_hop, tracing.egress);
                let name = match tracing.egress {
                    true => format!("egress {}", host()),
                    false => "ingress".to_owned(),
                };
                let mut span = match context::read(&request.headers) {
                    Extracted::Nothing => Self::root(new_trace_id(), random(), traced, kind, name),
                    Extracted::Parent(parent) => Self::remote(&parent, kind, name),
                    Extracted::Nonsense => return None,
                };
                span.ids.sampled = traced && (span.ids.sampled || *samples_all);
                span.is_our_decision = span.parent.is_none() && !samples_all;
                Some(span)
            }
            Dialect::Zipkin(zipkin) => {
                let kind = kind(tracing.own_hop || zipkin.own_hop, tracing.egress);
                let parent = zipkin_parent(zipkin, &request.headers, traced);
                match parent {
                    (Extracted::Nonsense, _) => None,
                    (Extracted::Nothing, sampled) => {
                        let id = random();
                        let trace = zipkin_trace_id(zipkin, id);
                        let is_told = b3::sampled(&request.headers).is_some();
                        Some(Self {
                            is_our_decision: !is_told,
                            ..Self::root(trace, id, sampled, kind, host())
                        })
                    }
                    (Extracted::Parent(parent), _) => {
                        let shares = zipkin.shares_context && kind == Kind::Server;
                        Some(match shares {
                            true => Self::shared(&parent, kind, host()),
                            false => Self::remote(&parent, kind, host()),
                        })
                    }
                }
            }
        }
    }

    /// Of a try, or of a request of our own.
    pub(super) fn child(&self, name: String) -> Self {
        let parent = Parent {
            ids: self.ids,
            parent: self.parent,
            state: self.state.clone(),
        };
        Self::below(&parent, Kind::Client, name)
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Tells the upstream of it.
    pub(super) fn tell(&self, dialect: &Dialect, headers: &mut Headers) {
        match dialect {
            Dialect::OpenTelemetry { .. } => {
                context::write(&self.ids, headers);
                context::write_state(self.state.as_ref(), headers);
            }
            Dialect::Zipkin(zipkin) => {
                b3::write(&self.ids, self.parent, headers);
                if zipkin.speaks_w3c {
                    context::write(&self.ids, headers);
                }
            }
        }
    }

    fn root(trace: u128, span: u64, sampled: bool, kind: Kind, name: String) -> Self {
        let ids = SpanIds {
            trace,
            span,
            sampled,
            wide: b3::is_wide(trace),
        };
        Self::new(ids, None, kind, name)
    }

    fn remote(parent: &Parent, kind: Kind, name: String) -> Self {
        Self {
            has_remote_parent: true,
            ..Self::below(parent, kind, name)
        }
    }

    fn below(parent: &Parent, kind: Kind, name: String) -> Self {
        let ids = SpanIds {
            span: random(),
            ..parent.ids
        };
        let mut span = Self::new(ids, Some(parent.ids.span), kind, name);
        span.state.clone_from(&parent.state);
        span
    }

    fn shared(parent: &Parent, kind: Kind, name: String) -> Self {
        let mut span = Self::new(parent.ids, parent.parent, kind, name);
        span.state.clone_from(&parent.state);
        span
    }

    fn new(ids: SpanIds, parent: Option<u64>, kind: Kind, name: String) -> Self {
        Self {
            ids,
            parent,
            has_remote_parent: false,
            is_our_decision: false,
            state: None,
            kind,
            name: name.into(),
            started: SystemTime::now(),
            since: Instant::now(),
        }
    }
}

/// Where this proxy is a hop of its own, it serves; else it does so for who is behind it, or asks for
/// who is before it.
fn kind(own_hop: bool, egress: bool) -> Kind {
    match egress && !own_hop {
        true => Kind::Client,
        false => Kind::Server,
    }
}

/// What came in Zipkin's words, and whether the request is traced.
fn zipkin_parent(zipkin: &Zipkin, headers: &Headers, traced: bool) -> (Extracted, bool) {
    let asks_w3c = zipkin.speaks_w3c && !b3::is_single(headers);
    let w3c = asks_w3c.then(|| context::read(headers));
    let by_w3c = match &w3c {
        Some(Extracted::Parent(parent)) => Some(parent.ids.sampled),
        _ => None,
    };
    let sampled = b3::sampled(headers).or(by_w3c).unwrap_or(traced);
    match (b3::read(headers, sampled), w3c) {
        (Extracted::Nothing, Some(Extracted::Parent(parent))) => {
            (Extracted::Parent(parent), sampled)
        }
        (told, _) => (told, sampled),
    }
}

fn zipkin_trace_id(zipkin: &Zipkin, low: u64) -> u128 {
    let timed = |random: u64| {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        now.as_secs() << 32 | random & u64::from(u32::MAX)
    };
    match (zipkin.wide_ids, zipkin.timed_ids) {
        (false, false) => low.into(),
        (false, true) => timed(low).into(),
        (true, false) => u128::from(random()) << 64 | u128::from(low),
        (true, true) => u128::from(timed(random())) << 64 | u128::from(low),
    }
}

fn new_trace_id() -> u128 {
    u128::from(random()) << 64 | u128::from(random())
}

/// An id is never zero.
fn random() -> u64 {
    fastrand::u64(1..)
}
