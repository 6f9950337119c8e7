//! Resources that the control plane took away while others still name them.
//!
//! istiod takes a cluster away before the routes and listeners that lead to it, each in a response of
//! its own. Requests between the two would fail, so such a cluster goes last.

use std::time::Duration;

use tokio::time::Instant;

/// For how long what is still named stays at most: routes to a service that is gone may well stay,
/// and requests there are to fail as they would with Envoy.
const NAMED_LIMIT: Duration = Duration::from_secs(30);

/// For how long it stays when nobody names it any more: connections to a replaced listener may be
/// about to use it.
const DRAIN: Duration = Duration::from_secs(10);

/// How long ago a resource was taken away, and since when nobody names it.
#[derive(Debug)]
pub(super) struct Leaving {
    since: Instant,
    unnamed_since: Option<Instant>,
}

/// Whether it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    NotYet,
    Unnamed,
    /// Although it is still named.
    Overdue,
}

impl Leaving {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            unnamed_since: None,
        }
    }

    pub(super) fn check(&mut self, named: bool, now: Instant) -> Departure {
        if named {
            self.unnamed_since = None;
        } else {
            self.unnamed_since.get_or_insert(now);
        }
        match self.unnamed_since {
            None if now >= self.since + NAMED_LIMIT => Departure::Overdue,
            Some(since) if now >= since + DRAIN => Departure::Unnamed,
            _ => Departure::NotYet,
        }
    }

    /// When to check again although nothing changed.
    pub(super) fn due(&self) -> Instant {
        match self.unnamed_since {
            Some(since) => since + DRAIN,
            None => self.since + NAMED_LIMIT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unnamed_goes_after_the_drain_and_what_is_named_at_the_limit() {
        let start = Instant::now();
        let mut leaving = Leaving::new(start);
        assert_eq!(leaving.check(true, start), Departure::NotYet);
        assert_eq!(leaving.due(), start + NAMED_LIMIT);
        let moved = start + Duration::from_secs(2);
        assert_eq!(leaving.check(false, moved), Departure::NotYet);
        assert_eq!(leaving.due(), moved + DRAIN);
        assert_eq!(leaving.check(false, moved + DRAIN), Departure::Unnamed);
        // Named anew: the drain begins anew, the limit does not.
        assert_eq!(leaving.check(true, moved + DRAIN), Departure::NotYet);
        let last = start + NAMED_LIMIT;
        assert_eq!(leaving.check(true, last), Departure::Overdue);
    }
}
