//! What an access log line, or a header template, prints of a request.

use std::{net::SocketAddr, time::SystemTime};

use super::{exchange::Exchange, headers::Headers, prepare, request::Protocol};
use crate::{
    access_log::{self, Entry, Occasion, ResponseFlags, Upstream, UpstreamHost},
    config::cluster::{Endpoint, EndpointAddress},
};

impl access_log::Headers for Headers {
    fn get(&self, name: &str) -> Option<&[u8]> {
        Self::get(self, name).map(|value| &value[..])
    }

    fn joined(&self, name: &str) -> Option<Vec<u8>> {
        Self::joined(self, name).map(Into::into)
    }
}

impl Exchange<'_> {
    /// The request as it is now. `response` are the headers of the response that is being made.
    pub(super) fn entry<'a>(&'a self, response: Option<&'a Headers>) -> Entry<'a> {
        let (request, outcome, connection) =
            (&self.request, &self.outcome, self.context.connection);
        let known = |text: &'a [u8]| (!text.is_empty()).then_some(text);
        let mut entry = Entry::new(SystemTime::now() - self.meter.started.elapsed());
        entry.occasion = Occasion::RequestEnd;
        entry.protocol = Some(protocol(request.protocol));
        entry.method = known(&request.method);
        entry.path = known(&request.path);
        entry.authority = known(&request.authority);
        entry.scheme = request.scheme.map(str::as_bytes);
        entry.request_headers = Some(&request.headers);
        entry.response_headers = response.map(|headers| headers as &dyn access_log::Headers);
        entry.response_code = (outcome.status != 0).then_some(outcome.status);
        entry.flags = outcome.flags;
        entry.response_code_details = known_text(&outcome.details);
        entry.bytes = self.meter.bytes();
        entry.durations = self.meter.durations();
        entry.route_name = outcome.route.as_ref().map(|route| &*route.name);
        entry.filter_chain = Some(&connection.chain.name);
        entry.attempts = outcome.attempts;
        entry.downstream = connection.log_info();
        let manager = self.context.manager;
        if let Some(client) = prepare::told_address(manager, &request.headers) {
            entry.downstream.remote = Some(SocketAddr::new(client, 0));
        }
        entry.upstream = self.upstream();
        entry.downstream_peer = self.filters.downstream_peer.as_deref();
        entry.upstream_peer = self.filters.upstream_peer.as_deref();
        entry.metadata = request.metadata.as_deref();
        entry.span = self.trace.as_ref().and_then(|trace| trace.ids());
        entry
    }

    fn upstream(&self) -> Upstream<'_> {
        let outcome = &self.outcome;
        let host = outcome.endpoint.as_deref().map(host);
        let link = outcome.upstream.as_ref();
        Upstream {
            cluster: outcome.cluster.as_deref(),
            host,
            local: link.and_then(|link| link.local),
            protocol: outcome.upstream_protocol.map(protocol),
            tls: link.and_then(|link| link.tls.as_ref()),
            transport_failure: outcome.transport_failure.as_deref(),
        }
    }

    /// Tells logs, and who is told of spans.
    fn log(&mut self) {
        let logs = &self.context.manager.access_log;
        let is_sampled = self.trace.as_ref().is_some_and(|trace| trace.is_sampled());
        if logs.is_empty() && !is_sampled {
            return;
        }
        let trailers = self.meter.trailers();
        let closed = self.context.connection.live.close_reason();
        let closed = closed.map(ToString::to_string);
        let mut entry = self.entry(Some(&self.outcome.response_headers));
        entry.response_trailers = Some(&trailers);
        entry.connection_termination_details = closed.as_deref();
        self.note_request_head();
        entry.heads = self.meter.heads();
        logs.log(self.context.worker, &entry);
        if is_sampled {
            self.end_trace(&entry);
        }
    }
}

/// A request ends here, however it ends: also when its connection is given up around it.
impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if self.is_running {
            self.outcome.flags |= ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION;
            self.outcome.details = match self.context.connection.live.close_reason() {
                Some(reason) => format!("downstream_local_disconnect({reason})").into(),
                None => "downstream_remote_disconnect".into(),
            };
            self.count();
        }
        self.count_trace();
        // If the request was given up in the middle of a try.
        self.end_last_try_span();
        self.log();
        self.report();
    }
}

/// How logs name a host.
pub(super) fn host(endpoint: &Endpoint) -> UpstreamHost<'_> {
    match &endpoint.address {
        EndpointAddress::Socket(address) => UpstreamHost::Socket(*address),
        EndpointAddress::Pipe(path) => UpstreamHost::Pipe(path),
    }
}

pub(super) fn protocol(protocol: Protocol) -> access_log::Protocol {
    match protocol {
        Protocol::Http10 => access_log::Protocol::Http10,
        Protocol::Http11 => access_log::Protocol::Http11,
        Protocol::Http2 => access_log::Protocol::Http2,
    }
}

fn known_text(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
