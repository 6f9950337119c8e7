//! One aggregated stream: its four subscriptions, and the order in which they are updated.
//!
//! An update must not cost a request, so what is new is made before what is old is broken:
//!
//! 1. clusters: the new ones beside those that go;
//! 2. endpoints, also unchanged ones of changed clusters, which Envoy warms anew;
//! 3. once the peer has accepted both and asks for the endpoints of every cluster: listeners, routes;
//! 4. once it has accepted these, and after a pause for the listeners that it drains: clusters go.
//!
//! On a new stream the peer asks in its own order and gets each answer at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::world::World;
use crate::{
    ResourceKind,
    subscription::{Catalog, Heard, Server},
};

/// For how long listeners and routes wait for the clusters that they refer to.
const WARM_LIMIT: Duration = Duration::from_secs(5);
/// For how long connections to a replaced listener may still use a removed cluster.
const DRAIN: Duration = Duration::from_secs(10);

/// The order of an update. Everything in it comes after what it refers to.
const ORDER: [ResourceKind; 4] = ResourceKind::AGGREGATED;

pub(super) struct Session<M> {
    machines: BTreeMap<ResourceKind, M>,
    /// The clusters that the peer was sent last, with those that are to go.
    clusters: Catalog,
    /// The endpoints of `clusters`, likewise.
    endpoints: Catalog,
    /// Whether a listener was sent: from then on updates are ordered.
    serving: bool,
    /// Listeners and routes wait until then at most.
    warm_by: Option<Instant>,
    /// When removed clusters may go; `None` while something of the update is still under way.
    retire_at: Option<Instant>,
    refused_clusters: bool,
}

impl<M: Server> Session<M> {
    pub(super) fn new() -> Self {
        Self {
            machines: ORDER.into_iter().map(|kind| (kind, M::new(kind))).collect(),
            clusters: Catalog::new(),
            endpoints: Catalog::new(),
            serving: false,
            warm_by: None,
            retire_at: None,
            refused_clusters: false,
        }
    }

    /// `None` if the stream does not carry `kind`.
    pub(super) fn request(&mut self, kind: ResourceKind, request: &M::Request) -> Option<Heard> {
        let heard = self.machines.get_mut(&kind)?.request(request);
        if kind == ResourceKind::Cluster {
            match heard {
                Heard::Ack => self.refused_clusters = false,
                Heard::Nack(_) => self.refused_clusters = true,
                _ => {}
            }
        }
        Some(heard)
    }

    /// The next response that is due; ask again until there is none.
    pub(super) fn next(
        &mut self,
        world: &World,
        now: Instant,
    ) -> Option<(ResourceKind, M::Response)> {
        if let Some(response) = self.upstream(world, now) {
            return Some(response);
        }
        if !self.is_warm(world, now) {
            return None;
        }
        for (kind, catalog) in [
            (ResourceKind::Listener, world.listeners()),
            (ResourceKind::Route, world.routes()),
        ] {
            if let Some(response) = self.respond(kind, catalog) {
                self.serving |= kind == ResourceKind::Listener;
                self.retire_at = None;
                return Some((kind, response));
            }
        }
        if !self.may_retire(world, now) {
            return None;
        }
        let (clusters, endpoints) = (world.clusters(), world.endpoints());
        self.clusters.retain(|name, _| clusters.contains_key(name));
        self.endpoints
            .retain(|name, _| endpoints.contains_key(name));
        self.upstream(world, now)
    }

    /// When to ask again although nothing happened.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.warm_by.into_iter().chain(self.retire_at).min()
    }

    fn upstream(&mut self, world: &World, now: Instant) -> Option<(ResourceKind, M::Response)> {
        let kind = ResourceKind::Cluster;
        let clusters = with_retired(world.clusters(), &self.clusters);
        if let Some(response) = self.respond(kind, &clusters) {
            self.rewarm(&clusters, world);
            self.clusters = clusters;
            self.warm_by = self.serving.then(|| now + WARM_LIMIT);
            return Some((kind, response));
        }
        self.clusters = clusters;
        let kind = ResourceKind::Endpoints;
        let endpoints = with_retired(world.endpoints(), &self.endpoints);
        let response = self.respond(kind, &endpoints);
        self.endpoints = endpoints;
        response.map(|response| (kind, response))
    }

    fn respond(&mut self, kind: ResourceKind, catalog: &Catalog) -> Option<M::Response> {
        self.machines
            .get_mut(&kind)?
            .respond(catalog, &BTreeSet::new())
    }

    /// Has the endpoints of new and changed clusters sent again.
    fn rewarm(&mut self, clusters: &Catalog, world: &World) {
        let changed = clusters
            .iter()
            .filter(|(name, cluster)| self.clusters.get(*name) != Some(cluster))
            .filter_map(|(name, _)| world.discovered().get(name))
            .map(String::as_str);
        if let Some(machine) = self.machines.get_mut(&ResourceKind::Endpoints) {
            machine.forget(changed);
            machine.allow_repeat();
        }
    }

    fn is_warm(&mut self, world: &World, now: Instant) -> bool {
        let Some(limit) = self.warm_by else {
            return true;
        };
        let asked = |machine: &M| {
            let interest = machine.interest();
            world
                .discovered()
                .values()
                .all(|name| interest.contains(name))
        };
        let clusters_done = self.settled(ResourceKind::Cluster);
        let endpoints_done = self.settled(ResourceKind::Endpoints);
        let endpoints = &self.machines[&ResourceKind::Endpoints];
        let warm = clusters_done && endpoints_done && (self.refused_clusters || asked(endpoints));
        if warm || now >= limit {
            self.warm_by = None;
        }
        self.warm_by.is_none()
    }

    fn may_retire(&mut self, world: &World, now: Instant) -> bool {
        let all_in =
            |ours: &Catalog, theirs: &Catalog| ours.keys().all(|name| theirs.contains_key(name));
        let nothing =
            all_in(&self.clusters, world.clusters()) && all_in(&self.endpoints, world.endpoints());
        if nothing {
            self.retire_at = None;
            return false;
        }
        if !self.settled(ResourceKind::Listener) || !self.settled(ResourceKind::Route) {
            return false;
        }
        let at = *self.retire_at.get_or_insert(now + DRAIN);
        let due = now >= at || !self.serving;
        if due {
            self.retire_at = None;
        }
        due
    }

    fn settled(&self, kind: ResourceKind) -> bool {
        self.machines[&kind].settled()
    }
}

/// `new`, and what the peer still has beside it.
fn with_retired(new: &Catalog, held: &Catalog) -> Catalog {
    let mut all = new.clone();
    for (name, resource) in held {
        all.entry(name.clone()).or_insert_with(|| resource.clone());
    }
    all
}
