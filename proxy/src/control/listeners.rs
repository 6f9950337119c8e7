//! A listener and its route configurations at run time: what they wait for.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use super::{
    compile::{CompiledListener, Compiler},
    secrets::SecretKey,
};
use crate::config::RouteTable;

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
    pub(super) fn waiting(&self, compiler: &mut Compiler, now: Instant) -> Option<String> {
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
        let waiting = secrets
            .filter_map(|key| compiler.secrets.waiting_for(key))
            .next()?;
        Some(format!("listener {name:?}: {waiting}"))
    }

    /// When waiting for some route configuration ends.
    pub(super) fn timeout(&self, now: Instant) -> Option<Instant> {
        let routes = self.compiled.parts.routes.iter();
        let ends = routes.filter_map(|route| Some(self.since + route.timeout?));
        ends.filter(|end| *end > now).min()
    }
}
