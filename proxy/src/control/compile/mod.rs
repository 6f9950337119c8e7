//! The compiler: xDS messages to the types of [`crate::config`].
//!
//! Invariants: a field that is set and that we do not honour is an error, except for the explicit
//! lists in `no_effect!`; messages are taken apart without `..`, or beside a function that does, so
//! that a new field does not compile before somebody decided about it; all errors of a resource are
//! reported at once, each with its path.

// Deprecated fields are still in configurations: they are honoured, or named in an error.
#![allow(deprecated)]

mod access_log;
mod access_log_records;
mod access_log_service;
mod address;
mod alpn;
mod chain_match;
mod cluster;
mod cluster_http;
mod collector;
mod cors;
mod custom_tags;
mod discovery;
mod dns;
mod endpoints;
mod error_matcher;
mod ext_authz;
mod ext_authz_service;
mod fault;
mod filter_overrides;
mod forward;
mod hash_policy;
mod headers;
mod http;
mod http_filters;
mod http_options;
mod jwt;
mod jwt_keys;
mod jwt_locations;
mod limit_rules;
mod limit_service;
mod listener;
mod listener_filters;
mod load_balancing;
mod lua;
mod matchers;
mod metadata;
mod mirror;
mod network_filters;
mod outlier;
mod peer_metadata;
mod rate_limit;
mod rbac;
mod retry;
mod route_action;
mod route_answer;
mod routes;
mod tcp;
mod telemetry;
mod tls;
mod tls_common;
mod trace;
mod trace_provider;
mod upstream;
mod weighted;

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use ithildin_proto::pb::envoy::config::{
    cluster::v3::Cluster as ClusterProto,
    core::v3::{ConfigSource, config_source::ConfigSourceSpecifier},
    endpoint::v3::ClusterLoadAssignment,
    listener::v3::Listener as ListenerProto,
    route::v3::RouteConfiguration,
    trace::v3::tracing::Http as HttpTracer,
};

use tokio::sync::Notify;

pub(super) use self::{
    cluster::CompiledCluster,
    discovery::{Discovery, Questions},
    dns::{DnsSpec, LookupFamily},
    endpoints::DnsTarget,
    forward::ForwardSpec,
    matchers::string as string_match,
    tls::TlsContexts,
};
use super::{
    report::{At, ConfigErrors, Report, refuse},
    secrets::{SecretKey, SecretStore},
};
use crate::{
    access_log::LogWriter,
    config::{
        Listener, LocalCluster, RouteTable,
        cluster::EndpointSet,
        jwt_keys::{KeySource, RemoteKeys},
        trace::Tracer,
    },
    http::collector::Collectors,
    istio::{Node, Telemetry},
    stats::{Registry, SubscriptionStats},
};

/// How long a resource is waited for where the configuration does not say; Envoy's default.
const DEFAULT_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// Where the parts of all compilations come together: secrets, route slots and statistics live on
/// while a resource is replaced.
pub(super) struct Compiler {
    pub(super) stats: Arc<Registry>,
    /// `None` while resources are only checked: loggers are read, and not made.
    logs: Option<Arc<LogWriter>>,
    pub(super) secrets: SecretStore,
    pub(super) tls: TlsContexts,
    /// Who we are.
    pub(super) node: Arc<Node>,
    /// Whether fragments of targets are left out, as the bootstrap's runtime says.
    pub(super) strips_fragment: bool,
    /// The cluster that we belong to, if the bootstrap names it.
    pub(super) local: Option<Arc<LocalCluster>>,
    telemetry: HashMap<telemetry::Key, Weak<Telemetry>>,
    routes: HashMap<Arc<str>, Weak<ArcSwapOption<RouteTable>>>,
    keys: HashMap<KeySource, Weak<RemoteKeys>>,
    /// Of access logs and traces.
    collectors: Collectors,
    /// The bootstrap's, for connection managers that trace and name none.
    default_tracer: Option<Arc<Tracer>>,
    /// Told when a host of any cluster is to be ejected.
    pub(super) outliers: Arc<Notify>,
    generation: u64,
}

/// A listener, and what it waits for.
#[derive(Debug)]
pub(super) struct CompiledListener {
    pub(super) listener: Arc<Listener>,
    pub(super) parts: ListenerParts,
}

#[derive(Debug, Default)]
pub(super) struct ListenerParts {
    /// How statistics name the listener: `stat_prefix`, else its address.
    pub(super) stat_name: String,
    /// `traffic_direction: INBOUND`.
    pub(super) inbound: bool,
    /// `traffic_direction: OUTBOUND`.
    pub(super) outbound: bool,
    pub(super) routes: Vec<RouteDependency>,
    pub(super) secrets: Vec<SecretKey>,
    /// Clusters that must exist (`validate_clusters`), each with the place that names it.
    pub(super) cluster_references: Vec<(String, Arc<str>)>,
}

/// A route configuration that is fetched.
#[derive(Clone, Debug)]
pub(super) struct RouteDependency {
    pub(super) name: Arc<str>,
    /// `None`: it is waited for as long as it takes.
    pub(super) timeout: Option<Duration>,
    /// `http.<stat_prefix>.rds.<name>`.
    pub(super) stats: Arc<SubscriptionStats>,
}

impl Compiler {
    pub(super) fn new(
        stats: Arc<Registry>,
        logs: Option<Arc<LogWriter>>,
        secrets: SecretStore,
        node: Arc<Node>,
    ) -> Self {
        Self {
            node,
            strips_fragment: false,
            local: None,
            telemetry: HashMap::new(),
            stats,
            logs,
            secrets,
            tls: TlsContexts::default(),
            routes: HashMap::new(),
            keys: HashMap::new(),
            collectors: Collectors::default(),
            default_tracer: None,
            outliers: Arc::default(),
            generation: 0,
        }
    }

    /// Names the cluster that we belong to.
    pub(super) fn belong_to(&mut self, cluster: &str) {
        let locality = endpoints::locality_text(self.node.locality());
        self.local = Some(Arc::new(LocalCluster {
            name: cluster.into(),
            locality,
            endpoints: ArcSwap::default(),
        }));
    }

    /// Tells `config` of spans wherever a connection manager names nobody.
    pub(super) fn trace_by_default(&mut self, config: &HttpTracer) -> Result<(), ConfigErrors> {
        let report = Report::default();
        let at = report.root("tracing");
        self.default_tracer = trace_provider::tracer(config, self, &at.field("http"));
        report.finish(Some(()))
    }

    pub(super) fn listener(
        &mut self,
        config: &ListenerProto,
        path: &str,
    ) -> Result<CompiledListener, ConfigErrors> {
        let report = Report::default();
        let mut parts = ListenerParts::default();
        let listener = listener::listener(config, self, &mut parts, &report.root(path));
        let listener = Arc::new(report.finish(listener)?);
        Ok(CompiledListener { listener, parts })
    }

    pub(super) fn cluster(
        &mut self,
        config: &ClusterProto,
        path: &str,
    ) -> Result<CompiledCluster, ConfigErrors> {
        let report = Report::default();
        let cluster = cluster::cluster(config, self, &report.root(path));
        report.finish(cluster)
    }

    pub(super) fn routes(
        config: &RouteConfiguration,
        path: &str,
    ) -> Result<Arc<RouteTable>, ConfigErrors> {
        let report = Report::default();
        let table = routes::table(config, &report.root(path));
        report.finish(Some(Arc::new(table)))
    }

    /// The endpoints that `config` gives to `cluster`; those that `previous` has too are kept.
    pub(super) fn endpoints(
        &self,
        config: &ClusterLoadAssignment,
        cluster: &CompiledCluster,
        previous: &EndpointSet,
        path: &str,
    ) -> Result<EndpointSet, ConfigErrors> {
        let report = Report::default();
        let placement = &cluster.placement;
        let set = endpoints::fixed(
            config,
            placement,
            self.stats.workers(),
            previous,
            &report.root(path),
        );
        report.finish(set)
    }

    /// Checks endpoints, whichever cluster they are for.
    pub(super) fn any_endpoints(
        config: &ClusterLoadAssignment,
        path: &str,
    ) -> Result<(), ConfigErrors> {
        let report = Report::default();
        let (placement, none) = (endpoints::Placement::default(), EndpointSet::default());
        let set = endpoints::fixed(config, &placement, 1, &none, &report.root(path));
        report.finish(set).map(drop)
    }

    /// The endpoints of a cluster whose names were resolved.
    pub(super) fn resolved<'t>(
        &self,
        targets: impl Iterator<Item = (&'t DnsTarget, &'t [std::net::IpAddr])>,
        previous: &EndpointSet,
    ) -> EndpointSet {
        endpoints::resolved(targets, self.stats.workers(), previous)
    }

    /// The table that connection managers with RDS `name` read, whichever listener they are in.
    pub(super) fn route_slot(&mut self, name: &Arc<str>) -> Arc<ArcSwapOption<RouteTable>> {
        kept(&mut self.routes, name, || ArcSwapOption::from(None))
    }

    /// The keys of that source, whichever filters verify by them.
    fn remote_keys(&mut self, source: &KeySource) -> Arc<RemoteKeys> {
        kept(&mut self.keys, source, || RemoteKeys::new(source.clone()))
    }

    /// Forgets what nobody uses any more.
    pub(super) fn collect(&mut self) {
        self.secrets.collect();
        self.routes.retain(|_, slot| slot.strong_count() > 0);
        self.telemetry.retain(|_, it| it.strong_count() > 0);
        self.keys.retain(|_, it| it.strong_count() > 0);
    }

    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }
}

fn kept<K: Eq + Hash + Clone, V>(
    known: &mut HashMap<K, Weak<V>>,
    key: &K,
    new: impl FnOnce() -> V,
) -> Arc<V> {
    if let Some(value) = known.get(key).and_then(Weak::upgrade) {
        return value;
    }
    let value = Arc::new(new());
    known.insert(key.clone(), Arc::downgrade(&value));
    value
}

/// Checks the source of routes or endpoints, which is ADS; the result is how long they are waited
/// for, `None` without limit.
fn ads_source(source: Option<&ConfigSource>, at: &At<'_>) -> Option<Option<Duration>> {
    let Some(ConfigSource {
        authorities,
        initial_fetch_timeout,
        resource_api_version,
        config_source_specifier,
    }) = source
    else {
        at.error("is required");
        return None;
    };
    refuse!(at; authorities);
    // There is one version: 3.
    let _ = resource_api_version;
    match config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(_)) => {}
        _ => {
            at.error("only ads is supported");
            return None;
        }
    }
    Some(at.limit(
        "initial_fetch_timeout",
        initial_fetch_timeout,
        Some(DEFAULT_FETCH_TIMEOUT),
    ))
}
