//! Weighted choice by earliest deadline first: over time each entry is chosen in proportion to its
//! weight, in O(log n), evenly interleaved.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Deadline units of one choice at weight 1: so many that weights of ten digits still tell, and so
/// few that a deadline grows for longer than any proxy runs.
const SCALE: u128 = 1 << 56;

/// The schedule of `n` entries, named by index.
#[derive(Debug)]
pub(super) struct Edf {
    /// Earliest first; equal deadlines by index.
    heap: BinaryHeap<Reverse<(u128, usize)>>,
}

impl Edf {
    /// Entries start at random places, so that workers do not march in step.
    pub(super) fn new(weights: impl Iterator<Item = u64>) -> Self {
        let start = |(index, weight)| Reverse((fastrand::u128(0..step(weight, 0)), index));
        Self {
            heap: weights.enumerate().map(start).collect(),
        }
    }

    /// The next entry. `load` says the weight of an entry and how many requests it has; each
    /// request makes the entry's turn come later.
    pub(super) fn next(&mut self, load: impl FnOnce(usize) -> (u64, u32)) -> Option<usize> {
        let mut first = self.heap.peek_mut()?;
        let Reverse((deadline, index)) = *first;
        let (weight, active) = load(index);
        *first = Reverse((deadline.saturating_add(step(weight, active)), index));
        Some(index)
    }
}

fn step(weight: u64, active: u32) -> u128 {
    let step = SCALE * (u128::from(active) + 1) / u128::from(weight.max(1));
    step.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(weights: &[u64], picks: usize) -> Vec<usize> {
        let mut edf = Edf::new(weights.iter().copied());
        let mut counts = vec![0; weights.len()];
        for _ in 0..picks {
            counts[edf.next(|index| (weights[index], 0)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn choices_follow_weights() {
        let counts = counts(&[1, 3, 6], 1000);
        for (count, expected) in counts.iter().zip([100, 300, 600]) {
            assert!(count.abs_diff(expected) <= 2, "{counts:?}");
        }
        assert_eq!(Edf::new([].into_iter()).next(|_| (1, 0)), None);
    }

    #[test]
    fn large_weights_are_told_apart() {
        for scale in [1, 1_000, 1_000_000, 40_000_000_000] {
            let counts = counts(&[5 * scale, 7 * scale], 1200);
            assert!(counts[0].abs_diff(500) <= 2, "{scale}: {counts:?}");
        }
    }

    #[test]
    fn zero_weights_are_not_starved_and_do_not_panic() {
        assert!(counts(&[0, 1], 10)[0] >= 4);
    }
}
