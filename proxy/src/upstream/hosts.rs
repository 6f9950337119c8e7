//! Endpoints of like health, and whose turn it is: by the cluster's policy, and first by locality
//! where that counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use super::{cluster::Context, edf::Edf, pool::HostPools, zones::Plan};
use crate::{
    config::{
        Placed,
        cluster::{Endpoint, EndpointAddress, EndpointSet, Health, LbPolicy, SlowStart, ZoneAware},
    },
    stats::{EndpointBlock, EndpointStats},
};

/// Parts of a weight of 1 that slow start tells apart.
const SLOW_SCALE: f64 = 1000.0;
/// Percent of our own cluster that must be healthy, or zones do not count: Envoy's default.
const LOCAL_PANIC: usize = 50;

/// One endpoint with its pools. The pools outlive the endpoint set, as long as the address is in it.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) pools: Rc<HostPools>,
}

impl Host {
    /// One that no configuration names: a request or a connection has.
    pub(super) fn asked_for(
        address: SocketAddr,
        more: Box<[SocketAddr]>,
        hostname: &str,
        context: &Context,
    ) -> Self {
        Self {
            endpoint: Arc::new(Endpoint {
                address: EndpointAddress::Socket(address),
                more,
                hostname: hostname.into(),
                weight: 1,
                health: Health::Healthy,
                healthy_since: Instant::now(),
                locality: "".into(),
                locality_weight: 0,
                transport: 0,
                workload: None,
                stats: Arc::new(EndpointStats::new(context.home.worker + 1)),
                monitor: None,
            }),
            pools: Rc::default(),
        }
    }

    pub(super) fn stats(&self, context: &Context) -> &EndpointBlock {
        self.endpoint.stats.worker(context.home.worker)
    }
}

/// The request's hash, and how many hosts were refused before.
pub(super) type ByHash = (Option<u64>, u32);

/// Endpoints of like health, and whose turn it is.
#[derive(Debug)]
pub(super) struct Hosts {
    pub(super) hosts: Vec<Rc<Host>>,
    pub(super) turn: Turn,
    pub(super) localities: Option<Localities>,
    pub(super) zones: Option<Box<Zones>>,
}

/// First a locality by weight, then one of its hosts.
#[derive(Debug)]
pub(super) struct Localities {
    edf: Edf,
    groups: Vec<(u64, Hosts)>,
}

#[derive(Debug)]
pub(super) enum Turn {
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
    /// By weight, of which a new host has a part; from `until` on as usual.
    SlowStart {
        edf: Edf,
        config: SlowStart,
        by_load: bool,
        until: Instant,
        usual: Box<Self>,
    },
    /// By weight; with `by_load`, a busy endpoint's weight counts less.
    Weighted {
        edf: Edf,
        by_load: bool,
    },
}

impl Hosts {
    pub(super) fn new(hosts: Vec<Rc<Host>>, policy: LbPolicy) -> Self {
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
            zones: None,
        }
    }

    /// Gives hosts that are new less than their weight, as long as they are.
    pub(super) fn start_slowly(&mut self, config: SlowStart, policy: LbPolicy) {
        let localities = self.localities.iter_mut().flat_map(|it| &mut it.groups);
        let localities = localities.map(|(_, hosts)| hosts);
        let zones = self.zones.iter_mut().flat_map(|it| &mut it.groups);
        for hosts in localities.chain(zones) {
            hosts.start_slowly(config, policy);
        }
        let newest = self
            .hosts
            .iter()
            .map(|host| host.endpoint.healthy_since)
            .max();
        let until = newest.map(|since| since + config.window);
        let Some(until) = until.filter(|until| *until > Instant::now()) else {
            return;
        };
        let now = Instant::now();
        let weights = self.hosts.iter();
        let edf = Edf::new(weights.map(|host| slow_weight(&host.endpoint, config, now)));
        let usual = Box::new(std::mem::replace(&mut self.turn, Turn::Random));
        self.turn = Turn::SlowStart {
            edf,
            config,
            by_load: matches!(policy, LbPolicy::LeastRequest(_)),
            until,
            usual,
        };
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.hosts.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn next(&mut self, context: &Context, by_hash: ByHash) -> Option<&Rc<Host>> {
        if let Turn::SlowStart { until, usual, .. } = &mut self.turn
            && *until <= Instant::now()
        {
            self.turn = std::mem::replace(&mut **usual, Turn::Random);
        }
        let hosts = &self.hosts;
        if let Some(hosts) = self.zones.as_mut().and_then(|zones| zones.choose()) {
            return hosts.next(context, by_hash);
        }
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
            Turn::SlowStart {
                edf,
                config,
                by_load,
                ..
            } => {
                let now = Instant::now();
                edf.next(|index| {
                    let active = if *by_load { active(index) } else { 0 };
                    let active = u32::try_from(active.max(0)).unwrap_or(u32::MAX);
                    (slow_weight(&hosts[index].endpoint, *config, now), active)
                })?
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

/// A host's weight times [`SLOW_SCALE`], and as much less as it is new.
fn slow_weight(endpoint: &Endpoint, config: SlowStart, now: Instant) -> u64 {
    let healthy_for = now.saturating_duration_since(endpoint.healthy_since);
    let weight = f64::from(endpoint.weight) * config.share(healthy_for);
    (weight * SLOW_SCALE) as u64
}

/// First a locality by its nearness, then one of its hosts.
#[derive(Debug)]
pub(super) struct Zones {
    plan: Plan,
    /// Of a hundred requests so many go by it.
    enabled: f64,
    groups: Vec<Hosts>,
}

impl Zones {
    /// `None` where localities do not count: there is one, or too few hosts are healthy there or in
    /// our own cluster.
    pub(super) fn new(
        healthy: &Hosts,
        policy: LbPolicy,
        config: &ZoneAware,
        local: &EndpointSet,
    ) -> Option<Box<Self>> {
        let own = local.priorities.first()?;
        let is_healthy = |host: &&Arc<Endpoint>| host.current_health() == Health::Healthy;
        let own_healthy: Vec<_> = own.iter().filter(is_healthy).collect();
        let panics = 100 * own_healthy.len() < LOCAL_PANIC * own.len();
        let too_few = u64::from(healthy.len()) < config.min_cluster_size;
        if own_healthy.is_empty() || panics || too_few {
            return None;
        }
        let here = &*config.local.locality;
        let mut groups: BTreeMap<(bool, &str), Vec<Rc<Host>>> = BTreeMap::new();
        for host in &healthy.hosts {
            let locality = &*host.endpoint.locality;
            let group = groups.entry((locality != here, locality)).or_default();
            group.push(Rc::clone(host));
        }
        if groups.len() < 2 {
            return None;
        }
        let mut callers: BTreeMap<&str, u64> = BTreeMap::new();
        for host in own_healthy {
            *callers.entry(&host.locality).or_default() += 1;
        }
        let counts = groups
            .iter()
            .map(|((_, name), hosts)| (*name, hosts.len() as u64));
        let counts: Vec<_> = counts.collect();
        let has_local = !here.is_empty() && counts.first().is_some_and(|(name, _)| *name == here);
        Some(Box::new(Self {
            plan: Plan::new(&counts, has_local, &callers),
            enabled: config.routing_enabled,
            groups: groups
                .into_values()
                .map(|hosts| Hosts::new(hosts, policy))
                .collect(),
        }))
    }

    /// The hosts for one request; `None`: all.
    fn choose(&mut self) -> Option<&mut Hosts> {
        if fastrand::f64() * 100.0 >= self.enabled {
            return None;
        }
        self.groups.get_mut(self.plan.choose())
    }
}

/// The localities of `tier`, of all that are in `all`; `None` if none has a weight.
pub(super) fn localities(
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
