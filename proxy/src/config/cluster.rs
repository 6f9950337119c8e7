//! Clusters and endpoints (`envoy.config.cluster.v3`, `envoy.config.endpoint.v3`).

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::HeaderName;
use parking_lot::Mutex;

use super::{
    HashTables, LocalCluster, Map,
    forward::Forward,
    http::{HeaderFormat, Http2Keepalive},
};
use crate::{
    istio::{MeshCluster, PeerExchange, Workload},
    outlier::{Detector, Monitor, Outcome},
    proxy_protocol,
    stats::ClusterStats,
};

/// One upstream cluster. `generation` differs whenever the compiled configuration does; worker-local
/// pools are keyed by it, so no connection outlives the configuration that opened it.
#[derive(Debug)]
pub struct Cluster {
    pub name: Arc<str>,
    pub generation: u64,
    /// `alt_stat_name`, else the name.
    pub stat_name: Arc<str>,
    pub kind: ClusterKind,
    pub connect_timeout: Duration,
    pub lb: LbPolicy,
    /// Swapped in place by EDS and DNS, and when the health of hosts changes; never `generation`.
    pub endpoints: Arc<ArcSwap<EndpointSet>>,
    /// Held by who publishes endpoints: what changes their health may do so at the same time.
    pub publishing: Mutex<()>,
    pub transport: Transports,
    pub protocol: UpstreamProtocol,
    pub http: UpstreamHttp,
    pub limits: CircuitBreakers,
    pub keepalive: Option<TcpKeepalive>,
    /// Source addresses of upstream connections, one for each family at most (`upstream_bind_config`).
    pub bind: Box<[SocketAddr]>,
    pub buffer_limit: u32,
    /// Percent of healthy hosts below which health is ignored; Envoy's default is 50.
    pub panic_threshold: u32,
    /// `locality_weighted_lb_config`.
    pub locality_weighted: bool,
    /// Where the localities of our own cluster count.
    pub zone_aware: Option<ZoneAware>,
    /// Where this is that cluster.
    pub local: Option<Arc<LocalCluster>>,
    /// Hosts that are new get less at first.
    pub slow_start: Option<SlowStart>,
    /// Of ORIGINAL_DST clusters.
    pub original_dst: OriginalDst,
    /// Of clusters that lead to the host that a request names.
    pub forward: Option<Forward>,
    /// For Istio's filters.
    pub mesh: MeshCluster,
    /// What TCP peers tell each other first (`filters`).
    pub peer_exchange: Option<Arc<PeerExchange>>,
    pub outlier: Option<Arc<Detector>>,
    /// Statuses that outlier detection takes for errors, in place of 5xx (`error_matcher`).
    pub error_statuses: Option<Box<[u16]>>,
    pub stats: Arc<ClusterStats>,
}

impl Cluster {
    /// What outlier detection takes a response for that has `status`, and `judged` by default.
    pub fn outlier_status(&self, status: u16, judged: u16) -> u16 {
        match &self.error_statuses {
            None => judged,
            Some(errors) if !errors.contains(&status) => 200,
            Some(_) => match status {
                500..600 => status,
                _ => 500,
            },
        }
    }

    /// Puts `set` in place of the endpoints; on the control runtime only.
    pub fn store_endpoints(&self, set: EndpointSet) {
        let _turn = self.publishing.lock();
        self.publish(set);
    }

    /// The health of some endpoints changed: workers balance anew. On the control runtime only.
    pub fn rebalance(&self) {
        let _turn = self.publishing.lock();
        self.publish(EndpointSet::clone(&self.endpoints.load()));
    }

    fn publish(&self, set: EndpointSet) {
        let set = Arc::new(set.with_tables(self.lb, self.locality_weighted));
        if let Some(local) = &self.local {
            local.endpoints.store(Arc::clone(&set));
        }
        self.endpoints.store(set);
    }

    /// Notes how a request to `endpoint` went, on the thread of `worker`.
    pub fn record(&self, endpoint: &Endpoint, worker: usize, outcome: Outcome) {
        if let (Some(detector), Some(monitor)) = (&self.outlier, &endpoint.monitor) {
            detector.record(monitor, worker, outcome);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterKind {
    Static,
    StrictDns,
    LogicalDns,
    Eds,
    /// To the connection's own original destination.
    OriginalDst,
    /// To the host that the request names.
    Forward,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LbPolicy {
    RoundRobin,
    /// `choice_count`.
    LeastRequest(u32),
    Random,
    /// The least and the most entries of the ring.
    RingHash {
        min: u64,
        max: u64,
    },
    /// The size of the table, a prime.
    Maglev(u32),
    ClusterProvided,
}

/// `slow_start_config`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    /// How long a host is new.
    pub window: Duration,
    /// 1: its share grows evenly; more: faster at first.
    pub aggression: f64,
    /// The least share of its weight that a host has, of 1.
    pub min_weight: f64,
}

impl SlowStart {
    /// The share of its weight that a host has which is healthy for so long. Source: Envoy, "Slow
    /// start mode".
    pub fn share(&self, healthy_for: Duration) -> f64 {
        if healthy_for >= self.window {
            return 1.0;
        }
        let passed = healthy_for.max(Duration::from_millis(1)).as_secs_f64();
        let time = passed / self.window.as_secs_f64();
        time.powf(1.0 / self.aggression).clamp(self.min_weight, 1.0)
    }
}

/// `zone_aware_lb_config`, which holds by default where there is a local cluster.
#[derive(Clone, Debug)]
pub struct ZoneAware {
    /// Of a hundred requests so many are routed by it.
    pub routing_enabled: f64,
    /// With fewer healthy hosts, localities do not count.
    pub min_cluster_size: u64,
    pub local: Arc<LocalCluster>,
}

/// Where an ORIGINAL_DST cluster leads to (`original_dst_lb_config`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginalDst {
    /// Of the request, with an address that goes before the connection's.
    pub header: Option<HeaderName>,
    pub port: Option<u16>,
}

/// All endpoints at one instant.
#[derive(Clone, Debug, Default)]
pub struct EndpointSet {
    pub version: u64,
    /// By priority: index 0 first.
    pub priorities: Vec<Vec<Arc<Endpoint>>>,
    pub overprovisioning_factor: u32,
    /// By priority, for clusters that balance by hash.
    pub tables: Box<[HashTables]>,
}

#[derive(Debug)]
pub struct Endpoint {
    pub address: EndpointAddress,
    /// Addresses beside it, of the same host (`additional_addresses`).
    pub more: Box<[SocketAddr]>,
    /// The configured host name, for `auto_host_rewrite` and admin.
    pub hostname: Arc<str>,
    pub weight: u32,
    pub health: Health,
    /// Since when it is healthy, or known.
    pub healthy_since: Instant,
    pub locality: Arc<str>,
    /// Of the locality in its priority; 0: it gets no load where localities are weighted.
    pub locality_weight: u32,
    /// Index into [`Transports`], chosen by the endpoint's metadata.
    pub transport: usize,
    /// Who it is, as far as istiod says.
    pub workload: Option<Arc<Workload>>,
    pub stats: Arc<crate::stats::EndpointStats>,
    /// Where the cluster has outlier detection.
    pub monitor: Option<Arc<Monitor>>,
}

impl Endpoint {
    /// Health as load balancing sees it: who is ejected is not healthy.
    pub fn current_health(&self) -> Health {
        match &self.monitor {
            Some(monitor) if monitor.is_ejected() => Health::Unhealthy,
            _ => self.health,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    Socket(SocketAddr),
    Pipe(PathBuf),
}

impl std::fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Pipe(path) => path.display().fmt(f),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Healthy,
    Degraded,
    Unhealthy,
    Draining,
}

/// The cluster's transport sockets: 0 is `transport_socket` (or plaintext), the others are
/// `transport_socket_matches` in order.
#[derive(Debug)]
pub struct Transports(pub Vec<TransportSocket>);

/// What is spoken below the cluster's protocol.
#[derive(Clone, Debug)]
pub struct TransportSocket {
    pub transport: Transport,
    /// The header that comes before anything else, TLS included
    /// (`envoy.transport_sockets.upstream_proxy_protocol`).
    pub proxy_protocol: Option<proxy_protocol::Version>,
}

impl From<Transport> for TransportSocket {
    fn from(transport: Transport) -> Self {
        Self {
            transport,
            proxy_protocol: None,
        }
    }
}

impl Transports {
    /// The TLS context and configured SNI of a socket that has TLS.
    pub fn tls(
        &self,
        index: usize,
    ) -> Option<(&Arc<ithildin_tls::ClientContext>, Option<&Arc<str>>)> {
        match &self.0.get(index)?.transport {
            Transport::Plaintext => None,
            Transport::Tls { context, sni } => Some((context, sni.as_ref())),
        }
    }
}

#[derive(Clone, Debug)]
pub enum Transport {
    Plaintext,
    Tls {
        context: Arc<ithildin_tls::ClientContext>,
        /// `None`: no SNI, unless `auto_sni` gives one.
        sni: Option<Arc<str>>,
    },
}

/// Which HTTP version is spoken upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    Http1,
    Http2,
    /// `use_downstream_protocol_config`.
    Downstream,
    /// `auto_config`: by ALPN.
    Auto,
}

#[derive(Clone, Copy, Debug)]
pub struct UpstreamHttp {
    pub header_format: HeaderFormat,
    /// Idle pooled connections; Envoy's default is one hour.
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    /// 0: no limit.
    pub max_requests_per_connection: u32,
    pub auto_sni: bool,
    pub auto_san_validation: bool,
    pub max_concurrent_streams: u32,
    pub initial_stream_window: u32,
    pub initial_connection_window: u32,
    pub http2_keepalive: Option<Http2Keepalive>,
}

/// Thresholds of the default priority.
#[derive(Clone, Copy, Debug)]
pub struct CircuitBreakers {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
    /// Decides in place of `max_retries`.
    pub retry_budget: Option<RetryBudget>,
}

/// Retries as a share of what is under way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Of requests that are active or pending.
    pub percent: f64,
    /// So many are admitted in any case.
    pub min_retry_concurrency: u32,
}

impl RetryBudget {
    /// How many retries there may be beside so many `requests`.
    pub fn limit(self, requests: u64) -> u32 {
        let share = (self.percent / 100.0 * requests as f64) as u32;
        share.max(self.min_retry_concurrency)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// Endpoint metadata that chooses a transport socket (`envoy.transport_socket_match`).
pub type TransportMatch = Map<String, String>;

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: Envoy, "Slow start mode".
    #[test]
    fn a_share_grows_with_time() {
        for (aggression, min_weight, seconds, expected) in [
            (1.0, 0.1, 0, 0.1),
            (1.0, 0.1, 30, 0.5),
            (1.0, 0.6, 30, 0.6),
            (2.0, 0.1, 15, 0.5),
            (0.5, 0.1, 30, 0.25),
            (1.0, 0.1, 60, 1.0),
            (5.0, 0.1, 600, 1.0),
        ] {
            let config = SlowStart {
                window: Duration::from_secs(60),
                aggression,
                min_weight,
            };
            let share = config.share(Duration::from_secs(seconds));
            assert!(
                (share - expected).abs() < 1e-6,
                "{config:?} {seconds} {share}"
            );
        }
    }
}
