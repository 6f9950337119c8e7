//! The tables of a cluster that balances by hash: made when its hosts change, or their health, and
//! shared by all workers, so that no request waits for one.

use std::{collections::BTreeMap, sync::Arc};

use super::cluster::{Endpoint, EndpointSet, Health, LbPolicy};
use crate::hashing::Table;

/// The tables of one priority. Their entries are indices of its endpoints.
#[derive(Clone, Debug)]
pub struct HashTables {
    /// `None`: there is no such host.
    pub healthy: Option<Arc<Placed>>,
    pub degraded: Option<Arc<Placed>>,
    /// For panic.
    pub all: Option<Arc<Placed>>,
}

/// A table of some of the endpoints of a priority.
#[derive(Debug)]
pub struct Placed {
    table: Table,
    /// Of the entries of `table`: the index of each in its priority.
    members: Vec<usize>,
}

impl Placed {
    /// The index of the endpoint for a hash; with each further attempt probably another one.
    pub fn host(&self, hash: u64, attempt: u32) -> Option<usize> {
        let member = self.table.host(hash, attempt)?;
        self.members.get(member).copied()
    }
}

impl EndpointSet {
    /// The same endpoints, with tables by their health as it is now where `policy` wants any.
    /// `locality_weighted`: load is shared by localities first.
    pub fn with_tables(mut self, policy: LbPolicy, locality_weighted: bool) -> Self {
        self.tables = match policy {
            LbPolicy::RingHash { .. } | LbPolicy::Maglev(_) => {
                let priorities = self.priorities.iter();
                priorities
                    .map(|hosts| tables(hosts, policy, locality_weighted))
                    .collect()
            }
            _ => Box::default(),
        };
        self
    }
}

fn tables(hosts: &[Arc<Endpoint>], policy: LbPolicy, locality_weighted: bool) -> HashTables {
    let health: Vec<_> = hosts.iter().map(|host| host.current_health()).collect();
    let of = |wanted: Health| -> Vec<usize> {
        let indices = 0..hosts.len();
        indices.filter(|index| health[*index] == wanted).collect()
    };
    let place = |members: Vec<usize>| placed(hosts, members, policy, locality_weighted);
    let healthy = of(Health::Healthy);
    let all_are_healthy = healthy.len() == hosts.len();
    let healthy = place(healthy);
    HashTables {
        all: match all_are_healthy {
            true => healthy.clone(),
            false => place((0..hosts.len()).collect()),
        },
        degraded: place(of(Health::Degraded)),
        healthy,
    }
}

fn placed(
    hosts: &[Arc<Endpoint>],
    members: Vec<usize>,
    policy: LbPolicy,
    locality_weighted: bool,
) -> Option<Arc<Placed>> {
    let chosen: Vec<&Endpoint> = members.iter().map(|index| &*hosts[*index]).collect();
    let shares = match locality_weighted {
        true => shares_of_localities(&chosen).unwrap_or_else(|| shares(&chosen)),
        false => shares(&chosen),
    };
    let names: Vec<_> = chosen.iter().map(|it| it.address.to_string()).collect();
    let with_load = || (0..members.len()).filter(|index| shares[*index] > 0.0);
    let keys: Vec<_> = with_load()
        .map(|index| (names[index].as_str(), shares[index]))
        .collect();
    if keys.is_empty() {
        return None;
    }
    let table = match policy {
        LbPolicy::Maglev(size) => Table::maglev(&keys, size),
        LbPolicy::RingHash { min, max } => Table::ring(&keys, min, max),
        _ => return None,
    };
    let members = with_load().map(|index| members[index]).collect();
    Some(Arc::new(Placed { table, members }))
}

/// What each host has of the load, by its weight.
fn shares(hosts: &[&Endpoint]) -> Vec<f64> {
    let total: f64 = hosts.iter().map(|host| f64::from(host.weight)).sum();
    let share = |host: &&Endpoint| f64::from(host.weight.max(1)) / total.max(1.0);
    hosts.iter().map(share).collect()
}

/// The same, first by the weight of its locality; `None` if no locality has any.
fn shares_of_localities(hosts: &[&Endpoint]) -> Option<Vec<f64>> {
    let mut localities: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for host in hosts {
        let of_locality = localities.entry(&host.locality).or_default();
        of_locality.0 = f64::from(host.locality_weight);
        of_locality.1 += f64::from(host.weight);
    }
    let total: f64 = localities.values().map(|(weight, _)| weight).sum();
    let share = |host: &&Endpoint| {
        let (weight, hosts) = localities[&*host.locality];
        weight / total * f64::from(host.weight) / hosts.max(1.0)
    };
    (total > 0.0).then(|| hosts.iter().map(share).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const RING: LbPolicy = LbPolicy::RingHash {
        min: 4096,
        max: 1 << 20,
    };

    /// Endpoints by locality, its weight, their health and weight.
    fn set(hosts: &[(&str, u32, Health, u32)]) -> EndpointSet {
        let ports = (1..).take(hosts.len());
        let addresses: Vec<_> = ports.map(|port| ([192, 0, 2, 1], port).into()).collect();
        let mut set = testing::endpoints(&addresses);
        for (endpoint, (locality, locality_weight, health, weight)) in
            set.priorities[0].iter_mut().zip(hosts)
        {
            let endpoint = Arc::get_mut(endpoint).expect("it is new");
            endpoint.locality = (*locality).into();
            endpoint.locality_weight = *locality_weight;
            endpoint.health = *health;
            endpoint.weight = *weight;
        }
        set
    }

    /// Percent of the load of each endpoint.
    fn spread(table: &Placed, hosts: usize) -> Vec<usize> {
        let mut counts = vec![0; hosts];
        for i in 0..10_000_u64 {
            let hash = crate::hashing::xxh64(&i.to_le_bytes(), 0);
            counts[table.host(hash, 0).unwrap()] += 1;
        }
        counts.into_iter().map(|count| count / 100).collect()
    }

    #[test]
    fn load_follows_health_and_the_weights_of_localities_and_hosts() {
        use Health::{Degraded, Healthy, Unhealthy};
        let hosts = [
            ("near", 20, Healthy, 1),
            ("far", 80, Healthy, 1),
            ("far", 80, Healthy, 3),
            ("near", 20, Unhealthy, 1),
            ("none", 0, Healthy, 1),
            ("far", 80, Degraded, 1),
        ];
        for policy in [RING, LbPolicy::Maglev(65_537)] {
            let set = set(&hosts).with_tables(policy, true);
            let tables = &set.tables[0];
            let healthy = spread(tables.healthy.as_deref().unwrap(), hosts.len());
            let expected = [20_usize, 20, 60, 0, 0, 0];
            let near = |(a, b): (&usize, &usize)| a.abs_diff(*b) <= 4;
            assert!(healthy.iter().zip(&expected).all(near), "{healthy:?}");
            let degraded = spread(tables.degraded.as_deref().unwrap(), hosts.len());
            assert_eq!(degraded, [0, 0, 0, 0, 0, 100]);
            let all = spread(tables.all.as_deref().unwrap(), hosts.len());
            assert!(all[3] > 0 && all[4] == 0, "{all:?}");
        }
    }

    #[test]
    fn localities_count_only_where_they_are_asked_for() {
        let hosts = [("a", 0, Health::Healthy, 1), ("b", 9, Health::Healthy, 1)];
        let set = set(&hosts);
        let spread_of = |weighted| {
            let set = set.clone().with_tables(RING, weighted);
            spread(set.tables[0].healthy.as_deref().unwrap(), 2)
        };
        assert_eq!(spread_of(true), [0, 100]);
        assert!(spread_of(false)[0].abs_diff(50) < 6);
        assert!(
            set.clone()
                .with_tables(LbPolicy::Random, true)
                .tables
                .is_empty()
        );
    }

    #[test]
    fn no_hosts_have_no_table() {
        let set = set(&[]).with_tables(RING, false);
        assert!(set.tables[0].healthy.is_none() && set.tables[0].all.is_none());
    }
}
