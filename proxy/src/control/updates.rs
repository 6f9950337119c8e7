//! What the control task counts of its updates, under Envoy's names.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use ithildin_proto::pb::envoy::config::{
    cluster::v3::Cluster as ClusterProto, listener::v3::Listener as ListenerProto,
};

use super::{
    clusters::ClusterRun,
    listeners::ListenerRun,
    resources::{Changes, Resources, Stamp},
};
use crate::stats::{ClusterManagerBlock, ListenerManagerBlock, Registry, SubscriptionStats};

pub(super) struct Updates {
    stats: Arc<Registry>,
    /// `cluster_manager.cds` and `listener_manager.lds`, where a control plane is followed.
    discovery: Option<(Arc<SubscriptionStats>, Arc<SubscriptionStats>)>,
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

    pub(super) fn clusters(&mut self, changes: Changes, stamp: &Stamp) {
        let manager = self.cluster_manager();
        manager.cluster_added.add(changes.added);
        manager.cluster_modified.add(changes.modified);
        manager.cluster_removed.add(changes.removed);
        if changes != Changes::default() {
            stamp.count(&self.discovery().0, changes.refused == 0);
        }
    }

    pub(super) fn listeners(&mut self, changes: Changes, stamp: &Stamp) {
        let manager = self.listener_manager();
        manager.listener_added.add(changes.added);
        manager.listener_modified.add(changes.modified);
        manager.listener_removed.add(changes.removed);
        if changes != Changes::default() {
            stamp.count(&self.discovery().1, changes.refused == 0);
        }
    }

    pub(super) fn gauges(
        &self,
        clusters: &Resources<ClusterProto, ClusterRun>,
        listeners: &Resources<ListenerProto, ListenerRun>,
    ) {
        let manager = self.cluster_manager();
        manager.active_clusters.set(count(clusters.active()));
        manager.warming_clusters.set(count(clusters.warming()));
        let manager = self.listener_manager();
        manager
            .total_listeners_active
            .set(count(listeners.active()));
        manager
            .total_listeners_warming
            .set(count(listeners.warming()));
    }

    fn discovery(&mut self) -> &(Arc<SubscriptionStats>, Arc<SubscriptionStats>) {
        let stats = &self.stats;
        self.discovery.get_or_insert_with(|| {
            (
                stats.subscription("cluster_manager.cds"),
                stats.subscription("listener_manager.lds"),
            )
        })
    }
}

impl Stamp {
    /// The `n`th update, now.
    pub(super) fn now(version: u64) -> Self {
        let at = SystemTime::now();
        Self { version, at }
    }

    /// Counts this update for a subscription.
    pub(super) fn count(&self, subscription: &SubscriptionStats, accepted: bool) {
        let block = &subscription.block;
        block.update_attempt.inc();
        if !accepted {
            block.update_rejected.inc();
            return;
        }
        block.update_success.inc();
        block.version.set(signed(self.version));
        block.update_time.set(self.milliseconds());
    }

    /// Since the Unix epoch.
    fn milliseconds(&self) -> i64 {
        let since: std::time::Duration = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

fn count<T>(all: impl Iterator<Item = T>) -> i64 {
    signed(all.count() as u64)
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
