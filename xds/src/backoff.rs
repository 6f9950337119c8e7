//! Pauses between attempts: doubled each time, jittered, and reset by a stream that lasts.

use std::time::Duration;

/// The first pause: short, since a socket usually appears or returns at once.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause: how late a server that comes back is noticed.
const LONGEST: Duration = Duration::from_secs(5);
/// A stream that was answered and lost sooner counts as a failed attempt: a server that dies of what
/// it sends must not have all its clients back at once, again and again.
const LASTING: Duration = LONGEST;

#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// The next pause is a short one.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// A stream has ended so long after its first answer; `None`: there was none.
    pub(crate) fn ended(&mut self, lasted: Option<Duration>) {
        if lasted.is_some_and(|lasted| lasted >= LASTING) {
            self.reset();
        }
    }

    /// Between half and the whole of the pause that is due, so that many clients spread out.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_a_limit_and_starts_over() {
        let mut backoff = Backoff::new();
        let mut due = FIRST;
        for _ in 0..20 {
            let pause = backoff.pause();
            assert!(due / 2 <= pause && pause <= due, "{pause:?} of {due:?}");
            due = (due * 2).min(LONGEST);
        }
        assert!(backoff.pause() >= LONGEST / 2);
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }

    #[test]
    fn only_a_stream_that_lasts_starts_over() {
        let mut backoff = Backoff::new();
        for _ in 0..20 {
            backoff.ended(Some(LASTING / 2));
            backoff.pause();
        }
        assert!(
            backoff.pause() >= LONGEST / 2,
            "each was lost soon after its answer"
        );
        backoff.ended(None);
        assert!(backoff.pause() >= LONGEST / 2, "there was no answer");
        backoff.ended(Some(LASTING));
        assert!(backoff.pause() <= FIRST);
    }
}
