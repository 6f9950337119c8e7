//! A listener and its route configurations at run time: what they wait for.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use super::{
    clusters::Clusters,
    compile::{CompiledListener, Compiler},
    references::References,
    secrets::SecretKey,
};
use crate::config::RouteTable;

/// For how long routes and listeners wait for the new clusters that they name. One whose endpoints
/// never come does not hold up the others for longer.
const CLUSTER_LIMIT: Duration = Duration::from_secs(5);

/// A compiled listener that waits for its routes and secrets, or did.
pub(super) struct ListenerRun {
    pub(super) compiled: CompiledListener,
    since: Instant,
}

/// A compiled route configuration.
pub(super) struct RouteRun {
    /// What connection managers read; it keeps the last good table.
    pub(super) slot: Arc<ArcSwapOption<RouteTable>>,
    pub(super) table: Arc<RouteTable>,
    since: Instant,
}

impl RouteRun {
    pub(super) fn new(slot: Arc<ArcSwapOption<RouteTable>>, table: Arc<RouteTable>) -> Self {
        Self {
            slot,
            table,
            since: Instant::now(),
        }
    }

    /// What is still waited for; the table before this one serves until then.
    pub(super) fn waiting(&self, clusters: &Clusters, now: Instant) -> Option<String> {
        let named = || References::of_table(&self.table);
        let cluster = cluster_to_come(named, clusters, self.since, now)?;
        let name = &self.table.name;
        Some(format!("route configuration {name:?}: cluster {cluster:?}"))
    }

    /// When waiting for clusters ends.
    pub(super) fn timeout(&self, now: Instant) -> Option<Instant> {
        Some(self.since + CLUSTER_LIMIT).filter(|end| *end > now)
    }
}

impl ListenerRun {
    pub(super) fn new(compiled: CompiledListener) -> Self {
        Self {
            compiled,
            since: Instant::now(),
        }
    }

    /// Counts an update of a secret, if it is one of this listener's.
    pub(super) fn count_secret(&self, key: &SecretKey) {
        if self.compiled.parts.secrets.contains(key) {
            let counters = &self.compiled.listener.stats.control;
            counters.ssl_context_update_by_sds.inc();
        }
    }

    /// What is still waited for.
    pub(super) fn waiting(
        &self,
        compiler: &mut Compiler,
        clusters: &Clusters,
        now: Instant,
    ) -> Option<String> {
        let name = &self.compiled.listener.name;
        for route in &self.compiled.parts.routes {
            let expired = route
                .timeout
                .is_some_and(|timeout| self.since + timeout <= now);
            if !expired && compiler.route_slot(&route.name).load().is_none() {
                return Some(format!("listener {name:?}: routes {:?}", route.name));
            }
        }
        let secrets = self.compiled.parts.secrets.iter();
        let mut waiting = secrets.filter_map(|key| compiler.secrets.waiting_for(key));
        if let Some(waiting) = waiting.next() {
            return Some(format!("listener {name:?}: {waiting}"));
        }
        let named = || References::of([&*self.compiled.listener].into_iter());
        let cluster = cluster_to_come(named, clusters, self.since, now)?;
        Some(format!("listener {name:?}: cluster {cluster:?}"))
    }

    /// When waiting for some route configuration, or for clusters, ends.
    pub(super) fn timeout(&self, now: Instant) -> Option<Instant> {
        let routes = self.compiled.parts.routes.iter();
        let ends = routes.filter_map(|route| Some(self.since + route.timeout?));
        let ends = ends.chain([self.since + CLUSTER_LIMIT]);
        ends.filter(|end| *end > now).min()
    }
}

/// A named cluster that warms for the first time, unless it was waited for long enough.
fn cluster_to_come(
    named: impl FnOnce() -> References,
    clusters: &Clusters,
    since: Instant,
    now: Instant,
) -> Option<String> {
    if now >= since + CLUSTER_LIMIT || !clusters.first_ones_warm() {
        return None;
    }
    let named = named();
    let mut to_come = named.names().filter(|name| clusters.is_to_come(name));
    to_come.next().map(str::to_owned)
}
