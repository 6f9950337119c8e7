//! What the access logs say of one TCP session.

use std::{rc::Rc, sync::Arc};

use crate::{
    access_log::{Bytes, Entry, ResponseFlags, Upstream, UpstreamHost},
    config::cluster::{Endpoint, EndpointAddress},
    istio::Workload,
    upstream::{Link, TcpLease, UpstreamFailure},
};

/// What is known of a session so far. It outlives the session, which may be dropped at any time.
#[derive(Debug, Default)]
pub struct SessionRecord {
    pub(super) flags: ResponseFlags,
    pub(super) attempts: u32,
    pub(super) cluster: Option<Arc<str>>,
    endpoint: Option<Arc<Endpoint>>,
    upstream: Option<Rc<Link>>,
    transport_failure: Option<Arc<str>>,
    details: Option<&'static str>,
    downstream_peer: Option<Arc<Workload>>,
    upstream_peer: Option<Arc<Workload>>,
    /// From downstream to upstream.
    pub(super) sent: u64,
    /// From upstream to downstream.
    pub(super) received: u64,
}

impl SessionRecord {
    pub(super) fn connected(&mut self, lease: &TcpLease) {
        self.endpoint = Some(Arc::clone(lease.endpoint()));
        self.upstream = lease.link().cloned();
        self.transport_failure = None;
    }

    /// The ends have told who they are, as far as they do.
    pub(super) fn met(
        &mut self,
        downstream: Option<&Arc<Workload>>,
        upstream: Option<&Arc<Workload>>,
    ) {
        let note = |known: &mut Option<_>, told: Option<&Arc<_>>| {
            if known.is_none() {
                *known = told.cloned();
            }
        };
        note(&mut self.downstream_peer, downstream);
        note(&mut self.upstream_peer, upstream);
    }

    /// A filter closed the connection before there was a session.
    pub fn refused(&mut self, flags: ResponseFlags, details: Option<&'static str>) {
        self.flags |= flags;
        self.details = details;
    }

    pub(super) fn failed(&mut self, failure: &UpstreamFailure) {
        self.endpoint.clone_from(&failure.endpoint);
        self.transport_failure
            .clone_from(&failure.transport_failure_reason);
    }

    /// Fills in what is known.
    pub fn describe<'a>(&'a self, entry: &mut Entry<'a>) {
        let host = self.endpoint.as_ref().map(|it| match &it.address {
            EndpointAddress::Socket(address) => UpstreamHost::Socket(*address),
            EndpointAddress::Pipe(path) => UpstreamHost::Pipe(path),
        });
        entry.flags |= self.flags;
        entry.response_code_details = self.details;
        entry.attempts = self.attempts;
        entry.bytes = Bytes {
            received: self.sent,
            sent: self.received,
            upstream_sent: Some(self.sent),
            upstream_received: Some(self.received),
            downstream_sent: Some(self.received),
            downstream_received: Some(self.sent),
        };
        entry.downstream_peer = self.downstream_peer.as_deref();
        entry.upstream_peer = self.upstream_peer.as_deref();
        let link = self.upstream.as_ref();
        entry.upstream = Upstream {
            cluster: self.cluster.as_deref(),
            host,
            local: link.and_then(|link| link.local),
            protocol: None,
            tls: link.and_then(|link| link.tls.as_ref()),
            transport_failure: self.transport_failure.as_deref(),
        };
    }
}
