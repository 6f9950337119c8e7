//! What two requests must have in common to share a connection to an endpoint.
//!
//! The cluster's generation and the endpoint's address are the two levels above: pools nest in
//! them. Equality is on the whole key, never on a hash of it.

use std::sync::Arc;

use super::LbRequest;
use crate::config::{
    Cluster,
    cluster::{Endpoint, Transport, UpstreamProtocol},
};

/// The key of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PoolKey {
    /// Index of the transport socket in the cluster: certificates, SANs and trust.
    pub(super) transport: usize,
    pub(super) protocol: Protocol,
    pub(super) server_name: Option<Arc<str>>,
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
    epochs: (u64, u64),
}

impl<'a> Wanted<'a> {
    pub(super) fn http(cluster: &'a Cluster, endpoint: &Endpoint, request: &LbRequest<'a>) -> Self {
        use super::DownstreamProtocol as Downstream;
        let protocol = match (cluster.protocol, request.downstream) {
            (UpstreamProtocol::Http1, _) => Protocol::Http1,
            (UpstreamProtocol::Http2, _) => Protocol::Http2,
            (UpstreamProtocol::Auto, _) => Protocol::Auto,
            (UpstreamProtocol::Downstream, Downstream::Http1) => Protocol::Http1,
            (UpstreamProtocol::Downstream, Downstream::Http2) => Protocol::Http2,
        };
        Self::new(cluster, endpoint, protocol, request.authority)
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
            epochs,
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
    }

    pub(super) fn to_key(self) -> PoolKey {
        PoolKey {
            transport: self.transport,
            protocol: self.protocol,
            server_name: self.server_name.map(Arc::from),
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
