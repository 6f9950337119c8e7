//! What two requests must have in common to share a connection to an endpoint.
//!
//! The cluster's generation and the endpoint's address are the two levels above: pools nest in
//! them. Equality is on the whole key, never on a hash of it.

use std::sync::Arc;

use super::{LbRequest, carried::Carried};
use crate::config::{
    Cluster,
    cluster::{Endpoint, UpstreamProtocol},
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
    /// Of the one downstream connection that the pool is for.
    pub(super) carried: Option<Carried>,
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
    carried: Option<Carried>,
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
        let mut wanted = Self::new(cluster, endpoint, protocol, request, request.authority);
        wanted.alpn = wanted.override_of(cluster, endpoint, request);
        wanted
    }

    pub(super) fn tcp(cluster: &'a Cluster, endpoint: &Endpoint, request: &LbRequest<'a>) -> Self {
        Self::new(cluster, endpoint, Protocol::Tcp, request, None)
    }

    fn new(
        cluster: &'a Cluster,
        endpoint: &Endpoint,
        protocol: Protocol,
        request: &LbRequest<'a>,
        authority: Option<&'a str>,
    ) -> Self {
        let (server_name, epochs) = match cluster.transport.tls(endpoint.transport) {
            Some((context, sni)) => {
                let auto = authority.filter(|_| cluster.http.auto_sni);
                (auto.or(sni.map(|sni| &**sni)), context.epochs())
            }
            None => (None, (0, 0)),
        };
        let socket = cluster.transport.0.get(endpoint.transport);
        let end = request.downstream_end.as_ref();
        Self {
            transport: endpoint.transport,
            protocol,
            server_name,
            alpn: None,
            epochs,
            carried: end.and_then(|end| Carried::of(socket, end)),
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
        cluster.transport.tls(endpoint.transport)?;
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

    pub(super) fn carried(&self) -> Option<&Carried> {
        self.carried.as_ref()
    }

    pub(super) fn is(&self, key: &PoolKey) -> bool {
        self.transport == key.transport
            && self.protocol == key.protocol
            && self.epochs == key.epochs
            && self.server_name == key.server_name.as_deref()
            && self.alpn == key.alpn.as_ref()
            && self.carried == key.carried
    }

    pub(super) fn to_key(self) -> PoolKey {
        PoolKey {
            transport: self.transport,
            protocol: self.protocol,
            server_name: self.server_name.map(Arc::from),
            alpn: self.alpn.cloned(),
            epochs: self.epochs,
            carried: self.carried,
        }
    }
}

impl PoolKey {
    /// Whether identity and trust are still those that connections of this key were opened with.
    pub(super) fn is_current(&self, cluster: &Cluster) -> bool {
        let tls = cluster.transport.tls(self.transport);
        tls.is_none_or(|(context, _)| context.epochs() == self.epochs)
    }
}
