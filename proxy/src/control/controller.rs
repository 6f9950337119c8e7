//! The one task that owns the configuration: it applies resources, follows secrets and names, warms
//! and publishes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ithildin_proto::pb::envoy::config::{bootstrap::v3::Bootstrap, route::v3::RouteConfiguration};
use ithildin_xds::{ResourceKind, ResourceSet, SecretSubscriber};
use tokio::{sync::watch, time::Instant};

use super::{
    ControlState, Rejection,
    bootstrap::{self, Statics},
    clusters::{ClusterRun, ClusterState},
    compile::{CompiledListener, Compiler},
    dns::{Dns, Resolved},
    listeners::{ListenerRun, ListenerState, RouteState},
    report::{ConfigError, ConfigErrors},
    secrets::SecretStore,
};
use crate::{
    access_log::LogWriter,
    config::{Map, Snapshot},
    stats::Registry,
    worker::Published,
};

/// How long the control task sleeps at most: everything that it waits for wakes it, but the wall
/// clock may jump.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

pub(super) struct Controller {
    statics: Statics,
    compiler: Compiler,
    dns: Dns,
    clusters: BTreeMap<String, ClusterState>,
    listeners: BTreeMap<String, ListenerState>,
    routes: BTreeMap<String, RouteState>,
    /// Errors of load assignments, by resource name.
    endpoints_rejected: BTreeMap<String, ConfigErrors>,
    /// Dynamic resources whose name a static one has.
    shadowed: BTreeMap<(ResourceKind, String), ConfigErrors>,
    /// The first resources of a control plane are there, or none are to come.
    received: bool,
    /// All clusters of the start were warm once: since then listeners wait for themselves alone.
    started: bool,
    version: u64,
    published: Arc<Published>,
    state: watch::Sender<Arc<ControlState>>,
}

impl Controller {
    /// Compiles the static resources; every error in any of them is reported.
    pub(super) fn new(
        bootstrap: &Bootstrap,
        secrets: Arc<dyn SecretSubscriber>,
        stats: Arc<Registry>,
        logs: Option<Arc<LogWriter>>,
        published: Arc<Published>,
    ) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        let (statics, checked) = bootstrap::statics(bootstrap);
        if let Err(found) = checked {
            errors.extend(found.0.iter().cloned());
        }
        let store = SecretStore::new(secrets, statics.secrets.clone());
        let mut controller = Self {
            received: !statics.dynamic,
            compiler: Compiler::new(stats, logs, store),
            dns: Dns::default(),
            clusters: BTreeMap::new(),
            listeners: BTreeMap::new(),
            routes: BTreeMap::new(),
            endpoints_rejected: BTreeMap::new(),
            shadowed: BTreeMap::new(),
            started: false,
            version: published.current.load().version,
            published,
            state: watch::Sender::new(Arc::default()),
            statics,
        };
        controller.apply(&ResourceSet::default());
        errors.extend(controller.static_errors());
        if errors.is_empty() {
            Ok(controller)
        } else {
            Err(ConfigErrors(errors.into()))
        }
    }

    pub(super) fn state(&self) -> watch::Receiver<Arc<ControlState>> {
        self.state.subscribe()
    }

    /// Runs for ever.
    pub(super) async fn run(mut self, mut resources: watch::Receiver<Arc<ResourceSet>>) {
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
                () = self.compiler.secrets.changed() => {}
                resolved = self.dns.next() => self.resolved(&resolved),
                () = tokio::time::sleep_until(wake) => self.compiler.secrets.expire(),
            }
        }
    }

    /// Applies a whole set of dynamic resources, beside the static ones.
    pub(super) fn apply(&mut self, set: &ResourceSet) {
        self.compiler.tls.forget();
        self.shadowed.clear();
        self.apply_routes(set);
        self.apply_clusters(set);
        self.apply_endpoints(set);
        self.apply_listeners(set);
        self.drop_unused_routes();
    }

    fn apply_routes(&mut self, set: &ResourceSet) {
        self.routes.retain(|name, _| set.routes.contains_key(name));
        for (name, source) in &set.routes {
            let known = self.routes.get(name);
            if known.is_some_and(|known| same(&known.source, source)) {
                continue;
            }
            self.apply_route(name, source);
        }
    }

    fn apply_route(&mut self, name: &str, source: &Arc<RouteConfiguration>) {
        let compiled = Compiler::routes(source, &format!("route configuration {name:?}"));
        let slot = self.compiler.route_slot(&name.into());
        let state = self
            .routes
            .entry(name.into())
            .or_insert_with(|| RouteState {
                source: Arc::clone(source),
                rejected: None,
                slot,
            });
        state.source = Arc::clone(source);
        match compiled {
            Ok(table) => {
                state.slot.store(Some(table));
                state.rejected = None;
            }
            Err(errors) => state.rejected = Some(refused(name, errors)),
        }
    }

    fn apply_clusters(&mut self, set: &ResourceSet) {
        let statics = &self.statics.resources.clusters;
        self.clusters
            .retain(|name, _| statics.contains_key(name) || set.clusters.contains_key(name));
        for (name, source) in statics.clone() {
            let path = self.statics.cluster_path(&name);
            self.apply_cluster(&name, &source, &path);
        }
        for (name, source) in &set.clusters {
            if self.statics.resources.clusters.contains_key(name) {
                self.shadow(ResourceKind::Cluster, name);
            } else {
                self.apply_cluster(name, source, &format!("cluster {name:?}"));
            }
        }
    }

    fn apply_cluster(
        &mut self,
        name: &str,
        source: &Arc<ithildin_proto::pb::envoy::config::cluster::v3::Cluster>,
        path: &str,
    ) {
        let known = self.clusters.get(name);
        if known.is_some_and(|known| same(&known.source, source)) {
            return;
        }
        let compiled = self.compiler.cluster(source, path);
        let state = self
            .clusters
            .entry(name.into())
            .or_insert_with(|| ClusterState {
                source: Arc::clone(source),
                active: None,
                warming: None,
                rejected: None,
            });
        state.source = Arc::clone(source);
        match compiled {
            Ok(compiled) => {
                state.warming = Some(ClusterRun::new(compiled, &mut self.dns));
                state.rejected = None;
            }
            Err(errors) => state.rejected = Some(refused(name, errors)),
        }
    }

    fn apply_endpoints(&mut self, set: &ResourceSet) {
        let mut used = BTreeSet::new();
        for state in self.clusters.values_mut() {
            for run in state.runs_mut() {
                let Some(name) = run.eds_name().cloned() else {
                    continue;
                };
                let Some(assignment) = set.endpoints.get(&*name) else {
                    continue;
                };
                match run.assign(assignment, &self.compiler) {
                    Some(Ok(())) => {
                        self.endpoints_rejected.remove(&*name);
                    }
                    Some(Err(errors)) => {
                        let errors = refused(&name, errors);
                        self.endpoints_rejected.insert(name.to_string(), errors);
                    }
                    None => {}
                }
                used.insert(name);
            }
        }
        self.endpoints_rejected
            .retain(|name, _| used.contains(name.as_str()));
    }

    fn apply_listeners(&mut self, set: &ResourceSet) {
        let statics = &self.statics.resources.listeners;
        self.listeners
            .retain(|name, _| statics.contains_key(name) || set.listeners.contains_key(name));
        for (name, source) in statics.clone() {
            let path = self.statics.listener_path(&name);
            self.apply_listener(&name, &source, &path);
        }
        for (name, source) in &set.listeners {
            if self.statics.resources.listeners.contains_key(name) {
                self.shadow(ResourceKind::Listener, name);
            } else {
                self.apply_listener(name, source, &format!("listener {name:?}"));
            }
        }
    }

    fn apply_listener(
        &mut self,
        name: &str,
        source: &Arc<ithildin_proto::pb::envoy::config::listener::v3::Listener>,
        path: &str,
    ) {
        let known = self.listeners.get(name);
        if known.is_some_and(|known| same(&known.source, source)) {
            return;
        }
        let compiled = self.compiler.listener(source, path);
        let compiled = compiled.and_then(|compiled| self.with_known_clusters(compiled));
        let state = self
            .listeners
            .entry(name.into())
            .or_insert_with(|| ListenerState {
                source: Arc::clone(source),
                active: None,
                warming: None,
                rejected: None,
            });
        state.source = Arc::clone(source);
        match compiled {
            Ok(compiled) => {
                state.warming = Some(ListenerRun::new(compiled));
                state.rejected = None;
            }
            Err(errors) => state.rejected = Some(refused(name, errors)),
        }
    }

    /// `validate_clusters`: the clusters that routes name must exist.
    fn with_known_clusters(
        &self,
        compiled: CompiledListener,
    ) -> Result<CompiledListener, ConfigErrors> {
        let references = compiled.parts.cluster_references.iter();
        let unknown = references.filter(|(_, name)| !self.clusters.contains_key(&**name));
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

    fn shadow(&mut self, kind: ResourceKind, name: &str) {
        let errors = ConfigErrors::one(
            format!("{} {name:?}", kind_text(kind)),
            "a static resource has this name",
        );
        self.shadowed
            .insert((kind, name.into()), refused(name, errors));
    }

    /// Route configurations that no listener names are let go: delta xDS may never say that they
    /// went.
    fn drop_unused_routes(&mut self) {
        let runs = self.listeners.values().flat_map(ListenerState::runs);
        let used: BTreeSet<&str> = runs
            .flat_map(|run| &run.compiled.parts.routes)
            .map(|route| &*route.name)
            .collect();
        self.routes.retain(|name, _| used.contains(name.as_str()));
    }

    fn resolved(&mut self, resolved: &Resolved) {
        let Some(state) = self.clusters.get_mut(&*resolved.cluster) else {
            return;
        };
        let run = state
            .runs_mut()
            .find(|run| run.compiled.cluster.generation == resolved.generation);
        if let Some(run) = run {
            run.resolve(resolved, &self.compiler, &mut self.dns);
        }
    }

    /// Lets serve what is warm, and publishes if anything changed.
    pub(super) fn advance(&mut self) {
        let now = Instant::now();
        for state in self.clusters.values_mut() {
            state.promote(&self.compiler, now);
        }
        let warming = |state: &ClusterState| state.warming.is_some() && state.active.is_none();
        self.started |= self.received && !self.clusters.values().any(warming);
        if self.started {
            for state in self.listeners.values_mut() {
                state.promote(&mut self.compiler, now);
            }
        }
        self.publish();
        self.compiler.collect();
        let state = self.current_state(now);
        self.state.send_replace(Arc::new(state));
    }

    fn publish(&mut self) {
        let current = self.published.current.load_full();
        let listeners: Vec<_> = self
            .listeners
            .values()
            .filter_map(|state| Some(Arc::clone(&state.active.as_ref()?.compiled.listener)))
            .collect();
        let live = self
            .clusters
            .values()
            .filter_map(|state| state.active.as_ref());
        let same_listeners = listeners.len() == current.listeners.len()
            && listeners
                .iter()
                .zip(&current.listeners)
                .all(|(a, b)| Arc::ptr_eq(a, b));
        let same_clusters = live.clone().count() == current.clusters.len()
            && live.clone().all(|run| {
                let cluster = &run.compiled.cluster;
                let known = current.clusters.get(&cluster.name);
                known.is_some_and(|known| Arc::ptr_eq(known, cluster))
            });
        if same_listeners && same_clusters {
            return;
        }
        let clusters: Map<_, _> = live
            .map(|run| &run.compiled.cluster)
            .map(|cluster| (Arc::clone(&cluster.name), Arc::clone(cluster)))
            .collect();
        self.version += 1;
        self.published.publish(Arc::new(Snapshot {
            version: self.version,
            listeners,
            clusters,
        }));
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let clusters = self
            .clusters
            .values()
            .filter_map(|state| state.warming.as_ref());
        let listeners = self
            .listeners
            .values()
            .filter_map(|state| state.warming.as_ref());
        let times = clusters
            .filter_map(|run| run.timeout(now))
            .chain(listeners.filter_map(|run| run.timeout(now)))
            .chain(self.compiler.secrets.next_timeout())
            .chain(self.compiler.secrets.next_expiry());
        times
            .min()
            .unwrap_or(now + LONGEST_SLEEP)
            .min(now + LONGEST_SLEEP)
    }

    fn current_state(&mut self, now: Instant) -> ControlState {
        let mut waiting: Vec<Arc<str>> = Vec::new();
        if !self.received {
            waiting.push("resources of the control plane".into());
        }
        for run in self
            .clusters
            .values()
            .filter_map(|state| state.warming.as_ref())
        {
            waiting.extend(run.waiting(&self.compiler, now).map(Arc::from));
        }
        for run in self
            .listeners
            .values()
            .filter_map(|state| state.warming.as_ref())
        {
            waiting.extend(run.waiting(&mut self.compiler, now).map(Arc::from));
        }
        ControlState {
            version: self.version,
            started: self.started,
            waiting: waiting.into(),
            rejected: self.rejections().into(),
            secrets: self.compiler.secrets.statuses().into(),
        }
    }

    fn rejections(&self) -> Vec<Rejection> {
        let clusters = self.clusters.iter();
        let clusters = clusters.filter_map(|(name, state)| {
            Some((ResourceKind::Cluster, name, state.rejected.as_ref()?))
        });
        let listeners = self.listeners.iter();
        let listeners = listeners.filter_map(|(name, state)| {
            Some((ResourceKind::Listener, name, state.rejected.as_ref()?))
        });
        let routes = self.routes.iter();
        let routes = routes.filter_map(|(name, state)| {
            Some((ResourceKind::Route, name, state.rejected.as_ref()?))
        });
        let endpoints = self.endpoints_rejected.iter();
        let endpoints = endpoints.map(|(name, errors)| (ResourceKind::Endpoints, name, errors));
        let shadowed = self.shadowed.iter();
        let shadowed = shadowed.map(|((kind, name), errors)| (*kind, name, errors));
        clusters
            .chain(listeners)
            .chain(routes)
            .chain(endpoints)
            .chain(shadowed)
            .map(|(kind, name, errors)| Rejection {
                kind,
                name: name.as_str().into(),
                errors: errors.clone(),
            })
            .collect()
    }

    /// What is wrong with static resources.
    fn static_errors(&self) -> Vec<ConfigError> {
        let listeners = self
            .listeners
            .values()
            .filter_map(|state| state.rejected.as_ref());
        let clusters = self
            .clusters
            .values()
            .filter_map(|state| state.rejected.as_ref());
        let all = listeners.chain(clusters);
        all.flat_map(|errors| errors.0.iter().cloned()).collect()
    }
}

fn same<T: PartialEq>(a: &Arc<T>, b: &Arc<T>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

fn is_empty(set: &ResourceSet) -> bool {
    set.listeners.is_empty() && set.clusters.is_empty()
}

fn kind_text(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::Cluster => "cluster",
        ResourceKind::Endpoints => "load assignment",
        ResourceKind::Listener => "listener",
        ResourceKind::Route => "route configuration",
        ResourceKind::Secret => "secret",
    }
}

/// Logs the refusal of a resource; its last good form stays.
fn refused(name: &str, errors: ConfigErrors) -> ConfigErrors {
    tracing::warn!(resource = name, "refused: {errors}");
    errors
}
