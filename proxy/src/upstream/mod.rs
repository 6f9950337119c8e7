//! Upstream connections: choosing an endpoint, connecting, pooling, circuit breaking.
//!
//! A pool belongs to one worker. Its keys hold everything that affects security: the endpoint, the
//! transport socket, SNI, ALPN, and the epochs of identity and trust.

mod failure;
mod lease;

pub use failure::{FailureKind, UpstreamFailure};
pub use lease::{Http1Lease, Http2Lease, HttpLease, TcpLease};

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use crate::{
    config::{Cluster, cluster::Endpoint},
    io::Timers,
};

/// What the choice of an upstream connection depends on, per request.
#[derive(Clone, Copy, Debug, Default)]
pub struct LbRequest<'a> {
    /// What the downstream speaks, for `use_downstream_protocol_config`.
    pub downstream: DownstreamProtocol,
    /// Hash of the route's `hash_policy`.
    pub hash: Option<u64>,
    /// Endpoints to avoid (`previous_hosts`), for as many attempts as `selection_attempts` says.
    pub excluded: &'a [Arc<Endpoint>],
    /// `host_selection_retry_max_attempts`.
    pub selection_attempts: u32,
    /// Host of the request without its port, lower-case, for `auto_sni` and `auto_san_validation`.
    pub authority: Option<&'a str>,
    /// Where the downstream connection was going, for ORIGINAL_DST clusters.
    pub original_destination: Option<SocketAddr>,
    /// Whether this is a retry: it counts against `max_retries`.
    pub retry: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DownstreamProtocol {
    #[default]
    Http1,
    Http2,
}

/// The upstream connections of one worker.
#[derive(Debug)]
pub struct Upstreams {
    worker: usize,
    timers: Rc<Timers>,
}

impl Upstreams {
    pub fn new(worker: usize, timers: Rc<Timers>) -> Self {
        Self { worker, timers }
    }

    /// A connection that can carry one HTTP request now.
    pub async fn http(
        &self,
        _cluster: &Arc<Cluster>,
        _request: &LbRequest<'_>,
    ) -> Result<HttpLease, UpstreamFailure> {
        todo!()
    }

    /// A fresh connection for one downstream connection.
    pub async fn tcp(
        &self,
        _cluster: &Arc<Cluster>,
        _request: &LbRequest<'_>,
    ) -> Result<TcpLease, UpstreamFailure> {
        todo!()
    }
}
