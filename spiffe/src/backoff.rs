//! Pauses between attempts to reach a server: doubled each time, jittered, bounded.

use std::time::Duration;

/// Each pause is a random share of the one that is due, and at least this one, so that many clients
/// spread out.
const LEAST_SHARE: f64 = 0.5;

/// How long to wait before the next attempt.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    /// The first attempt after a good one needs no pause.
    starts_at_once: bool,
    failures: u32,
}

impl Backoff {
    /// Pauses from `first` to `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            starts_at_once: false,
            failures: 0,
        }
    }

    /// The same, but the first pause is none and the second one `first`.
    pub const fn at_once(first: Duration, longest: Duration) -> Self {
        Self {
            starts_at_once: true,
            ..Self::new(first, longest)
        }
    }

    /// The next pause is the first one.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// A connection was lost so long after its first answer; `None`: there was none. One that did not
    /// outlast the longest pause is a failure: a server that dies of what it sends must not have all its
    /// clients back at once, again and again.
    pub fn ended(&mut self, lasted: Option<Duration>) {
        if lasted.is_some_and(|lasted| lasted >= self.longest) {
            self.reset();
        }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        self.pause_within(self.longest)
    }

    /// The next pause, where this time no more than `longest` will do.
    pub fn pause_within(&mut self, longest: Duration) -> Duration {
        let doublings = match self.starts_at_once {
            true => self.failures.checked_sub(1),
            false => Some(self.failures),
        };
        self.failures = self.failures.saturating_add(1);
        let Some(doublings) = doublings else {
            return Duration::ZERO;
        };
        let factor = 2_u32.saturating_pow(doublings);
        let share = LEAST_SHARE + (1.0 - LEAST_SHARE) * fastrand::f64();
        self.first
            .saturating_mul(factor)
            .min(longest)
            .mul_f64(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(30);

    #[test]
    fn grows_to_its_bound_and_starts_over() {
        for mut backoff in [
            Backoff::new(FIRST, LONGEST),
            Backoff::at_once(FIRST, LONGEST),
        ] {
            for _ in 0..2 {
                if backoff.starts_at_once {
                    assert!(backoff.pause().is_zero());
                }
                for due in [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
                    let pause = backoff.pause().as_secs_f64();
                    assert!(due / 2.0 <= pause && pause <= due, "{pause} of {due}");
                }
                backoff.reset();
            }
        }
    }

    #[test]
    fn a_bound_may_be_nearer_at_times() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        for _ in 0..100 {
            assert!(backoff.pause_within(3 * FIRST) <= 3 * FIRST);
        }
        assert!(backoff.pause() >= LONGEST / 2);
    }

    #[test]
    fn only_a_connection_that_lasts_starts_over() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        for _ in 0..20 {
            backoff.ended(Some(LONGEST / 2));
            backoff.pause();
        }
        assert!(
            backoff.pause() >= LONGEST / 2,
            "each was lost soon after its answer"
        );
        backoff.ended(None);
        assert!(backoff.pause() >= LONGEST / 2, "there was no answer");
        backoff.ended(Some(LONGEST));
        assert!(backoff.pause() <= FIRST);
    }
}
