//! What one request moved, and when: for its access log line.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{body::Part, headers::Headers, messages::Messages, wire::Wire};
use crate::{
    access_log::{AccessLogs, Bytes, Durations, Heads},
    istio::telemetry::Series,
};

/// Counts one request while it passes. Times, heads and trailers are taken only where a log or a span tells of them.
pub(super) struct Meter<'x> {
    logs: &'x AccessLogs,
    pub(super) started: Instant,
    received: Cell<u64>,
    sent: Cell<u64>,
    times: RefCell<Durations>,
    heads: Cell<Heads>,
    /// Of the response: those that a log asks for.
    trailers: RefCell<Headers>,
    /// Bytes with heads and framing: received from there, sent there.
    pub(super) downstream_wire: Cell<Option<(u64, u64)>>,
    pub(super) upstream_wire: Cell<Option<(u64, u64)>>,
    /// Of a gRPC request whose messages somebody counts.
    messages: RefCell<Option<Box<Messages>>>,
}

/// Takes the bytes of an upstream connection when its use ends, however it ends.
pub(super) struct WireCount<'m, 'w> {
    pub(super) meter: &'m Meter<'m>,
    pub(super) wire: &'m Wire<'w>,
}

impl Drop for WireCount<'_, '_> {
    fn drop(&mut self) {
        // What was read ahead of need belongs to a response that makes no sense.
        let ahead = self.wire.with_buffer(|buffer| buffer.len()) as u64;
        let (received, sent) = self.wire.passed();
        self.meter.upstream_wire.set(Some((received + ahead, sent)));
    }
}

impl<'x> Meter<'x> {
    pub(super) fn start(logs: &'x AccessLogs) -> Self {
        Self {
            logs,
            started: Instant::now(),
            received: Cell::new(0),
            sent: Cell::new(0),
            times: RefCell::default(),
            heads: Cell::default(),
            trailers: RefCell::default(),
            downstream_wire: Cell::new(None),
            upstream_wire: Cell::new(Some((0, 0))),
            messages: RefCell::default(),
        }
    }

    /// The last of the request came with its head.
    pub(super) fn request_is_whole(&self) {
        self.stamp(|times| &mut times.request);
    }

    /// A part of the request came from the client.
    pub(super) fn request_part(&self, part: &Part) {
        if let Part::Data(data) = part {
            add(&self.received, data.len() as u64);
            self.with_messages(|messages| messages.request_part(data));
        }
        self.stamp(|times| &mut times.request);
    }

    /// A try has a connection, and is about to send the request. The last try counts.
    pub(super) fn request_is_sending(&self) {
        self.stamp(|times| &mut times.request_sending);
    }

    /// All of the request is on its way to the upstream.
    pub(super) fn request_is_sent(&self) {
        self.stamp(|times| &mut times.request_sent);
    }

    /// The upstream answers.
    pub(super) fn response_begins(&self) {
        self.stamp(|times| &mut times.response);
    }

    /// The head of the response is on its way to the client.
    pub(super) fn response_is_sending(&self) {
        self.stamp(|times| &mut times.response_sending);
    }

    /// The upstream has answered whole.
    pub(super) fn response_is_received(&self) {
        self.stamp(|times| &mut times.response_received);
    }

    /// A part of the response is on its way to the client.
    pub(super) fn response_part(&self, part: &Part) {
        match part {
            Part::Data(data) => {
                add(&self.sent, data.len() as u64);
                self.with_messages(|messages| messages.response_part(data));
            }
            Part::End(trailers) => {
                if let Some(status) = trailers.get("grpc-status") {
                    self.grpc_status(status);
                }
                let wanted = &self.logs.needs().response_trailers;
                if !wanted.is_empty() && !trailers.is_empty() {
                    self.trailers.replace(trailers.only(wanted));
                }
            }
        }
    }

    pub(super) fn response_is_sent(&self) {
        self.stamp(|times| &mut times.response_sent);
    }

    /// Bytes of a tunnel: from the client, and to it.
    pub(super) fn tunnelled(&self, received: u64, sent: u64) {
        add(&self.received, received);
        add(&self.sent, sent);
    }

    /// From now on messages of gRPC are counted.
    pub(super) fn count_messages(&self) {
        self.messages.replace(Some(Box::default()));
    }

    pub(super) fn counts_messages(&self) -> bool {
        self.messages.borrow().is_some()
    }

    /// What the response says in `grpc-status`.
    pub(super) fn grpc_status(&self, status: &[u8]) {
        let status = std::str::from_utf8(status).ok();
        let status = status.and_then(|status| status.parse().ok());
        self.with_messages(|messages| messages.status = status);
    }

    pub(super) fn told_grpc_status(&self) -> Option<u32> {
        self.messages.borrow().as_ref()?.status
    }

    /// Where messages are counted.
    pub(super) fn report_messages(&self, series: Arc<Series>) {
        self.with_messages(|messages| messages.report(series));
    }

    fn with_messages(&self, then: impl FnOnce(&mut Messages)) {
        if let Some(messages) = &mut *self.messages.borrow_mut() {
            then(messages);
        }
    }

    pub(super) fn trailers(&self) -> Headers {
        self.trailers.take()
    }

    /// Those that came so far.
    pub(super) fn kept_trailers(&self) -> Headers {
        self.trailers.borrow().clone()
    }

    pub(super) fn bytes(&self) -> Bytes {
        let (downstream, upstream) = (self.downstream_wire.get(), self.upstream_wire.get());
        Bytes {
            received: self.received.get(),
            sent: self.sent.get(),
            upstream_received: upstream.map(|(received, _)| received),
            upstream_sent: upstream.map(|(_, sent)| sent),
            downstream_received: downstream.map(|(received, _)| received),
            downstream_sent: downstream.map(|(_, sent)| sent),
        }
    }

    pub(super) fn heads(&self) -> Heads {
        self.heads.get()
    }

    /// Only where a log asks for it.
    pub(super) fn note_heads(&self, note: impl FnOnce(&mut Heads)) {
        if self.logs.needs().heads {
            let mut heads = self.heads.get();
            note(&mut heads);
            self.heads.set(heads);
        }
    }

    pub(super) fn durations(&self) -> Durations {
        Durations {
            total: Some(self.started.elapsed()),
            ..*self.times.borrow()
        }
    }

    fn stamp(&self, field: impl FnOnce(&mut Durations) -> &mut Option<Duration>) {
        if self.logs.needs().times {
            *field(&mut self.times.borrow_mut()) = Some(self.started.elapsed());
        }
    }
}

fn add(cell: &Cell<u64>, count: u64) {
    cell.set(cell.get() + count);
}
