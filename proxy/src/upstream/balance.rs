//! Load balancing: priority, then panic or health, then the cluster's policy.
//!
//! What depends on the endpoint set alone is computed once per set; a choice costs no allocation.
//! Source: Envoy, "Priority levels" and "Panic threshold".

use std::{rc::Rc, sync::Arc};

use super::{
    LbRequest,
    cluster::Context,
    hosts::{ByHash, Host, Hosts, Turn, Zones, localities},
    pool::HostPools,
};
use crate::config::{
    Cluster, HashTables,
    cluster::{Endpoint, EndpointSet, Health, LbPolicy},
};

/// The state of one cluster's load balancing in one worker.
#[derive(Debug)]
pub(super) struct Balancer {
    priorities: Vec<Priority>,
    shares: Vec<Share>,
    overprovisioning: u32,
}

/// A part of the load: `until` percent, after the shares before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    until: u32,
    priority: usize,
    tier: Tier,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    Healthy,
    Degraded,
    /// Too few are healthy: health is ignored.
    Panic,
}

impl Balancer {
    pub(super) fn new(
        cluster: &Cluster,
        set: &EndpointSet,
        local: Option<&EndpointSet>,
        pools: impl Fn(&Endpoint) -> Rc<HostPools>,
    ) -> Self {
        let host = |endpoint: &Arc<Endpoint>| {
            Rc::new(Host {
                endpoint: Arc::clone(endpoint),
                pools: pools(endpoint),
            })
        };
        let priority = |(index, endpoints): (usize, &Vec<Arc<Endpoint>>)| {
            let hosts: Vec<_> = endpoints.iter().map(host).collect();
            match set.tables.get(index) {
                Some(tables) => Priority::by_hash(hosts, tables),
                None if cluster.locality_weighted => {
                    Priority::weighted(hosts, cluster.lb, set.overprovisioning_factor)
                }
                None => Priority::new(hosts, cluster.lb),
            }
        };
        let mut priorities: Vec<_> = set.priorities.iter().enumerate().map(priority).collect();
        if let (Some(zone_aware), Some(local), Some(first)) =
            (&cluster.zone_aware, local, priorities.first_mut())
        {
            first.healthy.zones = Zones::new(&first.healthy, cluster.lb, zone_aware, local);
        }
        if let Some(slow_start) = cluster.slow_start {
            for priority in &mut priorities {
                priority.healthy.start_slowly(slow_start, cluster.lb);
            }
        }
        let shares = shares(
            &priorities,
            set.overprovisioning_factor,
            cluster.panic_threshold,
        );
        Self {
            priorities,
            shares,
            overprovisioning: set.overprovisioning_factor,
        }
    }

    /// The endpoint for one request; `None` if none may be used.
    pub(super) fn choose(
        &mut self,
        context: &Context,
        request: &LbRequest<'_>,
    ) -> Option<Rc<Host>> {
        let hash = request.hash;
        // Nearly always there is nothing to avoid.
        let others = self.without_previous(request);
        let others = others.as_deref();
        let mut host = self.choose_once(context, (hash, 0), others)?;
        for attempt in 1..=request.selection_attempts {
            let address = &host.endpoint.address;
            if !request.excluded.iter().any(|seen| seen.address == *address) {
                break;
            }
            host = self.choose_once(context, (hash, attempt), others)?;
        }
        Some(Rc::clone(host))
    }

    /// The load without the priorities that were tried, if that is wanted; once none is left, all of
    /// them are there again. Source: Envoy's previous priorities.
    fn without_previous(&self, request: &LbRequest<'_>) -> Option<Vec<Share>> {
        let every = request.avoid_priorities_every as usize;
        if every == 0 || request.excluded.len() < every {
            return None;
        }
        let available = |priority: &Priority| {
            let of = |hosts| priority.availability(hosts, self.overprovisioning);
            (of(&priority.healthy), of(&priority.degraded))
        };
        let all: Vec<_> = self.priorities.iter().map(available).collect();
        let mut left = all.clone();
        for tried in request.excluded.chunks_exact(every) {
            for endpoint in tried {
                let holds = |priority: &Priority| {
                    let mut hosts = priority.all.hosts.iter();
                    hosts.any(|host| host.endpoint.address == endpoint.address)
                };
                if let Some(index) = self.priorities.iter().position(holds) {
                    left[index] = (0, 0);
                }
            }
            if left.iter().all(|available| *available == (0, 0)) {
                left.clone_from(&all);
            }
        }
        let total: u32 = left
            .iter()
            .map(|(healthy, degraded)| healthy + degraded)
            .sum();
        let panics = |priority| {
            let mut shares = self.shares.iter();
            shares.any(|it| it.priority == priority && it.tier == Tier::Panic)
        };
        Some(spread(&left, total.min(100), panics)).filter(|shares| !shares.is_empty())
    }

    pub(super) fn hosts(&self) -> impl Iterator<Item = &Rc<Host>> {
        self.priorities
            .iter()
            .flat_map(|priority| &priority.all.hosts)
    }

    fn choose_once(
        &mut self,
        context: &Context,
        by_hash: ByHash,
        others: Option<&[Share]>,
    ) -> Option<&Rc<Host>> {
        let share = match others.unwrap_or(&self.shares) {
            [] => {
                context.stats().lb_healthy_panic.inc();
                return None;
            }
            [only] => *only,
            several => {
                let at = fastrand::u32(0..100);
                *several.iter().find(|share| at < share.until)?
            }
        };
        let priority = self.priorities.get_mut(share.priority)?;
        let hosts = match share.tier {
            Tier::Healthy => &mut priority.healthy,
            Tier::Degraded => &mut priority.degraded,
            Tier::Panic => {
                context.stats().lb_healthy_panic.inc();
                &mut priority.all
            }
        };
        hosts.next(context, by_hash)
    }
}

/// The endpoints of one priority.
#[derive(Debug)]
struct Priority {
    all: Hosts,
    healthy: Hosts,
    degraded: Hosts,
}

impl Priority {
    fn new(hosts: Vec<Rc<Host>>, policy: LbPolicy) -> Self {
        // Once for each: another may be ejected meanwhile.
        let health: Vec<_> = hosts
            .iter()
            .map(|it| it.endpoint.current_health())
            .collect();
        let with = |wanted| {
            let hosts = hosts
                .iter()
                .zip(&health)
                .filter(|(_, health)| **health == wanted);
            let hosts = hosts.map(|(host, _)| host);
            Hosts::new(hosts.cloned().collect(), policy)
        };
        Self {
            healthy: with(Health::Healthy),
            degraded: with(Health::Degraded),
            all: Hosts::new(hosts, policy),
        }
    }

    /// Spreads the load over localities by their weights, each as far as its hosts are there.
    fn weighted(hosts: Vec<Rc<Host>>, policy: LbPolicy, overprovisioning: u32) -> Self {
        let all = hosts.clone();
        let mut priority = Self::new(hosts, policy);
        for tier in [&mut priority.healthy, &mut priority.degraded] {
            tier.localities = localities(&tier.hosts, &all, policy, overprovisioning);
        }
        priority
    }

    /// As the tables say, which are the same for all workers.
    fn by_hash(hosts: Vec<Rc<Host>>, tables: &HashTables) -> Self {
        let all: Rc<[Rc<Host>]> = hosts.as_slice().into();
        let mut priority = Self::new(hosts, LbPolicy::Random);
        for (tier, table) in [
            (&mut priority.healthy, &tables.healthy),
            (&mut priority.degraded, &tables.degraded),
            (&mut priority.all, &tables.all),
        ] {
            tier.turn = Turn::Hash {
                all: Rc::clone(&all),
                table: table.clone(),
            };
        }
        priority
    }

    /// Percent of the load that `hosts` of this priority can take.
    fn availability(&self, hosts: &Hosts, overprovisioning: u32) -> u32 {
        let all = self.all.len().max(1);
        (overprovisioning.saturating_mul(hosts.len()) / all).min(100)
    }

    fn panics(&self, threshold: u32) -> bool {
        let usable = self.healthy.len() + self.degraded.len();
        let percent = 100 * usable / self.all.len().max(1);
        percent < threshold.min(100)
    }
}

/// How the load is spread over priorities, cumulative.
fn shares(priorities: &[Priority], overprovisioning: u32, threshold: u32) -> Vec<Share> {
    let health: Vec<(u32, u32)> = priorities
        .iter()
        .map(|it| {
            let of = |hosts| it.availability(hosts, overprovisioning);
            (of(&it.healthy), of(&it.degraded))
        })
        .collect();
    let total: u32 = health
        .iter()
        .map(|(healthy, degraded)| healthy + degraded)
        .sum();
    let total = total.min(100);
    // Panic is for a cluster that as a whole cannot take the load.
    let panics = |it: &Priority| total < 100 && it.panics(threshold);
    if !priorities.is_empty() && priorities.iter().all(panics) {
        return total_panic(priorities);
    }
    spread(&health, total, |priority| panics(&priorities[priority]))
}

/// The load by the healthy and degraded hosts of each priority, of which `total` are there in all.
fn spread(health: &[(u32, u32)], total: u32, panics: impl Fn(usize) -> bool) -> Vec<Share> {
    let mut until = 0;
    let mut shares = Vec::new();
    let tiers = [Tier::Healthy, Tier::Degraded];
    for (tier, (priority, health)) in tiers
        .into_iter()
        .flat_map(|tier| health.iter().enumerate().map(move |it| (tier, it)))
    {
        let available = if tier == Tier::Healthy {
            health.0
        } else {
            health.1
        };
        if available == 0 || until == 100 {
            continue;
        }
        let tier = if panics(priority) { Tier::Panic } else { tier };
        until = (until + (available * 100).div_ceil(total)).min(100);
        shares.push(Share {
            until,
            priority,
            tier,
        });
    }
    shares
}

/// No priority is fit: the load goes by the number of endpoints.
fn total_panic(priorities: &[Priority]) -> Vec<Share> {
    let total: u32 = priorities.iter().map(|it| it.all.len()).sum();
    let mut hosts = 0;
    let used = priorities
        .iter()
        .enumerate()
        .filter(|(_, it)| it.all.len() > 0);
    used.map(|(priority, it)| {
        hosts += it.all.len();
        Share {
            until: (hosts * 100).div_ceil(total),
            priority,
            tier: Tier::Panic,
        }
    })
    .collect()
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
