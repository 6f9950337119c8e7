//! Configuration built by hand, for tests of the data path.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use ithildin_spiffe::{
    SpiffeId, TrustDomain,
    authority::{Authority, AuthorityConfig, TrustDomainConfig},
};
use ithildin_tls::{
    ClientAuth, ClientParams, Identity, Roots, ServerParams, Slot, TlsVersion, Trust, Validation,
};
use parking_lot::Mutex;
use rustls_pki_types::PrivateKeyDer;

use crate::{
    access_log::AccessLogs,
    config::{
        Cluster, FilterChain, FilterChains, Listener, Snapshot,
        cluster::{
            CircuitBreakers, ClusterKind, Endpoint, EndpointAddress, EndpointSet, Health, LbPolicy,
            OriginalDst, Transport, Transports, UpstreamHttp, UpstreamProtocol,
        },
        http::HeaderFormat,
        listener::{
            ChainMatch, DrainType, ListenerFilters, SocketOptions, TcpProxy, Terminal,
            TrafficDirection,
        },
    },
    istio::MeshCluster,
    stats::{ClusterStats, EndpointStats, ListenerStats, TcpStats},
};

/// Workers that the statistics of test objects have room for.
pub(crate) const WORKERS: usize = 4;

/// Where a test's server may listen: any free port of the loopback.
pub(crate) const ANY: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(
    std::net::Ipv4Addr::LOCALHOST,
    0,
));

/// A generation that no other test object has.
pub(crate) fn generation() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

pub(crate) fn endpoint(address: EndpointAddress) -> Endpoint {
    Endpoint {
        hostname: address.to_string().into(),
        address,
        more: Box::default(),
        weight: 1,
        health: Health::Healthy,
        healthy_since: Instant::now(),
        locality: "".into(),
        locality_weight: 0,
        transport: 0,
        workload: None,
        stats: Arc::new(EndpointStats::new(WORKERS)),
        monitor: None,
    }
}

pub(crate) fn endpoints(addresses: &[SocketAddr]) -> EndpointSet {
    let endpoint = |&address: &SocketAddr| Arc::new(endpoint(EndpointAddress::Socket(address)));
    EndpointSet {
        version: generation(),
        priorities: vec![addresses.iter().map(endpoint).collect()],
        overprovisioning_factor: 140,
        tables: Box::default(),
    }
}

/// A plaintext HTTP/1 cluster without limits, round robin.
pub(crate) fn cluster(name: &str, addresses: &[SocketAddr]) -> Cluster {
    Cluster {
        name: name.into(),
        generation: generation(),
        stat_name: name.into(),
        kind: ClusterKind::Static,
        connect_timeout: Duration::from_secs(5),
        lb: LbPolicy::RoundRobin,
        endpoints: Arc::new(ArcSwap::from_pointee(endpoints(addresses))),
        publishing: Mutex::default(),
        transport: Transports(vec![Transport::Plaintext.into()]),
        protocol: UpstreamProtocol::Http1,
        http: UpstreamHttp {
            header_format: HeaderFormat::Lower,
            idle_timeout: None,
            max_connection_duration: None,
            max_requests_per_connection: 0,
            auto_sni: false,
            auto_san_validation: false,
            max_concurrent_streams: 100,
            initial_stream_window: 1 << 20,
            initial_connection_window: 4 << 20,
            http2_keepalive: None,
        },
        limits: CircuitBreakers {
            max_connections: u32::MAX,
            max_pending_requests: u32::MAX,
            max_requests: u32::MAX,
            max_retries: u32::MAX,
            retry_budget: None,
        },
        keepalive: None,
        bind: [].into(),
        buffer_limit: 1 << 20,
        panic_threshold: 50,
        locality_weighted: false,
        zone_aware: None,
        local: None,
        slow_start: None,
        original_dst: OriginalDst::default(),
        forward: None,
        mesh: MeshCluster::default(),
        peer_exchange: None,
        outlier: None,
        error_statuses: None,
        stats: Arc::new(ClusterStats::new("test".into(), true, WORKERS)),
    }
}

pub(crate) fn tcp_proxy(cluster: &str) -> TcpProxy {
    TcpProxy {
        stat_prefix: "test".into(),
        stats: Arc::new(TcpStats::new("test".into(), WORKERS)),
        clusters: vec![(cluster.into(), 1)],
        idle_timeout: None,
        max_connection_duration: None,
        max_connect_attempts: 1,
        hash_source_ip: false,
        tunneling: None,
        access_log: AccessLogs::default(),
    }
}

pub(crate) fn chain(name: &str, terminal: Terminal) -> FilterChain {
    FilterChain {
        access: Vec::new(),
        peer_exchange: None,
        telemetry: None,
        name: name.into(),
        matches: ChainMatch::default(),
        tls: None,
        sni_cluster: false,
        sni_forward: None,
        handshake_timeout: None,
        terminal,
    }
}

/// A listener with one chain.
pub(crate) fn listener(name: &str, address: SocketAddr, chain: FilterChain) -> Listener {
    Listener {
        name: name.into(),
        generation: generation(),
        addresses: vec![address],
        bind_to_port: true,
        hands_off: false,
        is_always_accepted: false,
        direction: TrafficDirection::default(),
        drain_type: DrainType::default(),
        socket: SocketOptions::default(),
        filters: ListenerFilters::default(),
        chains: FilterChains::new(vec![Arc::new(chain)], None).expect("one chain"),
        buffer_limit: 1 << 20,
        access_log: AccessLogs::default(),
        logs_connections: false,
        stats: Arc::new(ListenerStats::new("test".into(), true, WORKERS)),
    }
}

/// A listener at a free port that proxies TCP to `cluster`.
pub(crate) fn tcp_listener(name: &str, cluster: &str) -> Listener {
    let terminal = Terminal::Tcp(Arc::new(tcp_proxy(cluster)));
    listener(name, ANY, chain(name, terminal))
}

pub(crate) fn snapshot(listeners: Vec<Arc<Listener>>, clusters: Vec<Cluster>) -> Arc<Snapshot> {
    let clusters = clusters
        .into_iter()
        .map(|it| (it.name.clone(), Arc::new(it)));
    Arc::new(Snapshot {
        version: generation(),
        listeners: listeners.into(),
        clusters: clusters.collect(),
    })
}

/// Waits until `condition` holds; panics with `what` after ten seconds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("did not come true in time: {what}");
}

/// Trust domains with their authorities, for TLS on the data path.
pub(crate) struct Pki(Authority);

impl Pki {
    pub(crate) fn new(domains: &[&str]) -> Self {
        let domain = |name: &&str| TrustDomainConfig::new(TrustDomain::parse(name).unwrap());
        let config = AuthorityConfig {
            trust_domains: domains.iter().map(domain).collect(),
            federation: Vec::new(),
        };
        Self(Authority::start(config).unwrap())
    }

    /// An SVID of an hour.
    pub(crate) fn identity(&self, id: &str) -> Arc<Identity> {
        self.identity_for(id, None)
    }

    pub(crate) fn identity_for(&self, id: &str, ttl: Option<Duration>) -> Arc<Identity> {
        self.identity_with(id, ttl, &[])
    }

    /// An SVID with a DNS name that says something else.
    pub(crate) fn posing(&self, id: &str, dns: &str) -> Arc<Identity> {
        self.identity_with(id, None, &[dns.to_owned()])
    }

    fn identity_with(&self, id: &str, ttl: Option<Duration>, dns: &[String]) -> Arc<Identity> {
        let id = SpiffeId::parse(id).unwrap();
        let domain = id.trust_domain_name();
        let svid = self.0.mint(domain, &id, ttl, dns).unwrap();
        let key = PrivateKeyDer::Pkcs8(svid.key.pkcs8_der().to_vec().into());
        Arc::new(Identity::from_der(svid.chain, key).unwrap())
    }

    /// Trust in these domains, each bound to its own bundle.
    pub(crate) fn validation(&self, domains: &[&str]) -> Arc<Validation> {
        let bundle = |name: &&str| {
            let domain = TrustDomain::parse(name).unwrap();
            let roots = self.0.bundle(&domain).unwrap().roots;
            (domain, Arc::new(Roots::from_der(roots, &[]).unwrap()))
        };
        Arc::new(Validation::new(Trust::Spiffe(
            domains.iter().map(bundle).collect(),
        )))
    }

    pub(crate) fn server(&self, id: &str, trusted: &[&str]) -> ServerParams {
        ServerParams {
            name: "test".into(),
            alpn: Vec::new(),
            versions: (TlsVersion::Tls12, TlsVersion::Tls13),
            cipher_suites: Vec::new(),
            curves: Vec::new(),
            client_auth: ClientAuth::Required,
            identity: Slot::new(Some(self.identity(id))),
            alternatives: Vec::new(),
            full_scan: false,
            validation: Some(Slot::new(Some(self.validation(trusted)))),
        }
    }

    pub(crate) fn client(&self, id: &str, trusted: &[&str]) -> ClientParams {
        ClientParams {
            name: "test".into(),
            alpn: Vec::new(),
            versions: (TlsVersion::Tls12, TlsVersion::Tls13),
            cipher_suites: Vec::new(),
            curves: Vec::new(),
            identity: Some(Slot::new(Some(self.identity(id)))),
            validation: Slot::new(Some(self.validation(trusted))),
        }
    }
}
