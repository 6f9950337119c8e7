//! Which clusters the configuration names: those wait for their last use before they go, and who
//! names a new one waits until it is warm.

use std::{collections::HashSet, sync::Arc};

use crate::config::{
    FilterChain, Listener, RouteTable,
    filters::FilterKind,
    listener::{AccessFilter, Terminal},
    route::{Clusters, RouteAction},
};

/// The clusters that some listeners and their routes name.
#[derive(Debug, Default)]
pub(super) struct References {
    names: HashSet<Arc<str>>,
    /// A request or a ClientHello names the cluster (`cluster_header`, `sni_cluster`): it may be any.
    open: bool,
}

impl References {
    pub(super) fn of<'a>(listeners: impl Iterator<Item = &'a Listener>) -> Self {
        let mut found = Self::default();
        for listener in listeners {
            for chain in listener.chains.chains() {
                found.add_chain(chain);
            }
        }
        found
    }

    pub(super) fn of_table(table: &RouteTable) -> Self {
        let mut found = Self::default();
        found.add_table(table);
        found
    }

    /// Clusters that are named for certain.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    pub(super) fn has(&self, cluster: &str) -> bool {
        self.names.contains(cluster)
    }

    pub(super) fn may_have(&self, cluster: &str) -> bool {
        self.open || self.has(cluster)
    }

    fn add_chain(&mut self, chain: &FilterChain) {
        self.open |= chain.sni_cluster;
        for filter in &chain.access {
            if let AccessFilter::ExtAuthz(filter) = filter {
                self.names.insert(Arc::clone(&filter.service.cluster));
            }
        }
        match &chain.terminal {
            Terminal::Tcp(proxy) => {
                let names = proxy.clusters.iter().map(|(name, _)| Arc::clone(name));
                self.names.extend(names);
            }
            Terminal::Http(manager) => {
                for filter in &manager.filters {
                    match &filter.kind {
                        FilterKind::ExtAuthz(filter) => {
                            self.names.insert(Arc::clone(filter.service.cluster()));
                        }
                        FilterKind::Jwt(filter) => {
                            let keys = filter.remote_keys();
                            let names = keys.map(|it| Arc::clone(&it.source.cluster));
                            self.names.extend(names);
                        }
                        FilterKind::LimitService(filter) => {
                            self.names.insert(Arc::clone(&filter.service.cluster));
                        }
                        _ => {}
                    }
                }
                if let Some(table) = &*manager.routes.load() {
                    self.add_table(table);
                }
            }
        }
    }

    fn add_table(&mut self, table: &RouteTable) {
        for route in table.hosts.iter().flat_map(|host| &host.routes) {
            let RouteAction::Forward(forward) = &route.action else {
                continue;
            };
            match &forward.clusters {
                Clusters::One(name) => drop(self.names.insert(Arc::clone(name))),
                Clusters::Weighted { entries, .. } => {
                    let names = entries.iter().map(|entry| Arc::clone(&entry.name));
                    self.names.extend(names);
                }
                Clusters::Header(_) => self.open = true,
            }
            let mirrors = forward.mirrors.iter();
            self.names
                .extend(mirrors.map(|mirror| Arc::clone(&mirror.cluster)));
        }
    }
}
