//! Expected shares are Envoy's, from its documentation of priority levels and panic.

use std::{collections::BTreeMap, time::Instant};

use super::*;
use crate::{
    config::cluster::SlowStart,
    io::{Registry, Timers},
    testing,
    upstream::Home,
};

/// Per priority: healthy, degraded, unhealthy endpoints.
fn priorities(counts: &[(usize, usize, usize)], policy: LbPolicy) -> Vec<Priority> {
    let mut port = 0;
    let mut priority = |&(healthy, degraded, unhealthy): &(usize, usize, usize)| {
        let kinds = [
            (healthy, Health::Healthy),
            (degraded, Health::Degraded),
            (unhealthy, Health::Unhealthy),
        ];
        let hosts = kinds
            .iter()
            .flat_map(|&(count, health)| vec![health; count]);
        let hosts = hosts.map(|health| {
            port += 1;
            host(port, health, 1)
        });
        Priority::new(hosts.collect(), policy)
    };
    counts.iter().map(&mut priority).collect()
}

fn host(port: u16, health: Health, weight: u32) -> Rc<Host> {
    let address = std::net::SocketAddr::from(([192, 0, 2, 1], port));
    let address = crate::config::cluster::EndpointAddress::Socket(address);
    let mut endpoint = testing::endpoint(address);
    endpoint.health = health;
    endpoint.weight = weight;
    Rc::new(Host {
        endpoint: Arc::new(endpoint),
        pools: Rc::default(),
    })
}

fn context() -> Context {
    Context {
        cluster: Arc::new(testing::cluster("c", &[])),
        home: Home {
            worker: 0,
            timers: Timers::new(),
            registry: Registry::new(0, Arc::default()),
            log: Rc::default(),
        },
    }
}

#[test]
fn load_follows_health_and_overprovisioning() {
    use Tier::{Degraded as D, Healthy as H, Panic as P};
    type Row<'a> = (&'a [(usize, usize, usize)], u32, &'a [(u32, usize, Tier)]);
    let table: &[Row<'_>] = &[
        (&[(4, 0, 0)], 50, &[(100, 0, H)]),
        // 72 % healthy is enough at a factor of 1.4.
        (&[(72, 0, 28), (100, 0, 0)], 50, &[(100, 0, H)]),
        (&[(71, 0, 29), (100, 0, 0)], 50, &[(99, 0, H), (100, 1, H)]),
        (&[(50, 0, 50), (100, 0, 0)], 50, &[(70, 0, H), (100, 1, H)]),
        (&[(25, 0, 75), (100, 0, 0)], 50, &[(35, 0, H), (100, 1, H)]),
        (&[(0, 0, 100), (100, 0, 0)], 50, &[(100, 1, H)]),
        // Healthy ones of all priorities go before degraded ones.
        (&[(5, 5, 0), (0, 10, 0)], 50, &[(70, 0, H), (100, 0, D)]),
        // One priority, not in panic: all load, however few.
        (&[(6, 0, 4)], 50, &[(100, 0, H)]),
        (&[(4, 0, 6)], 50, &[(100, 0, P)]),
        (&[(0, 0, 3)], 50, &[(100, 0, P)]),
        // Without panic nothing is left.
        (&[(0, 0, 3)], 0, &[]),
        (&[(1, 0, 9)], 0, &[(100, 0, H)]),
        (&[(20, 0, 80), (20, 0, 80)], 50, &[(50, 0, P), (100, 1, P)]),
        (&[], 50, &[]),
        (&[(0, 0, 0)], 50, &[]),
    ];
    for (counts, threshold, expected) in table {
        let priorities = priorities(counts, LbPolicy::RoundRobin);
        let shares = shares(&priorities, 140, *threshold);
        let shares: Vec<_> = shares
            .iter()
            .map(|it| (it.until, it.priority, it.tier))
            .collect();
        assert_eq!(&shares, expected, "{counts:?} {threshold}");
    }
}

#[test]
fn an_empty_set_has_no_host() {
    let context = context();
    for policy in [
        LbPolicy::RoundRobin,
        LbPolicy::LeastRequest(2),
        LbPolicy::Random,
    ] {
        let mut hosts = Hosts::new(Vec::new(), policy);
        assert!(hosts.next(&context, (None, 0)).is_none());
    }
}

#[test]
fn round_robin_takes_turns() {
    let context = context();
    let hosts = (1..=3).map(|port| host(port, Health::Healthy, 1)).collect();
    let mut hosts = Hosts::new(hosts, LbPolicy::RoundRobin);
    let mut pick = || {
        hosts
            .next(&context, (None, 0))
            .unwrap()
            .endpoint
            .address
            .clone()
    };
    let first: Vec<_> = (0..3).map(|_| pick()).collect();
    let second: Vec<_> = (0..3).map(|_| pick()).collect();
    assert_eq!(first, second);
    assert_ne!(first[0], first[1]);
    assert_ne!(first[1], first[2]);
}

#[test]
fn least_request_avoids_the_busy_host() {
    let context = context();
    let list: Vec<_> = (1..=2).map(|port| host(port, Health::Healthy, 1)).collect();
    list[0].stats(&context).rq_active.add(100);
    let mut hosts = Hosts::new(list.clone(), LbPolicy::LeastRequest(2));
    let picks = (0..1000).map(|_| Rc::ptr_eq(hosts.next(&context, (None, 0)).unwrap(), &list[0]));
    let busy = picks.filter(|busy| *busy).count();
    // Only when both choices fall on it.
    assert!((150..350).contains(&busy), "{busy}");
}

#[test]
fn weights_count_in_round_robin_and_least_request() {
    let context = context();
    for policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest(2)] {
        let list = vec![host(1, Health::Healthy, 1), host(2, Health::Healthy, 3)];
        let mut hosts = Hosts::new(list.clone(), policy);
        let picks =
            (0..400).map(|_| Rc::ptr_eq(hosts.next(&context, (None, 0)).unwrap(), &list[0]));
        let light = picks.filter(|light| *light).count();
        assert!(light.abs_diff(100) <= 2, "{policy:?} {light}");
    }
}

#[test]
fn hosts_that_were_tried_are_avoided_as_often_as_asked() {
    let context = context();
    let set = testing::endpoints(&[([192, 0, 2, 1], 1).into(), ([192, 0, 2, 1], 2).into()]);
    let cluster = &context.cluster;
    let mut balancer = Balancer::new(cluster, &set, None, |_| Rc::default());
    let tried = [Arc::clone(&set.priorities[0][0])];
    let request = LbRequest {
        excluded: &tried,
        selection_attempts: 1,
        ..LbRequest::default()
    };
    for _ in 0..10 {
        let host = balancer.choose(&context, &request).unwrap();
        assert_ne!(host.endpoint.address, tried[0].address);
    }
    // When all were tried, one is taken nevertheless.
    let tried = &set.priorities[0];
    let request = LbRequest {
        excluded: tried,
        selection_attempts: 3,
        ..LbRequest::default()
    };
    assert!(balancer.choose(&context, &request).is_some());
}

#[test]
fn localities_share_the_load_by_weight_as_far_as_they_are_fit() {
    let context = context();
    let locality = |name: &str, weight: u32, ports: std::ops::Range<u16>, unfit: u16| {
        let host = |port: u16| {
            let health = match port - ports.start < unfit {
                true => Health::Unhealthy,
                false => Health::Healthy,
            };
            let mut host = host(port, health, 1);
            let host_mut = Rc::get_mut(&mut host).expect("it is new");
            let endpoint = Arc::get_mut(&mut host_mut.endpoint).expect("it is new");
            endpoint.locality = name.into();
            endpoint.locality_weight = weight;
            host
        };
        ports.clone().map(host).collect::<Vec<_>>()
    };
    let count = |hosts: Vec<Vec<Rc<Host>>>| {
        let mut priority = Priority::weighted(hosts.concat(), LbPolicy::RoundRobin, 140);
        let mut counts = BTreeMap::<String, u32>::new();
        for _ in 0..1000 {
            let host = priority.healthy.next(&context, (None, 0)).unwrap();
            *counts
                .entry(host.endpoint.locality.to_string())
                .or_default() += 1;
        }
        counts
    };
    let near = |counts: &BTreeMap<String, u32>, name: &str, expected: u32| {
        let found = counts.get(name).copied().unwrap_or(0);
        assert!(found.abs_diff(expected) <= 5, "{name} {counts:?}");
    };
    // The number of hosts does not matter.
    let counts = count(vec![locality("a", 1, 1..2, 0), locality("b", 3, 10..20, 0)]);
    near(&counts, "a", 250);
    near(&counts, "b", 750);
    // Half of b is there: 70 % of its weight at a factor of 1.4.
    let counts = count(vec![
        locality("a", 30, 1..2, 0),
        locality("b", 100, 10..20, 5),
    ]);
    near(&counts, "a", 300);
    near(&counts, "b", 700);
    // No weight, no load; and no weights at all: all hosts alike.
    let counts = count(vec![locality("a", 0, 1..2, 0), locality("b", 1, 10..20, 0)]);
    near(&counts, "b", 1000);
    let counts = count(vec![locality("a", 0, 1..2, 0), locality("b", 0, 10..19, 0)]);
    near(&counts, "a", 100);
}

/// A host that is healthy for so long, in hours, and its weight.
fn aged(port: u16, hours: u64, weight: u32) -> Rc<Host> {
    let mut host = host(port, Health::Healthy, weight);
    let host_mut = Rc::get_mut(&mut host).expect("it is new");
    let endpoint = Arc::get_mut(&mut host_mut.endpoint).expect("it is new");
    let age = std::time::Duration::from_secs(3600 * hours);
    endpoint.healthy_since = Instant::now().checked_sub(age).expect("a clock that runs");
    host
}

/// Of a thousand choices, those of the first host.
fn picks(hosts: &mut Hosts, list: &[Rc<Host>]) -> usize {
    let context = context();
    let pick = |_| Rc::ptr_eq(hosts.next(&context, (None, 0)).unwrap(), &list[0]);
    (0..1000).map(pick).filter(|first| *first).count()
}

#[test]
fn a_new_host_gets_less_until_it_is_warm() {
    let window = std::time::Duration::from_secs(3600 * 10);
    let config = SlowStart {
        window,
        aggression: 1.0,
        min_weight: 0.1,
    };
    for policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest(2)] {
        // The age and weight of one host beside an old one of weight 1, and its share.
        for (age, weight, expected) in [(0, 1, 91), (5, 1, 333), (5, 2, 500), (20, 1, 500)] {
            let list = vec![aged(1, age, weight), aged(2, 20, 1)];
            let mut hosts = Hosts::new(list.clone(), policy);
            hosts.start_slowly(config, policy);
            let found = picks(&mut hosts, &list);
            // Who is warm is chosen by chance where loads are compared.
            assert!(found.abs_diff(expected) < 80, "{policy:?} {age} {found}");
        }
    }
}

#[test]
fn slow_start_ends() {
    let config = SlowStart {
        window: std::time::Duration::from_millis(1),
        aggression: 1.0,
        min_weight: 0.0,
    };
    let list = vec![host(1, Health::Healthy, 1), aged(2, 1, 1)];
    let mut hosts = Hosts::new(list.clone(), LbPolicy::RoundRobin);
    hosts.start_slowly(config, LbPolicy::RoundRobin);
    let begun = Instant::now();
    while begun.elapsed() < config.window {
        std::hint::spin_loop();
    }
    assert_eq!(picks(&mut hosts, &list), 500);
    assert!(matches!(hosts.turn, Turn::RoundRobin { .. }));
}

#[test]
fn retries_go_to_priorities_that_were_not_tried() {
    let context = context();
    let mut set = testing::endpoints(&[]);
    set.priorities = (1..=3)
        .map(|port| vec![Arc::clone(&host(port, Health::Healthy, 1).endpoint)])
        .collect();
    let mut balancer = Balancer::new(&context.cluster, &set, None, |_| Rc::default());
    let all: Vec<_> = set.priorities.concat();
    // The hosts tried, how often priorities are chosen anew, and where it goes.
    for (tried, every, expected) in [
        (&all[..0], 1, 0),
        (&all[..1], 0, 0),
        (&all[..1], 1, 1),
        (&all[..2], 1, 2),
        (&all[..1], 2, 0),
        (&all[..2], 2, 2),
        // None is left: all are there again.
        (&all[..3], 1, 0),
    ] {
        let request = LbRequest {
            excluded: tried,
            avoid_priorities_every: every,
            ..LbRequest::default()
        };
        for _ in 0..20 {
            let chosen = balancer.choose(&context, &request).unwrap();
            let address = &chosen.endpoint.address;
            assert_eq!(*address, all[expected].address, "{} {every}", tried.len());
        }
    }
}
