//! What two requests must have in common to share a connection to an endpoint.
//!
//! The cluster's generation and the endpoint's address are the two levels above: pools nest in
//! them. Equality is on the whole key, never on a hash of it.

use std::sync::Arc;

use super::LbRequest;
use crate::config::{
    Cluster,
    cluster::{Endpoint, Transport, UpstreamProtocol},
    http::Alpn,
};

/// The key of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PoolKey {
    /// Index of the transport socket in the cluster: certificates, SANs and trust.
    pub(super) transport: usize,
    pub(super) protocol: Protocol,
    pub(super) server_name: Option<Arc<str>>,
    /// In place of what the transport socket offers.
    pub(super) alpn: Option<Alpn>,
    /// Epochs of our identity and of the validation context.
    pub(super) epochs: (u64, u64),
}

/// What may be spoken on a connection, and so which ALPN was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
    /// By ALPN; HTTP/1 without TLS.
    Auto,
    /// Bytes; never pooled.
    Tcp,
}

/// The key that a request asks for; compares with [`PoolKey`] without allocating.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    transport: usize,
    protocol: Protocol,
    server_name: Option<&'a str>,
    alpn: Option<&'a Alpn>,
    epochs: (u64, u64),
}

impl<'a> Wanted<'a> {
    pub(super) fn http(cluster: &'a Cluster, endpoint: &Endpoint, request: &LbRequest<'a>) -> Self {
        use super::DownstreamProtocol as Downstream;
        let protocol = match (cluster.protocol, request.downstream) {
            (UpstreamProtocol::Http1, _) => Protocol::Http1,
            (UpstreamProtocol::Http2, _) => Protocol::Http2,
            (UpstreamProtocol::Auto, _) => Protocol::Auto,
            (UpstreamProtocol::Downstream, Downstream::Http10 | Downstream::Http1) => {
                Protocol::Http1
            }
            (UpstreamProtocol::Downstream, Downstream::Http2) => Protocol::Http2,
        };
        let mut wanted = Self::new(cluster, endpoint, protocol, request.authority);
        wanted.alpn = wanted.override_of(cluster, endpoint, request);
        wanted
    }

    pub(super) fn tcp(cluster: &'a Cluster, endpoint: &Endpoint) -> Self {
        Self::new(cluster, endpoint, Protocol::Tcp, None)
    }

    fn new(
        cluster: &'a Cluster,
        endpoint: &Endpoint,
        protocol: Protocol,
        authority: Option<&'a str>,
    ) -> Self {
        let (server_name, epochs) = match cluster.transport.0.get(endpoint.transport) {
            Some(Transport::Tls { context, sni }) => {
                let auto = authority.filter(|_| cluster.http.auto_sni);
                (auto.or(sni.as_deref()), context.epochs())
            }
            Some(Transport::Plaintext) | None => (None, (0, 0)),
        };
        Self {
            transport: endpoint.transport,
            protocol,
            server_name,
            alpn: None,
            epochs,
        }
    }

    /// The ALPN that the request's filters chose, where there is TLS to offer it.
    fn override_of(
        &self,
        cluster: &Cluster,
        endpoint: &Endpoint,
        request: &LbRequest<'a>,
    ) -> Option<&'a Alpn> {
        let overrides = request.alpn.filter(|_| !cluster.mesh.keeps_alpn)?;
        let transport = cluster.transport.0.get(endpoint.transport);
        if !matches!(transport, Some(Transport::Tls { .. })) {
            return None;
        }
        let is_http10 = cluster.protocol == UpstreamProtocol::Downstream
            && request.downstream == super::DownstreamProtocol::Http10;
        match self.protocol {
            Protocol::Http1 if is_http10 => overrides.http10.as_ref(),
            Protocol::Http1 => overrides.http11.as_ref(),
            Protocol::Http2 | Protocol::Auto => overrides.http2.as_ref(),
            Protocol::Tcp => None,
        }
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(super) fn is(&self, key: &PoolKey) -> bool {
        self.transport == key.transport
            && self.protocol == key.protocol
            && self.epochs == key.epochs
            && self.server_name == key.server_name.as_deref()
            && self.alpn == key.alpn.as_ref()
    }

    pub(super) fn to_key(self) -> PoolKey {
        PoolKey {
            transport: self.transport,
            protocol: self.protocol,
            server_name: self.server_name.map(Arc::from),
            alpn: self.alpn.cloned(),
            epochs: self.epochs,
        }
    }
}

impl PoolKey {
    /// Whether identity and trust are still those that connections of this key were opened with.
    pub(super) fn is_current(&self, cluster: &Cluster) -> bool {
        match cluster.transport.0.get(self.transport) {
            Some(Transport::Tls { context, .. }) => context.epochs() == self.epochs,
            Some(Transport::Plaintext) | None => true,
        }
    }
}
