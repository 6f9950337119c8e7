//! What the control task counts of its updates, under Envoy's names.

use std::sync::Arc;

use ithildin_proto::pb::envoy::config::{
    cluster::v3::Cluster as ClusterProto, listener::v3::Listener as ListenerProto,
};

use super::{
    clusters::ClusterRun,
    listeners::ListenerRun,
    provenance::Arrival,
    resources::{Changes, Resources},
};
use crate::stats::{ClusterManagerBlock, ListenerManagerBlock, Registry, SubscriptionStats};

pub(super) struct Updates {
    stats: Arc<Registry>,
    /// `cluster_manager.cds` and `listener_manager.lds`, where a control plane is followed.
    discovery: Option<(Subscription, Subscription)>,
}

struct Subscription {
    stats: Arc<SubscriptionStats>,
    /// Responses that are counted, and those of them of which something was refused.
    counted: (u64, u64),
}

impl Updates {
    pub(super) fn new(stats: Arc<Registry>, dynamic: bool) -> Self {
        let mut updates = Self {
            stats,
            discovery: None,
        };
        if dynamic {
            updates.discovery();
        }
        updates
    }

    pub(super) fn cluster_manager(&self) -> &ClusterManagerBlock {
        &self.stats.cluster_manager
    }

    pub(super) fn listener_manager(&self) -> &ListenerManagerBlock {
        &self.stats.listener_manager
    }

    pub(super) fn clusters(&mut self, changes: Changes, arrival: &Arrival<'_>) {
        let manager = self.cluster_manager();
        manager.cluster_added.add(changes.added);
        manager.cluster_modified.add(changes.modified);
        manager.cluster_removed.add(changes.removed);
        if self.follows(changes, arrival) {
            self.discovery().0.count(changes, arrival);
        }
    }

    pub(super) fn listeners(&mut self, changes: Changes, arrival: &Arrival<'_>) {
        let manager = self.listener_manager();
        manager.listener_added.add(changes.added);
        manager.listener_modified.add(changes.modified);
        manager.listener_removed.add(changes.removed);
        if self.follows(changes, arrival) {
            self.discovery().1.count(changes, arrival);
        }
    }

    pub(super) fn gauges(
        &self,
        clusters: &Resources<ClusterProto, ClusterRun>,
        listeners: &Resources<ListenerProto, ListenerRun>,
    ) {
        let manager = self.cluster_manager();
        manager.active_clusters.set(count(clusters.active().len()));
        manager
            .warming_clusters
            .set(count(clusters.warming().len()));
        let manager = self.listener_manager();
        manager
            .total_listeners_active
            .set(count(listeners.active().len()));
        manager
            .total_listeners_warming
            .set(count(listeners.warming().len()));
    }

    /// A proxy of static resources alone has no subscription to show.
    fn follows(&self, changes: Changes, arrival: &Arrival<'_>) -> bool {
        self.discovery.is_some() || arrival.told().is_some() || changes != Changes::default()
    }

    fn discovery(&mut self) -> &mut (Subscription, Subscription) {
        let stats = &self.stats;
        let subscription = |scope| Subscription {
            stats: stats.subscription(scope),
            counted: (0, 0),
        };
        self.discovery.get_or_insert_with(|| {
            (
                subscription("cluster_manager.cds"),
                subscription("listener_manager.lds"),
            )
        })
    }
}

impl Subscription {
    /// A control plane's responses; without one, an update that changed something.
    fn count(&mut self, changes: Changes, arrival: &Arrival<'_>) {
        let stamp = arrival.stamp();
        let Some(told) = arrival.told() else {
            if changes != Changes::default() {
                stamp.count(&self.stats, changes.refused == 0);
            }
            return;
        };
        let (responses, rejected) = self.counted;
        self.counted = (told.responses, told.rejected);
        let responses = told.responses.saturating_sub(responses);
        let mut rejected = told.rejected.saturating_sub(rejected);
        // What its client let pass may still be refused here.
        if responses > rejected && changes.refused > 0 {
            rejected += 1;
        }
        let accepted = responses.saturating_sub(rejected);
        stamp.count_all(&self.stats, accepted, rejected);
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
