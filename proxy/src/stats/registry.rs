//! All targets, and their sums under Envoy's names.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::{
    AccessServiceStats, ClusterManagerBlock, ClusterStats, ExtAuthzStats, FilesystemBlock,
    HttpStats, JwtStats, ListenerManagerBlock, ListenerStats, LuaStats, Metric, OpenTelemetryStats,
    ProxyProtocolStats, RateLimitStats, RbacStats, ServerBlock, StatsShape, SubscriptionStats,
    TcpExtAuthzStats, TcpStats, Value, ZipkinStats,
    sums::{Scope, Sums},
};
use crate::istio::telemetry::MeshRegistry;

/// Knows every target that is in use. A target keeps its counts while anybody holds it, so a
/// configuration that replaces another goes on counting where that one was.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    shape: StatsShape,
    listeners: Targets<Arc<str>, ListenerStats>,
    http: Targets<(Arc<str>, Arc<str>), HttpStats>,
    tcp: Targets<Arc<str>, TcpStats>,
    clusters: Targets<Arc<str>, ClusterStats>,
    subscriptions: Targets<Arc<str>, SubscriptionStats>,
    rbac: Targets<[Arc<str>; 3], RbacStats>,
    jwt: Targets<[Arc<str>; 2], JwtStats>,
    lua: Targets<[Arc<str>; 2], LuaStats>,
    ext_authz: Targets<[Arc<str>; 2], ExtAuthzStats>,
    rate_limits: Targets<Arc<str>, RateLimitStats>,
    proxy_protocol: Targets<Arc<str>, ProxyProtocolStats>,
    tcp_ext_authz: Targets<Arc<str>, TcpExtAuthzStats>,
    access_services: Targets<Arc<str>, AccessServiceStats>,
    open_telemetry: Targets<(), OpenTelemetryStats>,
    zipkin: Targets<(), ZipkinStats>,
    /// Istio's metrics.
    pub mesh: Arc<MeshRegistry>,
    pub server: ServerBlock,
    pub listener_manager: ListenerManagerBlock,
    pub cluster_manager: ClusterManagerBlock,
    pub filesystem: Arc<FilesystemBlock>,
}

impl Registry {
    /// For a proxy with this many worker threads.
    pub fn new(workers: usize) -> Self {
        Self {
            workers,
            shape: StatsShape::default(),
            listeners: Targets::default(),
            http: Targets::default(),
            tcp: Targets::default(),
            clusters: Targets::default(),
            subscriptions: Targets::default(),
            rbac: Targets::default(),
            jwt: Targets::default(),
            lua: Targets::default(),
            ext_authz: Targets::default(),
            rate_limits: Targets::default(),
            proxy_protocol: Targets::default(),
            tcp_ext_authz: Targets::default(),
            access_services: Targets::default(),
            open_telemetry: Targets::default(),
            zipkin: Targets::default(),
            mesh: Arc::default(),
            server: ServerBlock::default(),
            listener_manager: ListenerManagerBlock::default(),
            cluster_manager: ClusterManagerBlock::default(),
            filesystem: Arc::default(),
        }
    }

    /// The same, with what a bootstrap says of statistics.
    pub fn shaped(mut self, shape: StatsShape) -> Self {
        self.shape = shape;
        self
    }

    pub fn workers(&self) -> usize {
        self.workers
    }

    /// `name` is the listener's `stat_prefix`, else its address; `tls` whether a chain terminates
    /// TLS.
    pub fn listener(&self, name: &str, tls: bool) -> Arc<ListenerStats> {
        let name = escape(name);
        let stats = self
            .listeners
            .get(name.clone(), || ListenerStats::new(name, tls, self.workers));
        if tls {
            stats.add_tls();
        }
        stats
    }

    /// The connection manager with `stat_prefix` on the listener `listener` (as above).
    pub fn http(&self, stat_prefix: &str, listener: &str) -> Arc<HttpStats> {
        let prefix = escape(stat_prefix);
        let listener = escape(listener);
        self.http.get((prefix.clone(), listener.clone()), || {
            HttpStats::new(prefix, listener, self.workers)
        })
    }

    pub fn tcp(&self, stat_prefix: &str) -> Arc<TcpStats> {
        let prefix = escape(stat_prefix);
        self.tcp
            .get(prefix.clone(), || TcpStats::new(prefix, self.workers))
    }

    /// The RBAC filters of the connection manager with `stat_prefix` whose names have these
    /// prefixes: of rules, and of shadow rules.
    pub fn rbac(&self, stat_prefix: &str, rules: &str, shadow: &str) -> Arc<RbacStats> {
        let manager = escape(stat_prefix);
        let key = [Arc::clone(&manager), rules.into(), shadow.into()];
        self.rbac.get(key, || {
            RbacStats::new(manager, [rules, shadow], self.workers)
        })
    }

    /// The `jwt_authn` filters of the connection manager with `stat_prefix` that have this prefix.
    pub fn jwt(&self, stat_prefix: &str, own: &str) -> Arc<JwtStats> {
        let key = of_filter(stat_prefix, "jwt_authn", own);
        self.jwt.get(key.clone(), || {
            let [manager, scope] = key;
            JwtStats::new(manager, scope, self.workers)
        })
    }

    /// The `ext_authz` filters of the connection manager with `stat_prefix` that have this prefix.
    pub fn ext_authz(&self, stat_prefix: &str, own: &str) -> Arc<ExtAuthzStats> {
        let key = of_filter(stat_prefix, "ext_authz", own);
        self.ext_authz.get(key.clone(), || {
            let [manager, scope] = key;
            ExtAuthzStats::new(manager, scope, self.workers)
        })
    }

    /// The Lua filters of the connection manager with `stat_prefix` that have this prefix.
    pub fn lua(&self, stat_prefix: &str, own: &str) -> Arc<LuaStats> {
        let key = of_filter(stat_prefix, "lua", own);
        self.lua.get(key.clone(), || {
            let [manager, scope] = key;
            LuaStats::new(manager, scope, self.workers)
        })
    }

    /// The `ext_authz` network filters with `stat_prefix`.
    pub fn tcp_ext_authz(&self, stat_prefix: &str) -> Arc<TcpExtAuthzStats> {
        let scope = escape(&format!("ext_authz.{stat_prefix}"));
        self.tcp_ext_authz
            .get(scope.clone(), || TcpExtAuthzStats::new(scope, self.workers))
    }

    /// The local rate limits with `stat_prefix`.
    pub fn rate_limit(&self, stat_prefix: &str) -> Arc<RateLimitStats> {
        let scope = escape(&format!("{stat_prefix}.http_local_rate_limit"));
        self.rate_limits
            .get(scope.clone(), || RateLimitStats::new(scope, self.workers))
    }

    /// The PROXY protocol filters with `stat_prefix`, of all listeners.
    pub fn proxy_protocol(&self, stat_prefix: &str) -> Arc<ProxyProtocolStats> {
        let scope = match stat_prefix {
            "" => "proxy_proto".into(),
            own => escape(&format!("proxy_proto.{own}")),
        };
        self.proxy_protocol.get(scope.clone(), || {
            ProxyProtocolStats::new(scope, self.workers)
        })
    }

    /// The access loggers whose counters are under `access_logs.<scope>`.
    pub fn access_service(&self, scope: &str) -> Arc<AccessServiceStats> {
        let scope = escape(&format!("access_logs.{scope}"));
        self.access_services.get(scope.clone(), || {
            AccessServiceStats::new(scope, self.workers)
        })
    }

    /// All services that are told of spans by OpenTelemetry's protocol.
    pub fn open_telemetry(&self) -> Arc<OpenTelemetryStats> {
        let new = || OpenTelemetryStats::new("tracing.opentelemetry".into(), self.workers);
        self.open_telemetry.get((), new)
    }

    /// All that are told of them by Zipkin's.
    pub fn zipkin(&self) -> Arc<ZipkinStats> {
        let new = || ZipkinStats::new("tracing.zipkin".into(), self.workers);
        self.zipkin.get((), new)
    }

    /// `name` is `alt_stat_name`, else the cluster's name; `tls` whether it originates TLS.
    pub fn cluster(&self, name: &str, tls: bool) -> Arc<ClusterStats> {
        let name = escape(name);
        let stats = self
            .clusters
            .get(name.clone(), || ClusterStats::new(name, tls, self.workers));
        if tls {
            stats.add_tls();
        }
        stats
    }

    /// `scope` as in Envoy: `sds.default`, `listener_manager.lds`, `cluster_manager.cds`,
    /// `http.<stat_prefix>.rds.<name>`.
    pub fn subscription(&self, scope: &str) -> Arc<SubscriptionStats> {
        let scope = escape(scope);
        self.subscriptions
            .get(scope.clone(), || SubscriptionStats::new(scope))
    }

    /// Downstream connections at this instant.
    pub fn downstream_connections(&self) -> u64 {
        let listeners = self.listeners.live().into_iter();
        listeners
            .map(|stats| {
                stats
                    .workers
                    .gauge(|block| block.downstream_cx_active.get())
            })
            .sum()
    }

    /// Everything at this instant, sorted by name. Targets of one name are summed. With
    /// `used_only`, what was never counted is left out.
    pub fn metrics(&self, used_only: bool) -> Vec<Metric> {
        let mut sums = Sums::new(&self.shape, used_only);
        for stats in self.listeners.live() {
            sums.add_listener(&stats);
        }
        for stats in self.http.live() {
            sums.add_http(&stats);
        }
        for stats in self.rbac.live() {
            sums.add_rbac(&stats);
        }
        for stats in self.jwt.live() {
            sums.add_filter(&stats);
        }
        for stats in self.lua.live() {
            sums.add_filter(&stats);
        }
        for stats in self.ext_authz.live() {
            sums.add_filter(&stats);
        }
        for stats in self.rate_limits.live() {
            sums.add_scoped(&stats);
        }
        for stats in self.proxy_protocol.live() {
            sums.add_scoped(&stats);
        }
        for stats in self.tcp_ext_authz.live() {
            sums.add_scoped(&stats);
        }
        for stats in self.access_services.live() {
            sums.add_scoped(&stats);
        }
        for stats in self.open_telemetry.live() {
            sums.add_scoped(&stats);
        }
        for stats in self.zipkin.live() {
            sums.add_scoped(&stats);
        }
        for stats in self.tcp.live() {
            let scope = Scope::new("tcp").tagged("envoy_tcp_prefix", &stats.prefix);
            sums.add_workers(&scope, &stats.workers);
        }
        for stats in self.clusters.live() {
            sums.add_cluster(&stats);
        }
        for stats in self.subscriptions.live() {
            sums.add(&Scope::new(&stats.scope), &stats.block);
            let name = format!("{}.version_text", stats.scope);
            let value = Value::Text(stats.version());
            sums.add_named(name.clone(), value, || (name, Vec::new()));
        }
        self.mesh.read(&mut |metric| sums.add_metric(metric));
        sums.add(&Scope::new("server"), &self.server);
        sums.add(&Scope::new("listener_manager"), &self.listener_manager);
        sums.add(&Scope::new("cluster_manager"), &self.cluster_manager);
        sums.add(&Scope::new("filesystem"), &*self.filesystem);
        sums.into_metrics()
    }
}

/// The connection manager, and the scope of its filters of one kind that have this prefix.
fn of_filter(manager: &str, kind: &str, own: &str) -> [Arc<str>; 2] {
    let scope = match own.trim_end_matches('.') {
        "" => kind.into(),
        own => escape(&format!("{kind}.{own}")),
    };
    [escape(manager), scope]
}

/// Envoy replaces colons in the variable parts of names.
fn escape(name: &str) -> Arc<str> {
    name.replace(':', "_").into()
}

/// The targets of one kind that somebody still holds, by key.
#[derive(Debug)]
struct Targets<K, T>(Mutex<BTreeMap<K, Weak<T>>>);

impl<K, T> Default for Targets<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord, T> Targets<K, T> {
    fn get(&self, key: K, new: impl FnOnce() -> T) -> Arc<T> {
        let mut targets = self.0.lock();
        let slot = targets.entry(key).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let target = Arc::new(new());
            *slot = Arc::downgrade(&target);
            target
        })
    }

    fn live(&self) -> Vec<Arc<T>> {
        let mut targets = self.0.lock();
        targets.retain(|_, target| target.strong_count() > 0);
        targets.values().filter_map(Weak::upgrade).collect()
    }
}
