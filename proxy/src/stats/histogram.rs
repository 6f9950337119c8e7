//! Histograms over Envoy's default buckets.

use std::sync::OnceLock;

use super::Counter;

/// Upper bounds of Envoy's default buckets. They are meant for milliseconds; values are whole
/// numbers here, so the first bucket (0.5) holds the zeros.
pub(super) const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A histogram with a single writing thread. It takes memory when the first value is recorded.
#[derive(Debug, Default)]
pub struct Histogram(OnceLock<Box<Buckets>>);

#[derive(Debug, Default)]
struct Buckets {
    /// One more than the bounds: the last has no upper bound.
    counts: [Counter; BOUNDS.len() + 1],
    sum: Counter,
}

impl Histogram {
    pub fn record(&self, value: u64) {
        let buckets = self.0.get_or_init(Box::default);
        let index = BOUNDS.partition_point(|bound| *bound < value as f64);
        buckets.counts[index].inc();
        buckets.sum.add(value);
    }

    /// What was recorded so far.
    pub fn sum(&self) -> HistogramSum {
        let mut sum = HistogramSum::default();
        if let Some(buckets) = self.0.get() {
            for (total, count) in sum.counts.iter_mut().zip(&buckets.counts) {
                *total = count.get();
            }
            sum.sum = buckets.sum.get();
        }
        sum
    }
}

/// Recorded values, summed over workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramSum {
    /// Not cumulative; the last bucket has no upper bound.
    pub counts: [u64; BOUNDS.len() + 1],
    pub sum: u64,
}

impl HistogramSum {
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn add(&mut self, other: &Self) {
        for (total, count) in self.counts.iter_mut().zip(&other.counts) {
            *total += count;
        }
        self.sum += other.sum;
    }

    /// Bound and number of values at or below it, for each bucket that has a bound.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        BOUNDS
            .iter()
            .zip(&self.counts)
            .scan(0, |below, (bound, n)| {
                *below += n;
                Some((*bound, *below))
            })
    }

    /// An estimate of the value at `quantile` (0 to 1): linear within its bucket. `None` if
    /// nothing was recorded.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let total = self.count();
        let rank = quantile * total as f64;
        let mut below = 0;
        let mut lower = 0.0;
        for (index, count) in self.counts.iter().enumerate() {
            let upper = BOUNDS.get(index).copied().unwrap_or(lower);
            let reached = below + count;
            if *count > 0 && rank <= reached as f64 {
                if index == 0 {
                    return Some(0.0);
                }
                let share = (rank - below as f64) / *count as f64;
                return Some(lower + (upper - lower) * share);
            }
            below = reached;
            lower = upper;
        }
        None
    }
}
