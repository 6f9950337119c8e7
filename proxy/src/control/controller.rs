//! The one task that owns the configuration: it applies resources, follows secrets and names, warms
//! and publishes.

mod advance;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::FutureExt;
use ithildin_proto::pb::envoy::config::{
    bootstrap::v3::Bootstrap, cluster::v3::Cluster as ClusterProto,
    listener::v3::Listener as ListenerProto, route::v3::RouteConfiguration,
};
use ithildin_xds::{Provenance, ResourceKind, ResourceSet, SecretSubscriber};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

use advance::LARGE_UPDATE;

use super::{
    ControlState,
    addresses::Addresses,
    bootstrap::{self, Statics},
    clusters::{ClusterRun, Clusters},
    compile::{CompiledListener, Compiler},
    dns::{Dns, Resolved},
    endpoints::Assignments,
    held::Stamp,
    inventory::{Inventory, InventoryRequest},
    listeners::{ListenerRun, RouteRun},
    provenance::{Arrival, add_refused, newly_refused},
    references::References,
    report::{ConfigError, ConfigErrors},
    resources::{Refusal, Resources},
    runtime_values,
    secrets::SecretStore,
    updates::Updates,
};
use crate::{access_log::LogWriter, istio::Node, stats::Registry, worker::Published};

pub(super) struct Controller {
    compiler: Compiler,
    dns: Dns,
    clusters: Clusters,
    assignments: Assignments,
    listeners: Resources<ListenerProto, ListenerRun>,
    routes: Resources<RouteConfiguration, RouteRun>,
    updates: Updates,
    /// The update that is applied; the bootstrap is the first.
    stamp: Stamp,
    /// What the control plane said of the resources.
    provenance: Option<Arc<Provenance>>,
    /// The first resources of a control plane are there, or none are to come.
    received: bool,
    /// All clusters of the start were warm once: since then listeners wait for themselves alone.
    started: bool,
    version: u64,
    /// Resources that were compiled since memory was given back; the start counts as many.
    compiled: u64,
    published: Arc<Published>,
    state: watch::Sender<Arc<ControlState>>,
}

impl Controller {
    /// Compiles the static resources; every error in any of them is reported.
    pub(super) fn new(
        bootstrap: Bootstrap,
        secrets: Arc<dyn SecretSubscriber>,
        stats: Arc<Registry>,
        logs: Option<Arc<LogWriter>>,
        published: Arc<Published>,
    ) -> Result<Self, ConfigErrors> {
        let node = Arc::new(Node::new(bootstrap.node.as_ref()));
        let strips_fragment = runtime_values::strips_fragment(&bootstrap);
        let (mut statics, checked) = bootstrap::statics(bootstrap);
        let mut errors = checked.map_or_else(|found| found.0.to_vec(), |()| Vec::new());
        let secret_files = std::mem::take(&mut statics.secrets);
        let store = SecretStore::new(secrets, secret_files, Arc::clone(&stats));
        let mut controller = Self {
            received: !statics.dynamic,
            updates: Updates::new(Arc::clone(&stats), statics.dynamic),
            compiler: Compiler::new(stats, logs, store, node),
            dns: Dns::default(),
            clusters: Resources::new(ResourceKind::Cluster),
            assignments: Assignments::default(),
            listeners: Resources::new(ResourceKind::Listener),
            routes: Resources::new(ResourceKind::Route),
            stamp: Stamp::now(0),
            provenance: None,
            started: false,
            version: published.current.load().version,
            compiled: LARGE_UPDATE,
            published,
            state: watch::Sender::new(Arc::default()),
        };
        controller.compiler.strips_fragment = strips_fragment;
        if let Some(name) = &statics.local_cluster {
            controller.compiler.belong_to(name);
        }
        controller.add_statics(statics, &mut errors);
        if errors.is_empty() {
            Ok(controller)
        } else {
            Err(ConfigErrors(errors.into()))
        }
    }

    pub(super) fn state(&self) -> watch::Receiver<Arc<ControlState>> {
        self.state.subscribe()
    }

    /// Told when a host of any cluster is to be ejected.
    pub(super) fn outliers(&self) -> Arc<Notify> {
        Arc::clone(&self.compiler.outliers)
    }

    /// Runs for ever.
    pub(super) async fn run(
        mut self,
        mut resources: watch::Receiver<Arc<ResourceSet>>,
        mut requests: mpsc::Receiver<InventoryRequest>,
    ) {
        resources.mark_changed();
        let mut open = true;
        loop {
            self.advance();
            let wake = self.next_wake();
            tokio::select! {
                changed = resources.changed(), if open => match changed {
                    Ok(()) => {
                        let set = Arc::clone(&resources.borrow_and_update());
                        self.received |= !is_empty(&set);
                        self.apply(&set);
                    }
                    // The source is gone: what it said last stands.
                    Err(_) => open = false,
                },
                accepted = self.compiler.secrets.changed() => if let Some(key) = accepted {
                    self.clusters.runs().for_each(|run| run.count_secret(&key));
                    self.listeners.runs().for_each(|run| run.count_secret(&key));
                },
                resolved = self.dns.next() => {
                    self.resolved(resolved);
                    // Thousands of names may be there at once.
                    while let Some(resolved) = self.dns.next().now_or_never() {
                        self.resolved(resolved);
                    }
                }
                Some(request) = requests.recv() => {
                    // Whoever asked may have gone.
                    let _ = request.send(self.inventory());
                }
                () = tokio::time::sleep_until(wake) => self.compiler.secrets.expire(),
            }
        }
    }

    /// Compiles what the bootstrap holds, which is not kept.
    fn add_statics(&mut self, statics: Statics, errors: &mut Vec<ConfigError>) {
        for (path, cluster) in &statics.clusters {
            match self.compiler.cluster(cluster, path) {
                Ok(compiled) => {
                    let run = ClusterRun::new(compiled, &mut self.dns);
                    self.clusters.add_static(&cluster.name, &self.stamp, run);
                    self.updates.cluster_manager().cluster_added.inc();
                }
                Err(found) => errors.extend_from_slice(&found.0),
            }
        }
        let declared: BTreeSet<_> = statics.clusters.iter().map(|(_, it)| &*it.name).collect();
        let mut addresses = Addresses::default();
        for (path, listener) in &statics.listeners {
            let compiled = self.compiler.listener(listener, path);
            let compiled = compiled
                .and_then(|it| known_clusters(it, |name| declared.contains(name)))
                .and_then(|it| addresses.claim(&it.listener, path).map(|()| it));
            match compiled {
                Ok(compiled) => {
                    let run = ListenerRun::new(compiled);
                    self.listeners.add_static(&listener.name, &self.stamp, run);
                    self.updates.listener_manager().listener_added.inc();
                }
                Err(found) => errors.extend_from_slice(&found.0),
            }
        }
    }

    /// Applies a whole set of dynamic resources, beside the static ones.
    pub(super) fn apply(&mut self, set: &ResourceSet) {
        self.compiler.tls.forget();
        self.stamp = Stamp::now(self.stamp.update + 1);
        let before = std::mem::replace(&mut self.provenance, set.provenance.clone());
        self.apply_clusters(set);
        self.apply_endpoints(set);
        self.apply_listeners(set);
        self.apply_routes(set);
        self.count_refused(before.as_deref());
    }

    fn apply_clusters(&mut self, set: &ResourceSet) {
        let kept = self.keep_named_clusters(set);
        let (compiler, dns) = (&mut self.compiler, &mut self.dns);
        let arrival = Arrival::new(
            &self.stamp,
            set.provenance.as_deref(),
            ResourceKind::Cluster,
        );
        let everything = |_: &str| true;
        let compile = |config: &ClusterProto, path: &str| {
            let compiled = compiler.cluster(config, path)?;
            Ok(ClusterRun::new(compiled, dns))
        };
        let mut changes = self
            .clusters
            .replace(&set.clusters, &arrival, everything, compile);
        changes.removed += kept;
        self.updates.clusters(changes, &arrival);
        self.compiled += changes.compiled();
    }

    fn apply_endpoints(&mut self, set: &ResourceSet) {
        let provenance = set.provenance.as_deref();
        let arrival = Arrival::new(&self.stamp, provenance, ResourceKind::Endpoints);
        let runs = self.clusters.runs_mut();
        self.assignments
            .replace(&set.endpoints, &arrival, runs, &self.compiler);
    }

    fn apply_listeners(&mut self, set: &ResourceSet) {
        let staying = self.listeners.staying(&set.listeners);
        let mut addresses = Addresses::of(staying.map(|run| &*run.compiled.listener));
        let (compiler, clusters) = (&mut self.compiler, &self.clusters);
        let provenance = set.provenance.as_deref();
        let arrival = Arrival::new(&self.stamp, provenance, ResourceKind::Listener);
        let everything = |_: &str| true;
        let compile = |config: &ListenerProto, path: &str| {
            let compiled = compiler.listener(config, path)?;
            let compiled = known_clusters(compiled, |name| clusters.contains(name))
                .map_err(Refusal::Others)?;
            let claimed = addresses.claim(&compiled.listener, path);
            claimed.map_err(Refusal::Others)?;
            Ok(ListenerRun::new(compiled))
        };
        let changes = self
            .listeners
            .replace(&set.listeners, &arrival, everything, compile);
        self.updates.listeners(changes, &arrival);
        self.compiled += changes.compiled();
    }

    /// Clusters that are gone and named all the same stay for a while; returns how many.
    fn keep_named_clusters(&mut self, set: &ResourceSet) -> u64 {
        if !self.clusters.misses(&set.clusters) {
            return 0;
        }
        let named = self.references();
        let named = |name: &str| named.may_have(name);
        self.clusters
            .retain_named(&set.clusters, named, Instant::now())
    }

    fn references(&self) -> References {
        let listeners = self.listeners.runs();
        References::of(listeners.map(|run| &*run.compiled.listener))
    }

    /// Route configurations that no listener names are let go: delta xDS may never say that they
    /// went.
    fn apply_routes(&mut self, set: &ResourceSet) {
        let dependencies = self
            .listeners
            .runs()
            .flat_map(|run| &run.compiled.parts.routes);
        let used: BTreeSet<&str> = dependencies.clone().map(|route| &*route.name).collect();
        let compiler = &mut self.compiler;
        let provenance = set.provenance.as_deref();
        let arrival = Arrival::new(&self.stamp, provenance, ResourceKind::Route);
        let mut outcomes = BTreeMap::new();
        let changes = self.routes.replace(
            &set.routes,
            &arrival,
            |name| used.contains(name),
            |config, path| {
                let compiled = Compiler::routes(config, path);
                outcomes.insert(config.name.clone(), compiled.is_ok());
                let slot = compiler.route_slot(&config.name.as_str().into());
                Ok(RouteRun::new(slot, compiled?))
            },
        );
        self.compiled += changes.compiled();
        for route in dependencies {
            if let Some(accepted) = outcomes.get(&*route.name) {
                arrival.stamp().count(&route.stats, *accepted);
            }
        }
    }

    /// Routes and endpoints that the control plane's client refused; others are counted by response.
    fn count_refused(&self, before: Option<&Provenance>) {
        let now = self.provenance.as_deref();
        let new = |kind| {
            let (before, now) = (
                before.and_then(|it| it.of(kind)),
                now.and_then(|it| it.of(kind)),
            );
            newly_refused(before, now)
        };
        let refused = new(ResourceKind::Route);
        let listeners = self.listeners.runs().filter(|_| !refused.is_empty());
        for route in listeners.flat_map(|run| &run.compiled.parts.routes) {
            if refused.contains(&*route.name) {
                self.stamp.count(&route.stats, false);
            }
        }
        let refused = new(ResourceKind::Endpoints);
        for run in self.clusters.runs().filter(|_| !refused.is_empty()) {
            if run.eds_name().is_some_and(|name| refused.contains(&**name)) {
                let counters = &run.compiled.cluster.stats.control;
                counters.update_attempt.inc();
                counters.update_rejected.inc();
            }
        }
    }

    fn resolved(&mut self, resolved: Resolved) {
        let run = self
            .clusters
            .runs_of(&resolved.cluster)
            .find(|run| run.compiled.cluster.generation == resolved.generation);
        if let Some(run) = run {
            run.resolve(resolved, &self.compiler, &mut self.dns);
        }
    }

    fn inventory(&self) -> Inventory {
        let provenance = self.provenance.as_deref();
        let of = |kind| provenance.and_then(|it| it.of(kind));
        let version = |kind| {
            Arrival::new(&self.stamp, provenance, kind)
                .stamp()
                .version_info()
        };
        let mut inventory = Inventory {
            clusters_version: version(ResourceKind::Cluster),
            listeners_version: version(ResourceKind::Listener),
            clusters: self.clusters.held(),
            endpoints: self.assignments.held(),
            listeners: self.listeners.held(),
            routes: self.routes.held(),
            secrets: self.compiler.secrets.held(),
        };
        add_refused(&mut inventory.clusters, of(ResourceKind::Cluster));
        add_refused(&mut inventory.endpoints, of(ResourceKind::Endpoints));
        add_refused(&mut inventory.listeners, of(ResourceKind::Listener));
        add_refused(&mut inventory.routes, of(ResourceKind::Route));
        inventory
    }
}

/// `validate_clusters`: the clusters that routes name must exist.
fn known_clusters(
    compiled: CompiledListener,
    known: impl Fn(&str) -> bool,
) -> Result<CompiledListener, ConfigErrors> {
    let references = compiled.parts.cluster_references.iter();
    let unknown = references.filter(|(_, name)| !known(name));
    let errors: Vec<_> = unknown
        .map(|(path, name)| ConfigError {
            path: path.clone(),
            message: format!("unknown cluster {name:?}"),
        })
        .collect();
    if errors.is_empty() {
        Ok(compiled)
    } else {
        Err(ConfigErrors(errors.into()))
    }
}

fn is_empty(set: &ResourceSet) -> bool {
    set.listeners.is_empty() && set.clusters.is_empty()
}
