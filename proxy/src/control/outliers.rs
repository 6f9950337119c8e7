//! Ejecting hosts of the clusters that serve, and taking them back.

use std::{sync::Arc, time::Instant};

use tokio::sync::Notify;

use super::clusters::count_health;
use crate::{config::Cluster, worker::Published};

/// Runs for ever; whoever records a failure that matters tells `wake`.
pub(super) async fn follow(published: Arc<Published>, wake: Arc<Notify>) {
    loop {
        let due = sweep(&published, Instant::now());
        tokio::select! {
            () = wake.notified() => {}
            () = until(due) => {}
        }
    }
}

/// When to sweep next, if nobody asks for it earlier.
fn sweep(published: &Published, now: Instant) -> Option<Instant> {
    let snapshot = published.current.load();
    let mut due: Option<Instant> = None;
    for cluster in snapshot.clusters.values() {
        let Some(detector) = &cluster.outlier else {
            continue;
        };
        if detector.wants_sweep(now) {
            sweep_cluster(cluster, now);
        }
        due = due.into_iter().chain(detector.due()).min();
    }
    due
}

fn sweep_cluster(cluster: &Cluster, now: Instant) {
    let Some(detector) = &cluster.outlier else {
        return;
    };
    let set = cluster.endpoints.load();
    let hosts = set.priorities.iter().flatten();
    let monitors: Vec<_> = hosts.filter_map(|host| host.monitor.as_deref()).collect();
    if detector.sweep(&monitors, now) {
        let ejected = monitors.iter().filter(|it| it.is_ejected()).count();
        tracing::info!(cluster = %cluster.name, ejected, hosts = monitors.len(), "outlier detection");
        count_health(cluster, &set);
        cluster.rebalance();
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
