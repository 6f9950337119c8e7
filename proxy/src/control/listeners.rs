//! Listeners and their route configurations: what serves, and what warms to replace it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use ithildin_proto::pb::envoy::config::{
    listener::v3::Listener as ListenerProto, route::v3::RouteConfiguration,
};
use tokio::time::Instant;

use super::{
    compile::{CompiledListener, Compiler},
    report::ConfigErrors,
};
use crate::config::RouteTable;

/// One listener by its name.
pub(super) struct ListenerState {
    /// The newest message, good or not.
    pub(super) source: Arc<ListenerProto>,
    pub(super) active: Option<ListenerRun>,
    pub(super) warming: Option<ListenerRun>,
    pub(super) rejected: Option<ConfigErrors>,
}

/// A compiled listener that waits for its routes and secrets, or did.
pub(super) struct ListenerRun {
    pub(super) compiled: CompiledListener,
    since: Instant,
}

/// One route configuration by its name.
pub(super) struct RouteState {
    /// The newest message, good or not.
    pub(super) source: Arc<RouteConfiguration>,
    /// What connection managers read; it keeps the last good table.
    pub(super) slot: Arc<ArcSwapOption<RouteTable>>,
    pub(super) rejected: Option<ConfigErrors>,
}

impl ListenerRun {
    pub(super) fn new(compiled: CompiledListener) -> Self {
        Self {
            compiled,
            since: Instant::now(),
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

impl ListenerState {
    pub(super) fn runs(&self) -> impl Iterator<Item = &ListenerRun> {
        self.active.iter().chain(&self.warming)
    }

    /// Lets the warming listener serve if it waits for nothing more.
    pub(super) fn promote(&mut self, compiler: &mut Compiler, now: Instant) -> bool {
        let ready = self
            .warming
            .as_ref()
            .is_some_and(|run| run.waiting(compiler, now).is_none());
        if ready {
            self.active = self.warming.take();
        }
        ready
    }
}
