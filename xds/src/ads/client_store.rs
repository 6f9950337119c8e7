//! What an ADS client holds: decoded, checked resources, and which others they refer to.

use std::{collections::BTreeSet, sync::Arc};

use ithildin_proto::{
    pb::envoy::config::{
        cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
        route::v3::RouteConfiguration,
    },
    unpack,
};
use prost::{Message, Name};

use super::{listeners::Listeners, world::endpoints_of};
use crate::{
    NameMap, Provenance, ResourceKind, ResourceSet,
    subscription::{Interest, Update, Verdict},
};

/// A resource that is to be accepted or refused.
#[derive(Clone, Copy, Debug)]
pub enum Candidate<'a> {
    Cluster(&'a Cluster),
    Endpoints(&'a ClusterLoadAssignment),
    Listener(&'a Listener),
    Route(&'a RouteConfiguration),
}

/// Accepts a resource, or says why not: the server is told, and the form before it stays in force.
pub type ResourceCheck = Arc<dyn Fn(Candidate<'_>) -> Result<(), String> + Send + Sync>;

/// What became of an update.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) verdict: Verdict,
    /// Endpoints to ask for again, since their clusters have changed.
    pub(super) renew: Vec<String>,
}

pub(super) struct Store {
    set: ResourceSet,
    listeners: Listeners,
    /// Endpoints of clusters that the server does not send.
    own_endpoints: Vec<String>,
    /// These, and the endpoints that the clusters name.
    endpoints: Interest,
    /// The routes that the listeners name.
    routes: Interest,
    check: ResourceCheck,
}

impl Store {
    pub(super) fn new(own_endpoints: Vec<String>, check: ResourceCheck) -> Self {
        Self {
            set: ResourceSet::default(),
            listeners: Listeners::default(),
            endpoints: Interest::of(own_endpoints.iter().map(String::as_str)),
            own_endpoints,
            routes: Interest::default(),
            check,
        }
    }

    pub(super) fn set(&self) -> &ResourceSet {
        &self.set
    }

    /// Whether anything of the kind is in force.
    pub(super) fn has(&self, kind: ResourceKind) -> bool {
        match kind {
            ResourceKind::Cluster => !self.set.clusters.is_empty(),
            ResourceKind::Endpoints => !self.set.endpoints.is_empty(),
            ResourceKind::Listener => !self.set.listeners.is_empty(),
            ResourceKind::Route => !self.set.routes.is_empty(),
            ResourceKind::Secret => false,
        }
    }

    /// What to subscribe to: all clusters and listeners, and the endpoints and routes that these name.
    pub(super) fn wanted(&self, kind: ResourceKind) -> Interest {
        match kind {
            ResourceKind::Cluster | ResourceKind::Listener => Interest::everything(),
            ResourceKind::Endpoints => self.endpoints.clone(),
            ResourceKind::Route => self.routes.clone(),
            ResourceKind::Secret => Interest::default(),
        }
    }

    /// Takes an update. Good resources are in force even if others are refused.
    pub(super) fn take(&mut self, kind: ResourceKind, update: &Update) -> Taken {
        match kind {
            ResourceKind::Cluster => {
                let taken = self.take_typed::<Cluster>(update);
                let clusters = self.set.clusters.values();
                let named = clusters.filter_map(|it| endpoints_of(it));
                let own = self.own_endpoints.iter().cloned();
                self.endpoints = Interest::of(own.chain(named));
                taken
            }
            ResourceKind::Endpoints => self.take_typed::<ClusterLoadAssignment>(update),
            ResourceKind::Listener => {
                let taken = self.take_typed::<Listener>(update);
                self.routes = Interest::of(self.listeners.routes());
                taken
            }
            ResourceKind::Route => self.take_typed::<RouteConfiguration>(update),
            ResourceKind::Secret => Taken::default(),
        }
    }

    /// Keeps what was said with an update, and what became of it.
    pub(super) fn note(&mut self, kind: ResourceKind, update: &Update, verdict: &Verdict) {
        self.provenance().note(kind, update, verdict);
    }

    /// Drops endpoints and routes that nothing refers to after an update of `kind`: a server may never
    /// remove them.
    pub(super) fn drop_unwanted(&mut self, kind: ResourceKind, update: &Update) {
        match kind {
            ResourceKind::Cluster => {
                let wanted = self.endpoints.clone();
                self.set.endpoints.retain(|name, _| wanted.contains(name));
                let provenance = self.provenance();
                provenance.retain(ResourceKind::Endpoints, |name| wanted.contains(name));
            }
            ResourceKind::Listener => {
                let wanted = self.routes.clone();
                self.set.routes.retain(|name, _| wanted.contains(name));
                let provenance = self.provenance();
                provenance.retain(ResourceKind::Route, |name| wanted.contains(name));
            }
            // What was there before is wanted: only what has come need be looked at.
            ResourceKind::Endpoints | ResourceKind::Route => {
                let wanted = self.wanted(kind);
                let names = update.resources.iter().map(|incoming| &incoming.name);
                for name in names.filter(|name| !wanted.contains(name)) {
                    match kind {
                        ResourceKind::Endpoints => drop(self.set.endpoints.remove(name)),
                        _ => drop(self.set.routes.remove(name)),
                    }
                    self.provenance().forget(kind, name);
                }
            }
            ResourceKind::Secret => {}
        }
    }

    fn provenance(&mut self) -> &mut Provenance {
        Arc::make_mut(self.set.provenance.get_or_insert_default())
    }

    fn take_typed<T: Typed>(&mut self, update: &Update) -> Taken {
        self.remove::<T>(update);
        let mut taken = Taken::default();
        for incoming in &update.resources {
            let accepted = match &incoming.body {
                Some(any) => unpack::<T>(any)
                    .map_err(|error| error.to_string())
                    .and_then(|resource| self.accept(&incoming.name, resource)),
                None => Err("the resource is empty".to_owned()),
            };
            match accepted {
                Ok(renew) => taken.renew.extend(renew),
                Err(reason) => {
                    taken.verdict.refused.insert(incoming.name.clone(), reason);
                }
            }
        }
        taken
    }

    /// What goes makes room for what comes, as in Envoy.
    fn remove<T: Typed>(&mut self, update: &Update) {
        let held = T::of(&mut self.set);
        if update.full {
            let seen: BTreeSet<_> = update.resources.iter().map(|r| r.name.as_str()).collect();
            held.retain(|name, _| seen.contains(name));
        }
        for name in &update.removed {
            held.remove(name);
        }
        self.listeners.retain(&self.set.listeners);
    }

    /// An equal resource keeps its `Arc`, and is not judged again: istiod sends all listeners and routes with
    /// most pushes. Returns the endpoints that a changed cluster wants anew.
    fn accept<T: Typed>(&mut self, name: &str, resource: T) -> Result<Option<String>, String> {
        if resource.name() != name || name.is_empty() {
            let found = resource.name();
            return Err(format!("the resource calls itself {found:?}"));
        }
        let old = T::of(&mut self.set).get(name);
        if old.is_some_and(|old| **old == resource) {
            return Ok(None);
        }
        let renew = old.and(resource.refers());
        let candidate = resource.candidate();
        if let Candidate::Listener(listener) = candidate {
            self.listeners.check(listener)?;
        }
        (self.check)(candidate)?;
        if let Candidate::Listener(listener) = candidate {
            self.listeners.put(listener);
        }
        T::of(&mut self.set).insert(name.to_owned(), Arc::new(resource));
        Ok(renew)
    }
}

/// What the four types have in common.
trait Typed: Message + Name + Default + PartialEq {
    fn name(&self) -> &str;
    fn candidate(&self) -> Candidate<'_>;
    /// The endpoints that a cluster discovers.
    fn refers(&self) -> Option<String> {
        None
    }
    fn of(set: &mut ResourceSet) -> &mut NameMap<Self>;
}

impl Typed for Cluster {
    fn name(&self) -> &str {
        &self.name
    }

    fn candidate(&self) -> Candidate<'_> {
        Candidate::Cluster(self)
    }

    fn refers(&self) -> Option<String> {
        endpoints_of(self)
    }

    fn of(set: &mut ResourceSet) -> &mut NameMap<Self> {
        &mut set.clusters
    }
}

impl Typed for ClusterLoadAssignment {
    fn name(&self) -> &str {
        &self.cluster_name
    }

    fn candidate(&self) -> Candidate<'_> {
        Candidate::Endpoints(self)
    }

    fn of(set: &mut ResourceSet) -> &mut NameMap<Self> {
        &mut set.endpoints
    }
}

impl Typed for Listener {
    fn name(&self) -> &str {
        &self.name
    }

    fn candidate(&self) -> Candidate<'_> {
        Candidate::Listener(self)
    }

    fn of(set: &mut ResourceSet) -> &mut NameMap<Self> {
        &mut set.listeners
    }
}

impl Typed for RouteConfiguration {
    fn name(&self) -> &str {
        &self.name
    }

    fn candidate(&self) -> Candidate<'_> {
        Candidate::Route(self)
    }

    fn of(set: &mut ResourceSet) -> &mut NameMap<Self> {
        &mut set.routes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use ithildin_proto::{from_yaml, pack};

    use super::*;
    use crate::subscription::{Incoming, Receipt};

    fn update(stat_name: &str) -> Update {
        let cluster = Cluster {
            name: "a".into(),
            alt_stat_name: stat_name.into(),
            ..Default::default()
        };
        Update {
            url: ResourceKind::Cluster.into(),
            resources: vec![Incoming {
                name: "a".into(),
                version: "1".into(),
                body: Some(pack(&cluster)),
            }],
            removed: Vec::new(),
            full: false,
            receipt: Receipt::default(),
        }
    }

    #[test]
    fn what_is_equal_is_not_judged_again() {
        let judged = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&judged);
        let mut store = Store::new(
            Vec::new(),
            Arc::new(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }),
        );
        for (stat_name, expected) in [("x", 1), ("x", 1), ("y", 2), ("x", 3)] {
            let taken = store.take(ResourceKind::Cluster, &update(stat_name));
            assert_eq!(taken.verdict.reason(), None);
            assert_eq!(judged.load(Ordering::Relaxed), expected, "{stat_name}");
        }
    }

    /// Listeners by name and port, as a delta response.
    fn listeners(all: &[(&str, u16)], removed: &[&str]) -> Update {
        let incoming = |&(name, port): &(&str, u16)| {
            let listener: Listener = from_yaml(&format!(
                "{{name: {name}, address: {{socket_address: {{address: 10.0.0.1, port_value: {port}}}}}}}"
            ))
            .expect("a listener");
            Incoming {
                name: name.into(),
                version: "1".into(),
                body: Some(pack(&listener)),
            }
        };
        Update {
            url: ResourceKind::Listener.into(),
            resources: all.iter().map(incoming).collect(),
            removed: removed.iter().map(|name| (*name).to_owned()).collect(),
            full: false,
            receipt: Receipt::default(),
        }
    }

    #[test]
    fn endpoints_of_clusters_that_no_server_sends_stay_wanted() {
        let mut store = Store::new(vec!["own".into()], Arc::new(|_| Ok(())));
        assert!(store.wanted(ResourceKind::Endpoints).contains("own"));
        let none = Update {
            url: ResourceKind::Cluster.into(),
            resources: Vec::new(),
            removed: Vec::new(),
            full: true,
            receipt: Receipt::default(),
        };
        store.take(ResourceKind::Cluster, &none);
        assert!(store.wanted(ResourceKind::Endpoints).contains("own"));
        assert!(!store.wanted(ResourceKind::Endpoints).contains("other"));
    }

    #[test]
    fn an_address_has_one_listener() {
        let mut store = Store::new(Vec::new(), Arc::new(|_| Ok(())));
        for (all, removed, refused) in [
            (&[("a", 80), ("b", 80), ("c", 81)][..], &[][..], &["b"][..]),
            // Its own is no other's, and it may move.
            (&[("a", 80), ("a", 82)], &[], &[]),
            (&[("b", 80), ("c", 82)], &[], &["c"]),
            (&[("d", 82)], &["a"], &[]),
            (&[("e", 81), ("f", 0), ("g", 0)], &[], &["e"]),
        ] {
            let taken = store.take(ResourceKind::Listener, &listeners(all, removed));
            let names: Vec<_> = taken.verdict.refused.keys().map(String::as_str).collect();
            assert_eq!(names, refused, "{all:?}");
        }
        let again = store.take(ResourceKind::Listener, &listeners(&[("e", 81)], &[]));
        assert_eq!(
            again.verdict.refused["e"],
            "listener \"e\".address: 10.0.0.1:81 is the address of listener \"c\" already"
        );
    }
}
