//! Upstream connections: choosing an endpoint, connecting, pooling, circuit breaking.
//!
//! One request: cluster -> limits -> endpoint -> pool -> pooled or fresh connection -> lease.
//! All of it belongs to one worker. Nothing is pooled across what affects security: pools nest
//! cluster generation, endpoint address and [`PoolKey`](key::PoolKey).

mod balance;
mod carried;
mod cluster;
mod connect;
mod edf;
mod eyeballs;
mod failure;
mod hosts;
mod http1;
mod http2;
mod key;
mod lease;
mod limits;
mod named;
mod pool;
mod tunnel;
mod zones;

pub use carried::DownstreamEnd;
pub use connect::Link;
pub use failure::{FailureKind, UpstreamFailure};
pub use lease::{Http1Lease, Http2Lease, HttpLease, StreamPermit, TcpLease};
pub use limits::RetryPermit;
pub use tunnel::TunnelRequest;

use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use cluster::ClusterPools;

use crate::{
    config::{Cluster, Map, Snapshot, cluster::Endpoint, forward::NamedHost, http::AlpnOverrides},
    io::{LogLimit, Registry, Timers},
};

/// How often idle connections and unused pools are looked over.
pub const REAP_INTERVAL: Duration = Duration::from_secs(1);

/// What the choice of an upstream connection depends on, per request.
#[derive(Clone, Copy, Debug, Default)]
pub struct LbRequest<'a> {
    /// What the downstream speaks, for `use_downstream_protocol_config`.
    pub downstream: DownstreamProtocol,
    /// Endpoints to avoid (`previous_hosts`), for as many attempts as `selection_attempts` says.
    pub excluded: &'a [Arc<Endpoint>],
    /// `host_selection_retry_max_attempts`.
    pub selection_attempts: u32,
    /// After each so many of `excluded`, their priorities are avoided, too; 0: they are not.
    pub avoid_priorities_every: u32,
    /// What TLS offers by ALPN in place of what the transport socket says.
    pub alpn: Option<&'a AlpnOverrides>,
    /// Host of the request without its port, lower-case, for `auto_sni` and `auto_san_validation`.
    pub authority: Option<&'a str>,
    /// For clusters that balance by hash; without one, any host will do.
    pub hash: Option<u64>,
    /// Where the downstream connection was going, for ORIGINAL_DST clusters.
    pub original_destination: Option<SocketAddr>,
    /// What the request names, for clusters that lead there.
    pub named: Option<NamedHost<'a>>,
    /// The connection that the request came on; `None` where none waits for the answer.
    pub downstream_end: Option<DownstreamEnd<'a>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DownstreamProtocol {
    Http10,
    #[default]
    Http1,
    Http2,
}

/// The upstream connections of one worker.
#[derive(Debug)]
pub struct Upstreams {
    home: Home,
    /// By [`Cluster::generation`].
    clusters: RefCell<Map<u64, Rc<ClusterPools>>>,
}

/// What every upstream connection needs of its worker.
#[derive(Clone, Debug)]
struct Home {
    worker: usize,
    timers: Rc<Timers>,
    registry: Rc<Registry>,
    /// Of failed handshakes.
    log: Rc<LogLimit>,
}

impl Upstreams {
    pub fn new(worker: usize, timers: Rc<Timers>, registry: Rc<Registry>) -> Self {
        Self {
            home: Home {
                worker,
                timers,
                registry,
                log: Rc::default(),
            },
            clusters: RefCell::default(),
        }
    }

    /// A connection that can carry one HTTP request now.
    pub async fn http(
        &self,
        cluster: &Arc<Cluster>,
        request: &LbRequest<'_>,
    ) -> Result<HttpLease, UpstreamFailure> {
        self.pools(cluster).http(request).await
    }

    /// A fresh connection for one downstream connection.
    pub async fn tcp(
        &self,
        cluster: &Arc<Cluster>,
        request: &LbRequest<'_>,
    ) -> Result<TcpLease, UpstreamFailure> {
        self.pools(cluster).tcp(request).await
    }

    /// The same, through a proxy: one of the cluster's hosts.
    pub async fn tunnel(
        &self,
        cluster: &Arc<Cluster>,
        request: &LbRequest<'_>,
        asked: &TunnelRequest,
    ) -> Result<TcpLease, UpstreamFailure> {
        let lease = self.http(cluster, request).await?;
        tunnel::open(&self.home, cluster, lease, asked).await
    }

    /// Leave to retry a request, kept until the retry is over; `None` when `max_retries` says no.
    pub fn retry(&self, cluster: &Arc<Cluster>) -> Option<RetryPermit> {
        self.pools(cluster).retry()
    }

    /// Closes idle connections whose time is over, that the peer closed, or whose identity, trust
    /// or cluster has been replaced.
    pub fn reap(&self, snapshot: &Snapshot) {
        self.clusters.borrow_mut().retain(|generation, pools| {
            let current = snapshot.clusters.get(pools.name());
            if current.is_some_and(|cluster| cluster.generation == *generation) {
                pools.reap();
                true
            } else {
                pools.close();
                false
            }
        });
    }

    fn pools(&self, cluster: &Arc<Cluster>) -> Rc<ClusterPools> {
        let mut clusters = self.clusters.borrow_mut();
        let pools = clusters
            .entry(cluster.generation)
            .or_insert_with(|| ClusterPools::new(&self.home, cluster));
        Rc::clone(pools)
    }
}

#[cfg(test)]
mod tests;
