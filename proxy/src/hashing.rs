//! Consistent hashing: a ring, or Maglev's table, from a hash to a host.
//!
//! The same hosts and hash choose the same host in every worker and proxy; entries are placed as
//! Envoy places them, so that a fleet of both agrees. Source: Envoy's ring hash and Maglev load
//! balancers, and xxHash's specification.

/// Where the hashes of one set of hosts lead; hosts are named by index.
#[derive(Debug)]
pub enum Table {
    /// By hash: the first entry at or above one's own, else the first of all.
    Ring(Vec<(u64, u32)>),
    /// By the hash modulo the length.
    Maglev(Vec<u32>),
}

/// Maglev's second hash of a host has this seed.
const SKIP_SEED: u64 = 1;

impl Table {
    /// A ring for hosts with these keys (addresses) and shares of the load, which sum up to 1. Each
    /// has as many entries as it has of the load; the lightest has so many that the ring has `min` in
    /// all, as far as `max` allows.
    pub fn ring(hosts: &[(&str, f64)], min: u64, max: u64) -> Self {
        let least = hosts.iter().map(|(_, share)| *share).fold(1.0, f64::min);
        let scale = ((least * min as f64).ceil() / least).min(max as f64);
        let mut ring = Vec::new();
        let (mut placed, mut target) = (0.0, 0.0);
        let mut key = String::new();
        for (index, (name, share)) in (0..).zip(hosts) {
            target += scale * share;
            let mut number = 0_u64;
            while placed < target {
                key.clear();
                key.push_str(name);
                key.push('_');
                key.push_str(itoa::Buffer::new().format(number));
                ring.push((xxh64(key.as_bytes(), 0), index));
                number += 1;
                placed += 1.0;
            }
        }
        ring.sort_unstable();
        Self::Ring(ring)
    }

    /// A table of `size`, a prime, for hosts with these keys and shares of the load.
    pub fn maglev(hosts: &[(&str, f64)], size: u32) -> Self {
        struct Entry {
            offset: u64,
            skip: u64,
            next: u64,
            weight: f64,
            target: f64,
        }
        const EMPTY: u32 = u32::MAX;
        let size_wide = u64::from(size.max(2));
        let mut entries: Vec<_> = hosts
            .iter()
            .map(|(name, share)| Entry {
                offset: xxh64(name.as_bytes(), 0) % size_wide,
                skip: xxh64(name.as_bytes(), SKIP_SEED) % (size_wide - 1) + 1,
                next: 0,
                weight: *share,
                target: 0.0,
            })
            .collect();
        let heaviest = entries.iter().map(|entry| entry.weight).fold(0.0, f64::max);
        let mut table = vec![EMPTY; size_wide as usize];
        let mut left = if entries.is_empty() { 0 } else { table.len() };
        let mut round = 1.0;
        while left > 0 {
            for (index, entry) in (0..).zip(&mut entries) {
                if left == 0 || round * entry.weight < entry.target {
                    continue;
                }
                entry.target += heaviest;
                loop {
                    let place = (entry.offset + entry.skip * entry.next) % size_wide;
                    entry.next += 1;
                    let slot = &mut table[place as usize];
                    if *slot == EMPTY {
                        *slot = index;
                        left -= 1;
                        break;
                    }
                }
            }
            round += 1.0;
        }
        Self::Maglev(table)
    }

    /// The host for a hash; with each further attempt probably another one.
    pub fn host(&self, hash: u64, attempt: u32) -> Option<usize> {
        let index = match self {
            Self::Ring(ring) => {
                let first = ring.partition_point(|(entry, _)| *entry < hash);
                let place = (first % ring.len().max(1)) + attempt as usize;
                ring.get(place % ring.len().max(1))?.1
            }
            Self::Maglev(table) => {
                let hash = match attempt {
                    0 => hash,
                    attempt => hash ^ (u64::MAX - u64::from(attempt) + 1),
                };
                let place = hash % (table.len().max(1) as u64);
                *table.get(place as usize)?
            }
        };
        Some(index as usize)
    }
}

/// XXH64 of `bytes`.
pub fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    const P1: u64 = 0x9E37_79B1_85EB_CA87;
    const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
    const P3: u64 = 0x1656_67B1_9E37_79F9;
    const P4: u64 = 0x85EB_CA77_C2B2_AE63;
    const P5: u64 = 0x27D4_EB2F_1656_67C5;
    let round = |acc: u64, lane: u64| {
        acc.wrapping_add(lane.wrapping_mul(P2))
            .rotate_left(31)
            .wrapping_mul(P1)
    };
    let (stripes, rest) = bytes.as_chunks::<32>();
    let mut hash = if stripes.is_empty() {
        seed.wrapping_add(P5)
    } else {
        let mut acc = [
            seed.wrapping_add(P1).wrapping_add(P2),
            seed.wrapping_add(P2),
            seed,
            seed.wrapping_sub(P1),
        ];
        for stripe in stripes {
            let (lanes, _) = stripe.as_chunks::<8>();
            for (acc, lane) in acc.iter_mut().zip(lanes) {
                *acc = round(*acc, u64::from_le_bytes(*lane));
            }
        }
        let [a, b, c, d] = acc;
        let merged = a
            .rotate_left(1)
            .wrapping_add(b.rotate_left(7))
            .wrapping_add(c.rotate_left(12))
            .wrapping_add(d.rotate_left(18));
        acc.into_iter().fold(merged, |hash, acc| {
            (hash ^ round(0, acc)).wrapping_mul(P1).wrapping_add(P4)
        })
    };
    hash = hash.wrapping_add(bytes.len() as u64);
    let (lanes, rest) = rest.as_chunks::<8>();
    for lane in lanes {
        hash ^= round(0, u64::from_le_bytes(*lane));
        hash = hash.rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
    }
    let (half, rest) = rest.as_chunks::<4>();
    for lane in half {
        hash ^= u64::from(u32::from_le_bytes(*lane)).wrapping_mul(P1);
        hash = hash.rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
    }
    for byte in rest {
        hash ^= u64::from(*byte).wrapping_mul(P5);
        hash = hash.rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of xxHash's own tests and documentation.
    #[test]
    fn hashes_are_those_of_the_specification() {
        for (text, seed, expected) in [
            ("", 0, 0xEF46_DB37_51D8_E999),
            ("a", 0, 0xD24E_C4F1_A98C_6E5B),
            ("abc", 0, 0x44BC_2CF5_AD77_0999),
            (
                "Nobody inspects the spammish repetition",
                0,
                0xFBCE_A83C_8A37_8BF1,
            ),
        ] {
            assert_eq!(xxh64(text.as_bytes(), seed), expected, "{text}");
        }
    }

    fn tables(hosts: &[(&str, u32)]) -> [Table; 2] {
        let total: u32 = hosts.iter().map(|(_, weight)| weight).sum();
        let share = |weight: u32| f64::from(weight) / f64::from(total);
        let hosts: Vec<_> = hosts
            .iter()
            .map(|(name, weight)| (*name, share(*weight)))
            .collect();
        [
            Table::ring(&hosts, 1024, 8 << 20),
            Table::maglev(&hosts, 65_537),
        ]
    }

    fn counts(table: &Table, hosts: usize) -> Vec<usize> {
        let mut counts = vec![0; hosts];
        for i in 0..10_000_u64 {
            counts[table.host(xxh64(&i.to_le_bytes(), 0), 0).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn load_follows_weights() {
        for table in tables(&[("10.0.0.1:80", 1), ("10.0.0.2:80", 3)]) {
            let counts = counts(&table, 2);
            assert!(counts[0].abs_diff(2500) < 500, "{counts:?}");
        }
    }

    #[test]
    fn a_host_that_goes_moves_few_others() {
        let all = [("10.0.0.1:80", 1), ("10.0.0.2:80", 1), ("10.0.0.3:80", 1)];
        for (before, after) in tables(&all).iter().zip(&tables(&all[..2])) {
            let mut moved = 0;
            for i in 0..1000_u64 {
                let hash = xxh64(&i.to_le_bytes(), 0);
                let (old, new) = (before.host(hash, 0).unwrap(), after.host(hash, 0).unwrap());
                moved += usize::from(old != 2 && old != new);
            }
            // Nearly two in three would move if the hash were taken modulo the hosts.
            assert!(moved < 200, "{moved}");
        }
    }

    #[test]
    fn another_attempt_may_find_another_host_and_no_hosts_none() {
        for table in tables(&[("a", 1), ("b", 1)]) {
            let found = (0..8).map(|attempt| table.host(7, attempt).unwrap());
            let found: std::collections::BTreeSet<_> = found.collect();
            assert_eq!(found.len(), 2);
        }
        for table in [Table::ring(&[], 1024, 1024), Table::maglev(&[], 7)] {
            assert!(table.host(1, 0).is_none() || matches!(table, Table::Maglev(_)));
        }
    }
}
