//! The targets: who is counted, with a block for each worker.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use parking_lot::Mutex;

use super::{
    AccessServiceBlock, ClusterBlock, ClusterControl, EndpointBlock, ExtAuthzBlock, HttpBlock,
    JwtBlock, ListenerBlock, ListenerControl, LuaBlock, OpenTelemetryBlock, OutlierBlock,
    ProxyProtocolBlock, RateLimitBlock, RbacBlock, SubscriptionBlock, TcpBlock, TcpExtAuthzBlock,
    ZipkinBlock,
};
use crate::config::cluster::CircuitBreakers;

/// One `T` for each worker, so that no two threads write one counter. A worker's `T` takes memory
/// when that worker first asks for it: most targets of a large mesh never see traffic.
#[derive(Debug)]
pub struct PerWorker<T>(Box<[OnceLock<Box<T>>]>);

impl<T: Default> PerWorker<T> {
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| OnceLock::new()).collect())
    }

    /// The `T` of one worker, for that worker's thread alone.
    pub fn worker(&self, index: usize) -> &T {
        self.0[index].get_or_init(Box::default)
    }

    /// What the workers wrote, with their indices; workers that never wrote are left out.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let workers = self.0.iter().enumerate();
        workers.filter_map(|(index, block)| Some((index, block.get()?.as_ref())))
    }

    /// The sum of `value` over the workers.
    pub fn sum(&self, value: impl Fn(&T) -> u64) -> u64 {
        self.iter().map(|(_, block)| value(block)).sum()
    }

    /// The sum of a gauge over the workers. A reading in the middle of an update may be torn
    /// between workers, so it is never reported below zero.
    pub fn gauge(&self, value: impl Fn(&T) -> i64) -> u64 {
        let sum: i64 = self.iter().map(|(_, block)| value(block)).sum();
        u64::try_from(sum).unwrap_or(0)
    }
}

/// One listener.
#[derive(Debug)]
pub struct ListenerStats {
    /// `stat_prefix`, else the address with its colons replaced (`0.0.0.0_8080`).
    pub(super) address: Arc<str>,
    /// Whether a filter chain terminates TLS: the `ssl.*` counters exist.
    tls: AtomicBool,
    pub(super) workers: PerWorker<ListenerBlock>,
    pub control: ListenerControl,
}

/// One HTTP connection manager.
#[derive(Debug)]
pub struct HttpStats {
    pub(super) prefix: Arc<str>,
    /// As in [`ListenerStats`].
    pub(super) listener: Arc<str>,
    pub(super) workers: PerWorker<HttpBlock>,
}

/// RBAC filters of one connection manager that have names of their own for what they count.
#[derive(Debug)]
pub struct RbacStats {
    /// The connection manager's `stat_prefix`.
    pub(super) manager: Arc<str>,
    pub(super) rules_prefix: Arc<str>,
    pub(super) shadow_prefix: Arc<str>,
    pub(super) workers: PerWorker<RbacBlock>,
}

/// HTTP filters of one kind and name in one connection manager.
#[derive(Debug)]
pub struct FilterStats<B> {
    /// The connection manager's `stat_prefix`.
    pub(super) manager: Arc<str>,
    /// What stands between it and the names: `jwt_authn`.
    pub(super) scope: Arc<str>,
    pub(super) workers: PerWorker<B>,
}

pub type JwtStats = FilterStats<JwtBlock>;

pub type ExtAuthzStats = FilterStats<ExtAuthzBlock>;

pub type LuaStats = FilterStats<LuaBlock>;

/// Filters of one kind and name, wherever they are.
#[derive(Debug)]
pub struct ScopedStats<B> {
    /// What comes before the names: `<stat_prefix>.http_local_rate_limit`, `ext_authz.<stat_prefix>`.
    pub(super) scope: Arc<str>,
    pub(super) workers: PerWorker<B>,
}

pub type AccessServiceStats = ScopedStats<AccessServiceBlock>;
pub type OpenTelemetryStats = ScopedStats<OpenTelemetryBlock>;
pub type ZipkinStats = ScopedStats<ZipkinBlock>;
pub type ProxyProtocolStats = ScopedStats<ProxyProtocolBlock>;
pub type RateLimitStats = ScopedStats<RateLimitBlock>;
pub type TcpExtAuthzStats = ScopedStats<TcpExtAuthzBlock>;

/// One TCP proxy.
#[derive(Debug)]
pub struct TcpStats {
    pub(super) prefix: Arc<str>,
    pub(super) workers: PerWorker<TcpBlock>,
}

/// One cluster.
#[derive(Debug)]
pub struct ClusterStats {
    /// `alt_stat_name`, else the name, with its colons replaced.
    pub(super) name: Arc<str>,
    /// Whether a transport socket is TLS: the `ssl.*` counters exist.
    tls: AtomicBool,
    pub(super) workers: PerWorker<ClusterBlock>,
    pub control: ClusterControl,
    pub(super) outlier: OnceLock<Box<OutlierBlock>>,
    limits: Mutex<Option<CircuitBreakers>>,
}

/// One host of a cluster. It is in no `/stats`; `/clusters` shows it.
pub type EndpointStats = PerWorker<EndpointBlock>;

/// One xDS subscription.
#[derive(Debug)]
pub struct SubscriptionStats {
    /// `sds.default`, `listener_manager.lds`.
    pub(super) scope: Arc<str>,
    pub block: SubscriptionBlock,
    /// `version_text`.
    version: Mutex<Arc<str>>,
}

impl ListenerStats {
    pub fn new(address: Arc<str>, tls: bool, workers: usize) -> Self {
        Self {
            address,
            tls: AtomicBool::new(tls),
            workers: PerWorker::new(workers),
            control: ListenerControl::default(),
        }
    }

    pub fn worker(&self, index: usize) -> &ListenerBlock {
        self.workers.worker(index)
    }

    pub fn workers(&self) -> &PerWorker<ListenerBlock> {
        &self.workers
    }

    /// Whether the `ssl.*` counters exist.
    pub(super) fn has_tls(&self) -> bool {
        self.tls.load(Relaxed)
    }

    /// A newer configuration has TLS.
    pub(super) fn add_tls(&self) {
        self.tls.store(true, Relaxed);
    }
}

impl HttpStats {
    pub fn new(prefix: Arc<str>, listener: Arc<str>, workers: usize) -> Self {
        Self {
            prefix,
            listener,
            workers: PerWorker::new(workers),
        }
    }

    pub fn worker(&self, index: usize) -> &HttpBlock {
        self.workers.worker(index)
    }

    pub fn workers(&self) -> &PerWorker<HttpBlock> {
        &self.workers
    }
}

impl RbacStats {
    pub fn new(manager: Arc<str>, prefixes: [&str; 2], workers: usize) -> Self {
        let [rules_prefix, shadow_prefix] = prefixes.map(Arc::from);
        Self {
            manager,
            rules_prefix,
            shadow_prefix,
            workers: PerWorker::new(workers),
        }
    }

    pub fn worker(&self, index: usize) -> &RbacBlock {
        self.workers.worker(index)
    }
}

impl<B: Default> FilterStats<B> {
    pub fn new(manager: Arc<str>, scope: Arc<str>, workers: usize) -> Self {
        Self {
            manager,
            scope,
            workers: PerWorker::new(workers),
        }
    }

    pub fn worker(&self, index: usize) -> &B {
        self.workers.worker(index)
    }
}

impl<B: Default> ScopedStats<B> {
    pub fn new(scope: Arc<str>, workers: usize) -> Self {
        Self {
            scope,
            workers: PerWorker::new(workers),
        }
    }

    pub fn worker(&self, index: usize) -> &B {
        self.workers.worker(index)
    }
}

impl TcpStats {
    pub fn new(prefix: Arc<str>, workers: usize) -> Self {
        Self {
            prefix,
            workers: PerWorker::new(workers),
        }
    }

    pub fn worker(&self, index: usize) -> &TcpBlock {
        self.workers.worker(index)
    }

    pub fn workers(&self) -> &PerWorker<TcpBlock> {
        &self.workers
    }
}

impl ClusterStats {
    pub fn new(name: Arc<str>, tls: bool, workers: usize) -> Self {
        Self {
            name,
            tls: AtomicBool::new(tls),
            workers: PerWorker::new(workers),
            control: ClusterControl::default(),
            outlier: OnceLock::new(),
            limits: Mutex::new(None),
        }
    }

    pub fn worker(&self, index: usize) -> &ClusterBlock {
        self.workers.worker(index)
    }

    pub fn workers(&self) -> &PerWorker<ClusterBlock> {
        &self.workers
    }

    /// Whether the `ssl.*` counters exist.
    pub(super) fn has_tls(&self) -> bool {
        self.tls.load(Relaxed)
    }

    /// A newer configuration has TLS.
    pub(super) fn add_tls(&self) {
        self.tls.store(true, Relaxed);
    }

    /// `outlier_detection.*`, which exist from the first call on.
    pub fn outlier(&self) -> &OutlierBlock {
        self.outlier.get_or_init(Box::default)
    }

    /// The limits that `circuit_breakers.default.*_open` compares the gauges with.
    pub fn set_limits(&self, limits: CircuitBreakers) {
        *self.limits.lock() = Some(limits);
    }

    /// `circuit_breakers.default.*`: whether each breaker is open (1) now.
    pub(super) fn breakers(&self) -> [(&'static str, bool); 5] {
        let limits = *self.limits.lock();
        let reached = |limit: fn(&CircuitBreakers) -> u32, now: fn(&ClusterBlock) -> i64| {
            limits.is_some_and(|limits| self.workers.gauge(now) >= u64::from(limit(&limits)))
        };
        [
            (
                "cx_open",
                reached(|l| l.max_connections, |b| b.upstream_cx_active.get()),
            ),
            // There is no limit to be set on pools.
            ("cx_pool_open", false),
            (
                "rq_open",
                reached(|l| l.max_requests, |b| b.upstream_rq_active.get()),
            ),
            (
                "rq_pending_open",
                reached(
                    |l| l.max_pending_requests,
                    |b| b.upstream_rq_pending_active.get(),
                ),
            ),
            (
                "rq_retry_open",
                reached(|l| l.max_retries, |b| b.upstream_rq_retry_active.get()),
            ),
        ]
    }
}

impl SubscriptionStats {
    pub fn new(scope: Arc<str>) -> Self {
        Self {
            scope,
            block: SubscriptionBlock::default(),
            version: Mutex::new("".into()),
        }
    }

    /// Of the update that was accepted last, as the control plane calls it.
    pub fn set_version(&self, version: Arc<str>) {
        *self.version.lock() = version;
    }

    pub(super) fn version(&self) -> Arc<str> {
        Arc::clone(&self.version.lock())
    }
}
