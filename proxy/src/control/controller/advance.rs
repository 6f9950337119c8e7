//! From what warms to what serves: what is ready takes over, and is published.
//!
//! Make before break: clusters are there before the routes and listeners that name them, and go after
//! them.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::Controller;
use crate::{
    config::{Listener, Map, Snapshot},
    control::{ControlState, listeners::RouteRun, provenance},
};

/// How long the control task sleeps at most: everything that it waits for wakes it, but the wall
/// clock may jump.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// An update of this many resources leaves enough free memory behind to be given back at once.
pub(super) const LARGE_UPDATE: u64 = 100;

impl Controller {
    /// Lets serve what is warm, and publishes if anything changed.
    pub(super) fn advance(&mut self) {
        let now = Instant::now();
        let compiler = &self.compiler;
        self.clusters
            .promote(|run| run.waiting(compiler, now).is_none());
        self.started |= self.received && !self.clusters.first_ones_warm();
        self.advance_routes(now);
        if self.started {
            let (compiler, clusters) = (&mut self.compiler, &self.clusters);
            self.listeners
                .promote(|run| run.waiting(compiler, clusters, now).is_none());
        }
        self.let_clusters_go(now);
        let revisions = (self.clusters.revision(), self.listeners.revision());
        if self.made_from.snapshot != revisions {
            self.made_from.snapshot = revisions;
            let active = self.listeners.active();
            let listeners = active.map(|run| Arc::clone(&run.compiled.listener));
            self.publish(listeners.collect());
            self.collect_at = now;
        }
        self.collect(now);
        self.updates.gauges(&self.clusters, &self.listeners);
        let state = self.current_state(now);
        if state.waiting.is_empty() && self.compiled >= LARGE_UPDATE {
            self.compiled = 0;
            give_back_memory();
        }
        self.state.send_replace(Arc::new(state));
    }

    /// Routes are read in place, so their clusters are published first.
    fn advance_routes(&mut self, now: Instant) {
        let clusters = &self.clusters;
        let is_ready = |run: &RouteRun| run.waiting(clusters, now).is_none();
        if !self.routes.warming().any(is_ready) {
            return;
        }
        if self.made_from.snapshot.0 != self.clusters.revision() {
            let listeners = self.published.current.load().listeners.to_vec();
            self.publish(listeners);
        }
        let clusters = &self.clusters;
        self.routes.promote(|run| {
            let is_ready = run.waiting(clusters, now).is_none();
            if is_ready {
                run.slot.store(Some(Arc::clone(&run.table)));
            }
            is_ready
        });
    }

    /// Forgets what only that needed which is published no more. Requests keep the snapshot of their beginning, so
    /// it is looked for again.
    fn collect(&mut self, now: Instant) {
        if now >= self.collect_at {
            self.compiler.collect();
            self.collect_at = now + LONGEST_SLEEP;
        }
    }

    /// Of the clusters that the control plane took away.
    fn let_clusters_go(&mut self, now: Instant) {
        if !self.clusters.leave() {
            return;
        }
        let named = self.references();
        for name in self.clusters.depart(|name| named.has(name), now) {
            tracing::warn!(
                cluster = name,
                "a cluster is gone that routes or listeners still name: requests there fail"
            );
        }
    }

    /// Publishes `listeners` beside the clusters that serve now.
    fn publish(&mut self, listeners: Vec<Arc<Listener>>) {
        let current = self.published.current.load_full();
        let live = self.clusters.active().map(|run| &run.compiled.cluster);
        let same_listeners = listeners.len() == current.listeners.len()
            && listeners
                .iter()
                .zip(&current.listeners)
                .all(|(a, b)| Arc::ptr_eq(a, b));
        let same_clusters = live.clone().all(|cluster| {
            let known = current.clusters.get(&cluster.name);
            known.is_some_and(|known| Arc::ptr_eq(known, cluster))
        });
        if same_listeners && same_clusters && live.clone().count() == current.clusters.len() {
            return;
        }
        let clusters: Map<_, _> = live
            .map(|cluster| (Arc::clone(&cluster.name), Arc::clone(cluster)))
            .collect();
        self.version += 1;
        self.published.publish(Arc::new(Snapshot {
            version: self.version,
            listeners: listeners.into(),
            clusters,
        }));
    }

    pub(super) fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let clusters = self.clusters.warming().filter_map(|run| run.timeout(now));
        let listeners = self.listeners.warming().filter_map(|run| run.timeout(now));
        let routes = self.routes.warming().filter_map(|run| run.timeout(now));
        let times = clusters
            .chain(listeners)
            .chain(routes)
            .chain(self.clusters.departure())
            .chain(self.compiler.secrets.next_timeout())
            .chain(self.compiler.secrets.next_expiry());
        let latest = now + LONGEST_SLEEP;
        times.min().unwrap_or(latest).min(latest)
    }

    fn current_state(&mut self, now: Instant) -> ControlState {
        let clusters = &self.clusters;
        let mut waiting: Vec<Arc<str>> = Vec::new();
        if !self.received {
            waiting.push("resources of the control plane".into());
        }
        for run in self.clusters.warming() {
            waiting.extend(run.waiting(&self.compiler, now).map(Arc::from));
        }
        for run in self.routes.warming() {
            waiting.extend(run.waiting(clusters, now).map(Arc::from));
        }
        for run in self.listeners.warming() {
            let reason = run.waiting(&mut self.compiler, clusters, now);
            waiting.extend(reason.map(Arc::from));
        }
        let rejected = self.clusters.rejections();
        let rejected = rejected
            .chain(self.listeners.rejections())
            .chain(self.routes.rejections())
            .chain(self.assignments.rejections())
            .chain(provenance::rejections(self.applied.provenance.as_deref()));
        ControlState {
            version: self.version,
            started: self.started,
            waiting: waiting.into(),
            rejected: rejected.collect(),
            secrets: self.compiler.secrets.statuses().into(),
        }
    }
}

/// Reading and compiling need more memory than serving: the messages are gone by now.
fn give_back_memory() {
    if let Err(error) = ithildin_sys::alloc::purge() {
        tracing::debug!(%error, "cannot purge the allocator");
    }
}
