//! `envoy.filters.http.local_ratelimit`, compiled; and its token bucket.

use std::{
    cmp::Ordering,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{
    Map,
    filters::Percent,
    limit_rules::{HostRules, LimitRule},
    route::HeaderMutations,
};

/// What one filter, or one route, limits.
#[derive(Debug)]
pub struct RateLimit {
    /// Of all requests; `None`: they are not limited.
    pub bucket: Option<TokenBucket>,
    /// Of those with such descriptors, by keys and values in their order.
    pub descriptors: Map<Vec<(String, String)>, TokenBucket>,
    /// Whether requests with such descriptors need a token of `bucket`, too.
    pub always_draws: bool,
    /// Descriptors are made by the rules of this stage.
    pub stage: u32,
    pub host_rules: HostRules,
    /// In place of those of routes, unless it is empty.
    pub rules: Vec<LimitRule>,
    /// The cluster that this proxy belongs to; what routes limit goes by their filter's.
    pub own_cluster: Arc<str>,
    /// Of which requests the tokens are counted.
    pub enabled: Percent,
    /// Which of those without a token are refused.
    pub enforced: Percent,
    /// From 400 on.
    pub status: u16,
    pub rate_limited_as_resource_exhausted: bool,
    /// `x-ratelimit-limit`, `-remaining` and `-reset`.
    pub tells_limits: bool,
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

    /// Takes so many tokens, if they are there.
    pub fn take(&self, number: u64) -> bool {
        self.take_at(number as f64, self.start.elapsed())
    }

    fn take_at(&self, number: f64, elapsed: Duration) -> bool {
        let now = elapsed.as_secs_f64();
        let drawn = self.empty_at.fetch_update(Relaxed, Relaxed, |empty_at| {
            let tokens = self.tokens(f64::from_bits(empty_at), now);
            (tokens >= number).then(|| (now - (tokens - number) / self.per_second).to_bits())
        });
        drawn.is_ok()
    }

    fn tokens(&self, empty_at: f64, now: f64) -> f64 {
        ((now - empty_at) * self.per_second).min(self.max_tokens)
    }

    /// The slower fills first.
    pub fn by_speed(&self, other: &Self) -> Ordering {
        self.per_second.total_cmp(&other.per_second)
    }

    /// The size, the tokens that are left, and the seconds until there is one.
    pub fn state(&self) -> [u64; 3] {
        let now = self.start.elapsed().as_secs_f64();
        let tokens = self
            .tokens(f64::from_bits(self.empty_at.load(Relaxed)), now)
            .max(0.0);
        let wait = (1.0 - tokens).max(0.0) / self.per_second;
        [self.max_tokens as u64, tokens as u64, wait.ceil() as u64]
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
            (0..tries).filter(|_| bucket.take_at(1.0, at)).count()
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
    fn a_bucket_tells_its_state() {
        let bucket = TokenBucket::new(3, 1, Duration::from_secs(3600));
        assert_eq!(bucket.state(), [3, 3, 0]);
        assert!(bucket.take(2) && !bucket.take(2));
        assert_eq!(bucket.state(), [3, 1, 0]);
        assert!(bucket.take(1));
        let [_, left, wait] = bucket.state();
        // However slow the machine is.
        assert!(left == 0 && (3500..=3600).contains(&wait), "{wait} s");
        assert!(bucket.take(0));
    }

    #[test]
    fn threads_draw_from_one_bucket() {
        let bucket = TokenBucket::new(1000, 1, Duration::from_secs(86_400));
        let draw = || (0..400).filter(|_| bucket.take(1)).count();
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(draw)).collect();
            let taken = threads.into_iter().map(|it| it.join().expect("it counts"));
            taken.sum()
        });
        assert_eq!(taken, 1000);
    }
}
