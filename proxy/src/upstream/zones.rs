//! Zone-aware routing: as much of the load as its hosts can take stays in our own locality, and the
//! rest goes where there are more hosts than callers.
//!
//! Source: Envoy, "Zone aware routing": it compares the shares that localities have of the healthy
//! hosts of our own cluster and of the upstream's.

use std::collections::BTreeMap;

/// Shares are of this many.
const WHOLE: u64 = 10_000;

/// How the load of one priority is spread over its localities.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// All of it to the first one, which is ours.
    Direct,
    Residual {
        /// Of [`WHOLE`], what goes to the first one.
        local: u64,
        /// What each one takes of the rest, with those before it.
        residual: Vec<u64>,
    },
}

impl Plan {
    /// For an upstream's localities and their healthy hosts, ours first, if `has_local`; and for those
    /// of the cluster that we belong to.
    pub(super) fn new(
        upstream: &[(&str, u64)],
        has_local: bool,
        own: &BTreeMap<&str, u64>,
    ) -> Self {
        let share = |count: u64, total: u64| WHOLE * count / total.max(1);
        let total = upstream.iter().map(|(_, count)| count).sum();
        let total_own = own.values().sum();
        let shares: Vec<(u64, u64)> = upstream
            .iter()
            .map(|(name, count)| {
                let callers = own.get(name).copied().unwrap_or(0);
                (share(*count, total), share(callers, total_own))
            })
            .collect();
        let local = shares.first().copied().filter(|_| has_local);
        let (hosts, callers) = local.unwrap_or((0, 0));
        if hosts > 0 && hosts >= callers {
            return Self::Direct;
        }
        let mut capacity = 0;
        let residual = shares.iter().enumerate().map(|(index, (hosts, callers))| {
            // What ours takes is taken already.
            if !(index == 0 && has_local) {
                capacity += hosts.saturating_sub(*callers);
            }
            capacity
        });
        Self::Residual {
            residual: residual.collect(),
            local: match callers {
                0 => 0,
                callers => hosts * WHOLE / callers,
            },
        }
    }

    /// The index of the locality for one request.
    pub(super) fn choose(&self) -> usize {
        let Self::Residual { local, residual } = self else {
            return 0;
        };
        if fastrand::u64(..WHOLE) < *local {
            return 0;
        }
        match residual.last() {
            // Shares are rounded.
            None | Some(0) => fastrand::usize(..residual.len().max(1)),
            Some(capacity) => {
                let at = fastrand::u64(..*capacity);
                residual.partition_point(|until| *until <= at)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(upstream: &[(&str, u64)], own: &[(&str, u64)]) -> Plan {
        let has_local = upstream.first().is_some_and(|(name, _)| *name == "z1");
        Plan::new(upstream, has_local, &own.iter().copied().collect())
    }

    /// We are in z1. Percent of the load of each locality.
    #[test]
    fn load_stays_as_far_as_hosts_are_there() {
        type Row<'a> = (&'a [(&'a str, u64)], &'a [(&'a str, u64)], &'a [usize]);
        let table: &[Row<'_>] = &[
            (&[("z1", 1), ("z2", 1)], &[("z1", 1), ("z2", 1)], &[100, 0]),
            (&[("z1", 3), ("z2", 1)], &[("z1", 1), ("z2", 1)], &[100, 0]),
            // All callers are here, and half of the hosts.
            (&[("z1", 1), ("z2", 1)], &[("z1", 1)], &[50, 50]),
            // A fifth of the hosts for two fifths of the callers: half of it stays.
            (
                &[("z1", 1), ("z2", 2), ("z3", 2)],
                &[("z1", 2), ("z2", 1), ("z3", 2)],
                &[50, 50, 0],
            ),
            (&[("z3", 1), ("z4", 1)], &[("z1", 1), ("z2", 1)], &[50, 50]),
            (&[("z2", 1), ("z3", 1)], &[("z1", 1), ("z2", 1)], &[0, 100]),
        ];
        for (upstream, own, expected) in table {
            let plan = plan(upstream, own);
            let mut counts = vec![0; upstream.len()];
            for _ in 0..10_000 {
                counts[plan.choose()] += 1;
            }
            let near = |(count, percent): (&usize, &usize)| (count / 100).abs_diff(*percent) <= 3;
            assert!(
                counts.iter().zip(*expected).all(near),
                "{upstream:?} {own:?} {counts:?}"
            );
        }
    }
}
