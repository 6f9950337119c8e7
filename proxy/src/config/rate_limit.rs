//! `envoy.filters.http.local_ratelimit`, compiled; and its token bucket.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::{filters::Percent, route::HeaderMutations};

/// What one filter, or one route, limits.
#[derive(Debug)]
pub struct RateLimit {
    /// `None`: nothing is limited.
    pub bucket: Option<TokenBucket>,
    /// Of which requests the tokens are counted.
    pub enabled: Percent,
    /// Which of those without a token are refused.
    pub enforced: Percent,
    /// From 400 on.
    pub status: u16,
    pub rate_limited_as_resource_exhausted: bool,
    pub request_headers_to_add_when_not_enforced: HeaderMutations,
    pub response_headers_to_add: HeaderMutations,
}

/// `envoy.type.v3.TokenBucket`: one of the process, so the workers draw from it together. It fills
/// all the time, not by the interval, as Envoy's does.
#[derive(Debug)]
pub struct TokenBucket {
    start: Instant,
    max_tokens: f64,
    per_second: f64,
    /// When the bucket was empty last, had nobody drawn since: seconds from `start`, the bits of an
    /// `f64`.
    empty_at: AtomicU64,
}

impl TokenBucket {
    /// Full.
    pub fn new(max_tokens: u32, tokens_per_fill: u32, fill_interval: Duration) -> Self {
        let max_tokens = f64::from(max_tokens);
        let per_second = f64::from(tokens_per_fill) / fill_interval.as_secs_f64();
        let empty_at = AtomicU64::new((-max_tokens / per_second).to_bits());
        Self {
            start: Instant::now(),
            max_tokens,
            per_second,
            empty_at,
        }
    }

    /// Takes one token, if there is one.
    pub fn take(&self) -> bool {
        self.take_at(self.start.elapsed())
    }

    fn take_at(&self, elapsed: Duration) -> bool {
        let now = elapsed.as_secs_f64();
        let drawn = self.empty_at.fetch_update(Relaxed, Relaxed, |empty_at| {
            let filled = (now - f64::from_bits(empty_at)) * self.per_second;
            let tokens = filled.min(self.max_tokens);
            (tokens >= 1.0).then(|| (now - (tokens - 1.0) / self.per_second).to_bits())
        });
        drawn.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_fills_all_the_time_up_to_its_size() {
        let bucket = TokenBucket::new(3, 2, Duration::from_secs(1));
        let taken = |millis, tries| {
            let at = Duration::from_millis(millis);
            (0..tries).filter(|_| bucket.take_at(at)).count()
        };
        assert_eq!(taken(0, 9), 3);
        assert_eq!(taken(499, 9), 0);
        assert_eq!(taken(501, 9), 1);
        assert_eq!(taken(1501, 9), 2);
        assert_eq!(taken(100_000, 9), 3);
        // A clock that another thread read earlier gives nothing more.
        assert_eq!(taken(99_000, 9), 0);
    }

    #[test]
    fn threads_draw_from_one_bucket() {
        let bucket = TokenBucket::new(1000, 1, Duration::from_secs(86_400));
        let draw = || (0..400).filter(|_| bucket.take()).count();
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(draw)).collect();
            let taken = threads.into_iter().map(|it| it.join().expect("it counts"));
            taken.sum()
        });
        assert_eq!(taken, 1000);
    }
}
