//! Load balancing: priority, then panic or health, then the cluster's policy.
//!
//! What depends on the endpoint set alone is computed once per set; a choice costs no allocation.
//! Source: Envoy, "Priority levels" and "Panic threshold".

use std::{collections::BTreeSet, rc::Rc, sync::Arc};

use super::{LbRequest, cluster::Context, edf::Edf, pool::HostPools};
use crate::{
    config::{
        Cluster, HashTables, Placed,
        cluster::{Endpoint, EndpointSet, Health, LbPolicy},
    },
    stats::EndpointBlock,
};

/// One endpoint with its pools. The pools outlive the endpoint set, as long as the address is in it.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) pools: Rc<HostPools>,
}

impl Host {
    pub(super) fn stats(&self, context: &Context) -> &EndpointBlock {
        self.endpoint.stats.worker(context.home.worker)
    }
}

/// The state of one cluster's load balancing in one worker.
#[derive(Debug)]
pub(super) struct Balancer {
    priorities: Vec<Priority>,
    shares: Vec<Share>,
}

/// The request's hash, and how many hosts were refused before.
type ByHash = (Option<u64>, u32);

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
        let priorities: Vec<_> = set.priorities.iter().enumerate().map(priority).collect();
        let shares = shares(
            &priorities,
            set.overprovisioning_factor,
            cluster.panic_threshold,
        );
        Self { priorities, shares }
    }

    /// The endpoint for one request; `None` if none may be used.
    pub(super) fn choose(
        &mut self,
        context: &Context,
        request: &LbRequest<'_>,
    ) -> Option<Rc<Host>> {
        let hash = request.hash;
        let mut host = self.choose_once(context, (hash, 0))?;
        for attempt in 1..=request.selection_attempts {
            let address = &host.endpoint.address;
            if !request.excluded.iter().any(|seen| seen.address == *address) {
                break;
            }
            host = self.choose_once(context, (hash, attempt))?;
        }
        Some(Rc::clone(host))
    }

    pub(super) fn hosts(&self) -> impl Iterator<Item = &Rc<Host>> {
        self.priorities
            .iter()
            .flat_map(|priority| &priority.all.hosts)
    }

    fn choose_once(&mut self, context: &Context, by_hash: ByHash) -> Option<&Rc<Host>> {
        let share = match &self.shares[..] {
            [] => return None,
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
        let tier = if panics(&priorities[priority]) {
            Tier::Panic
        } else {
            tier
        };
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

/// The localities of `tier`, of all that are in `all`; `None` if none has a weight.
fn localities(
    tier: &[Rc<Host>],
    all: &[Rc<Host>],
    policy: LbPolicy,
    overprovisioning: u32,
) -> Option<Localities> {
    let count = |hosts: &[Rc<Host>], locality: &str| {
        let of_locality = hosts.iter().filter(|it| *it.endpoint.locality == *locality);
        u64::try_from(of_locality.count()).unwrap_or(u64::MAX)
    };
    let mut groups: Vec<(u64, Hosts)> = Vec::new();
    let names: BTreeSet<&Arc<str>> = tier.iter().map(|host| &host.endpoint.locality).collect();
    for name in names {
        let hosts = tier.iter().filter(|host| host.endpoint.locality == *name);
        let hosts: Vec<_> = hosts.cloned().collect();
        let weight = hosts
            .first()
            .map_or(0, |host| host.endpoint.locality_weight);
        let fit = u64::from(overprovisioning) * count(tier, name) / count(all, name).max(1);
        let weight = u64::from(weight) * fit.min(100);
        if weight > 0 {
            groups.push((weight, Hosts::new(hosts, policy)));
        }
    }
    let edf = Edf::new(groups.iter().map(|(weight, _)| *weight));
    (!groups.is_empty()).then_some(Localities { edf, groups })
}

/// Endpoints of like health, and whose turn it is.
#[derive(Debug)]
struct Hosts {
    hosts: Vec<Rc<Host>>,
    turn: Turn,
    localities: Option<Localities>,
}

/// First a locality by weight, then one of its hosts.
#[derive(Debug)]
struct Localities {
    edf: Edf,
    groups: Vec<(u64, Hosts)>,
}

#[derive(Debug)]
enum Turn {
    RoundRobin {
        next: usize,
    },
    /// The least loaded of this many random ones.
    LeastRequest {
        choices: u32,
    },
    Random,
    /// By the table, whose entries are indices of `all`.
    Hash {
        all: Rc<[Rc<Host>]>,
        table: Option<Arc<Placed>>,
    },
    /// By weight; with `by_load`, a busy endpoint's weight counts less.
    Weighted {
        edf: Edf,
        by_load: bool,
    },
}

impl Hosts {
    fn new(hosts: Vec<Rc<Host>>, policy: LbPolicy) -> Self {
        let weights = || hosts.iter().map(|host| host.endpoint.weight);
        let equal = weights().all(|weight| Some(weight) == weights().next());
        let turn = match policy {
            // Who balances by hash has tables: see `Priority::by_hash`.
            LbPolicy::Random
            | LbPolicy::ClusterProvided
            | LbPolicy::RingHash { .. }
            | LbPolicy::Maglev(_) => Turn::Random,
            LbPolicy::RoundRobin if equal => Turn::RoundRobin {
                next: fastrand::usize(..hosts.len().max(1)),
            },
            LbPolicy::LeastRequest(choices) if equal => Turn::LeastRequest {
                choices: choices.max(1),
            },
            LbPolicy::RoundRobin | LbPolicy::LeastRequest(_) => Turn::Weighted {
                edf: Edf::new(weights().map(u64::from)),
                by_load: policy != LbPolicy::RoundRobin,
            },
        };
        Self {
            hosts,
            turn,
            localities: None,
        }
    }

    fn len(&self) -> u32 {
        u32::try_from(self.hosts.len()).unwrap_or(u32::MAX)
    }

    fn next(&mut self, context: &Context, by_hash: ByHash) -> Option<&Rc<Host>> {
        let hosts = &self.hosts;
        if let Some(Localities { edf, groups }) = &mut self.localities {
            let index = edf.next(|index| (groups[index].0, 0))?;
            return groups[index].1.next(context, by_hash);
        }
        if hosts.len() <= 1 {
            return hosts.first();
        }
        let active = |index: usize| hosts[index].stats(context).rq_active.get();
        let random = || fastrand::usize(..hosts.len());
        let index = match &mut self.turn {
            Turn::RoundRobin { next } => {
                *next = (*next + 1) % hosts.len();
                *next
            }
            Turn::Random => random(),
            Turn::Hash { all, table } => {
                let (hash, attempt) = by_hash;
                let hash = hash.unwrap_or_else(|| fastrand::u64(..));
                return all.get(table.as_ref()?.host(hash, attempt)?);
            }
            Turn::LeastRequest { choices } => {
                let mut best = random();
                for _ in 1..*choices {
                    let other = random();
                    if active(other) < active(best) {
                        best = other;
                    }
                }
                best
            }
            Turn::Weighted { edf, by_load } => edf.next(|index| {
                let active = if *by_load { active(index) } else { 0 };
                let active = u32::try_from(active.max(0)).unwrap_or(u32::MAX);
                (hosts[index].endpoint.weight.into(), active)
            })?,
        };
        hosts.get(index)
    }
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
