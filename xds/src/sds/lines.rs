//! How many lines of the log the streams of a server may write: whoever may connect may ask for any name, and
//! refuse what it is sent, again and again.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// For all streams together; a proxy that starts with a gateway's certificates needs some dozens.
const LINES: u32 = 500;
/// After this time there may be as many again.
const WINDOW: Duration = Duration::from_secs(10);

/// Shared by all streams of a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines(Arc<Mutex<Window>>);

#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    written: u32,
}

impl Lines {
    /// Whether one more may be written.
    pub(crate) fn admit(&self) -> bool {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> bool {
        let mut window = self.0.lock();
        if window.since.is_none_or(|since| now - since >= WINDOW) {
            *window = Window {
                since: Some(now),
                written: 0,
            };
        }
        window.written = window.written.saturating_add(1);
        window.written <= LINES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_share_what_may_be_written() {
        let lines = Lines::default();
        let other = lines.clone();
        let start = Instant::now();
        for round in 0..3 {
            let now = start + WINDOW * round;
            let both = (0..LINES).map(|_| (lines.admit_at(now), other.admit_at(now)));
            let admitted = both.map(|(a, b)| u32::from(a) + u32::from(b));
            assert_eq!(admitted.sum::<u32>(), LINES);
        }
    }
}
