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
    resources::{Changes, Refusal, Resources},
    runtime_values,
    secrets::{SecretKey, SecretStore},
    updates::Updates,
};
use crate::{
    access_log::LogWriter,
    istio::Node,
    stats::{Registry, SubscriptionStats},
    worker::Published,
};

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
    /// The set that was applied last.
    applied: ResourceSet,
    /// By route configuration, the subscriptions of the connection managers that read it.
    readers: BTreeMap<Arc<str>, Vec<Arc<SubscriptionStats>>>,
    made_from: MadeFrom,
    /// When to look for what nobody uses any more.
    collect_at: Instant,
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

/// Revisions of the resources that something was made from.
#[derive(Default)]
struct MadeFrom {
    /// [`Controller::readers`]: of listeners.
    readers: u64,
    /// The published snapshot: of clusters, and of listeners.
    snapshot: (u64, u64),
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
            applied: ResourceSet::default(),
            readers: BTreeMap::new(),
            made_from: MadeFrom::default(),
            collect_at: Instant::now(),
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
        if let Some(tracer) = &statics.tracer
            && let Err(found) = controller.compiler.trace_by_default(tracer)
        {
            errors.extend_from_slice(&found.0);
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
                        self.received |= is_whole(&set);
                        self.apply(&set);
                    }
                    // The source is gone: what it said last stands.
                    Err(_) => open = false,
                },
                accepted = self.compiler.secrets.changed() => {
                    self.count_secret(accepted);
                    // A gateway has thousands of them, which come one by one.
                    while let Some(accepted) = self.compiler.secrets.changed().now_or_never() {
                        self.count_secret(accepted);
                    }
                }
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

    /// Counts a secret's newer form, if there is one, for whoever uses it.
    fn count_secret(&self, accepted: Option<SecretKey>) {
        if let Some(key) = accepted {
            self.clusters.runs().for_each(|run| run.count_secret(&key));
            self.listeners.runs().for_each(|run| run.count_secret(&key));
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

    /// Applies a whole set of dynamic resources, beside the static ones. What it has in common with the set before
    /// is not looked at.
    pub(super) fn apply(&mut self, set: &ResourceSet) {
        self.compiler.tls.forget();
        self.stamp = Stamp::now(self.stamp.update + 1);
        let before = std::mem::replace(&mut self.applied, set.clone());
        let clusters = set.clusters.differing(&before.clusters);
        let listeners = set.listeners.differing(&before.listeners);
        self.apply_clusters(set, &clusters);
        self.apply_endpoints(set, &set.endpoints.differing(&before.endpoints));
        let hopes = self.listeners.hope() && !clusters.is_empty();
        self.apply_listeners(set, &listeners, hopes);
        self.apply_routes(set, set.routes.differing(&before.routes));
        self.count_refused(before.provenance.as_deref());
    }

    fn apply_clusters(&mut self, set: &ResourceSet, changed: &BTreeSet<&str>) {
        let kept = self.keep_named_clusters(set, changed);
        let (compiler, dns) = (&mut self.compiler, &mut self.dns);
        let arrival = Arrival::new(
            &self.stamp,
            set.provenance.as_deref(),
            ResourceKind::Cluster,
        );
        let compile = |config: &ClusterProto, path: &str| {
            let compiled = compiler.cluster(config, path)?;
            Ok(ClusterRun::new(compiled, dns))
        };
        let has = |name: &str| set.clusters.get(name);
        let mut changes = self.clusters.replace(changed, has, &arrival, compile);
        changes.removed += kept;
        self.updates.clusters(changes, &arrival);
        self.compiled += changes.compiled();
    }

    fn apply_endpoints(&mut self, set: &ResourceSet, changed: &BTreeSet<&str>) {
        let provenance = set.provenance.as_deref();
        let arrival = Arrival::new(&self.stamp, provenance, ResourceKind::Endpoints);
        let (clusters, compiler) = (&mut self.clusters, &self.compiler);
        self.assignments
            .replace(&set.endpoints, changed, &arrival, clusters, compiler);
    }

    /// `hopes`: what was refused for want of clusters may be better off now.
    fn apply_listeners(&mut self, set: &ResourceSet, changed: &BTreeSet<&str>, hopes: bool) {
        let provenance = set.provenance.as_deref();
        let arrival = Arrival::new(&self.stamp, provenance, ResourceKind::Listener);
        if changed.is_empty() && !hopes {
            self.updates.listeners(Changes::default(), &arrival);
            return;
        }
        let staying = self.listeners.staying(&set.listeners);
        let mut addresses = Addresses::of(staying.map(|run| &*run.compiled.listener));
        let (compiler, clusters) = (&mut self.compiler, &self.clusters);
        let compile = |config: &ListenerProto, path: &str| {
            let compiled = compiler.listener(config, path)?;
            let compiled = known_clusters(compiled, |name| clusters.contains(name))
                .map_err(Refusal::Others)?;
            let claimed = addresses.claim(&compiled.listener, path);
            claimed.map_err(Refusal::Others)?;
            Ok(ListenerRun::new(compiled))
        };
        let has = |name: &str| set.listeners.get(name);
        let changes = self.listeners.replace(changed, has, &arrival, compile);
        self.updates.listeners(changes, &arrival);
        self.compiled += changes.compiled();
    }

    /// Clusters that are gone and named all the same stay for a while; returns how many.
    fn keep_named_clusters(&mut self, set: &ResourceSet, changed: &BTreeSet<&str>) -> u64 {
        let is_gone = |name: &&str| !set.clusters.contains_key(name);
        let mut gone = changed.iter().copied().filter(is_gone).peekable();
        if gone.peek().is_none() {
            return 0;
        }
        let named = self.references();
        let named = |name: &str| named.may_have(name);
        self.clusters.keep_named(gone, named, Instant::now())
    }

    fn references(&self) -> References {
        let listeners = self.listeners.runs();
        References::of(listeners.map(|run| &*run.compiled.listener))
    }

    /// Route configurations that no listener names are let go: delta xDS may never say that they
    /// went.
    fn apply_routes<'a>(&mut self, set: &'a ResourceSet, mut changed: BTreeSet<&'a str>) {
        if self.made_from.readers != self.listeners.revision() {
            self.made_from.readers = self.listeners.revision();
            self.readers = readers(self.listeners.runs());
            // Any of them may be named now, or no more.
            changed.extend(set.routes.keys().map(String::as_str));
        }
        let (compiler, readers) = (&mut self.compiler, &self.readers);
        let provenance = set.provenance.as_deref();
        let arrival = Arrival::new(&self.stamp, provenance, ResourceKind::Route);
        let compile = |config: &RouteConfiguration, path: &str| {
            let compiled = Compiler::routes(config, path);
            for stats in readers.get(&*config.name).into_iter().flatten() {
                arrival.stamp().count(stats, compiled.is_ok());
            }
            let slot = compiler.route_slot(&config.name.as_str().into());
            Ok(RouteRun::new(slot, compiled?))
        };
        let has = |name: &str| set.routes.get(name).filter(|_| readers.contains_key(name));
        let changes = self.routes.replace(&changed, has, &arrival, compile);
        self.compiled += changes.compiled();
    }

    /// Routes and endpoints that the control plane's client refused; others are counted by response.
    fn count_refused(&self, before: Option<&Provenance>) {
        let now = self.applied.provenance.as_deref();
        for name in newly_refused(ResourceKind::Route, before, now) {
            for stats in self.readers.get(name).into_iter().flatten() {
                self.stamp.count(stats, false);
            }
        }
        for name in newly_refused(ResourceKind::Endpoints, before, now) {
            for run in self.assignments.followers_of(name, &self.clusters) {
                let counters = &run.compiled.cluster.stats.control;
                counters.update_attempt.inc();
                counters.update_rejected.inc();
            }
        }
    }

    fn resolved(&mut self, resolved: Resolved) {
        let run = self
            .clusters
            .runs_of_mut(&resolved.cluster)
            .find(|run| run.compiled.cluster.generation == resolved.generation);
        if let Some(run) = run {
            run.resolve(resolved, &self.compiler, &mut self.dns);
        }
    }

    fn inventory(&self) -> Inventory {
        let provenance = self.applied.provenance.as_deref();
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

/// Who reads each route configuration.
fn readers<'a>(
    listeners: impl Iterator<Item = &'a ListenerRun>,
) -> BTreeMap<Arc<str>, Vec<Arc<SubscriptionStats>>> {
    let mut readers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for route in listeners.flat_map(|run| &run.compiled.parts.routes) {
        let of_route = readers.entry(Arc::clone(&route.name)).or_default();
        of_route.push(Arc::clone(&route.stats));
    }
    readers
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

/// Whether a set is something to begin with. A control plane tells of clusters first: until it has told of listeners,
/// too, nobody knows what there is to wait for.
fn is_whole(set: &ResourceSet) -> bool {
    match &set.provenance {
        Some(told) => {
            let mut kinds = [ResourceKind::Cluster, ResourceKind::Listener].into_iter();
            kinds.all(|kind| told.of(kind).is_some())
        }
        None => !set.listeners.is_empty() || !set.clusters.is_empty(),
    }
}
