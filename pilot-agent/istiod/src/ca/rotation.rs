//! When a certificate is renewed.

use std::time::{Duration, SystemTime};

/// The least time between two certificates, however short they live.
const LEAST: Duration = Duration::from_secs(1);

/// `SECRET_GRACE_PERIOD_RATIO` and its jitter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotation {
    /// The share of the lifetime that is left at renewal.
    pub grace_ratio: f64,
    /// By how much that share varies by chance, up or down, so that a fleet does not come at once.
    pub grace_jitter: f64,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            grace_ratio: 0.5,
            grace_jitter: 0.01,
        }
    }
}

impl Rotation {
    /// When a certificate that came at `fetched` and ends at `not_after` is renewed. It counts from the
    /// fetch, since a certificate may be older than that. `chance` is from -1 to 1.
    pub(super) fn due(
        &self,
        fetched: SystemTime,
        not_after: SystemTime,
        chance: f64,
    ) -> SystemTime {
        let life = not_after.duration_since(fetched).unwrap_or(Duration::ZERO);
        let share = (self.grace_ratio + chance * self.grace_jitter).clamp(0.0, 1.0);
        let wait = life.mul_f64(1.0 - share);
        fetched + wait.max(LEAST)
    }
}

/// From -1 to 1.
pub(super) fn chance() -> f64 {
    2.0 * fastrand::f64() - 1.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn istios_defaults_renew_after_half_the_life() {
        let fetched = SystemTime::UNIX_EPOCH + 1000 * HOUR;
        let due = |rotation: Rotation, chance| {
            let due = rotation.due(fetched, fetched + 24 * HOUR, chance);
            due.duration_since(fetched).unwrap().as_secs_f64() / 3600.0
        };
        let near = |a: f64, b: f64| (a - b).abs() < 0.001;
        assert!(near(due(Rotation::default(), 0.0), 12.0));
        assert!(near(due(Rotation::default(), 1.0), 11.76));
        assert!(near(due(Rotation::default(), -1.0), 12.24));
        let all = Rotation {
            grace_ratio: 1.0,
            grace_jitter: 0.5,
        };
        assert!(near(due(all, 1.0), LEAST.as_secs_f64() / 3600.0));
    }

    proptest! {
        #[test]
        fn it_is_never_due_after_the_end(
            ratio in 0.0..=1.0_f64, jitter in 0.0..=1.0_f64, chance in -1.0..=1.0_f64, life in 1_u64..1_000_000
        ) {
            let rotation = Rotation { grace_ratio: ratio, grace_jitter: jitter };
            let end = SystemTime::UNIX_EPOCH + Duration::from_secs(life);
            let due = rotation.due(SystemTime::UNIX_EPOCH, end, chance);
            prop_assert!(due <= end && due >= SystemTime::UNIX_EPOCH + LEAST);
        }
    }
}
