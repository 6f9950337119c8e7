//! Log lines that a peer can cause at will, held to a bounded rate.

use std::{cell::Cell, time::Instant};

/// Lines per second that are written in full; enough to see each cause, and little to store.
const LINES_PER_SECOND: u32 = 10;

/// One source of log lines. Not shared between threads.
#[derive(Debug)]
pub struct LogLimit {
    window: Cell<Instant>,
    written: Cell<u32>,
    suppressed: Cell<u64>,
}

impl Default for LogLimit {
    fn default() -> Self {
        Self {
            window: Cell::new(Instant::now()),
            written: Cell::new(0),
            suppressed: Cell::new(0),
        }
    }
}

impl LogLimit {
    /// Whether a line may be written now; if so, how many were not written before it.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        if now.duration_since(self.window.get()).as_secs() >= 1 {
            self.window.set(now);
            self.written.set(0);
        }
        if self.written.get() >= LINES_PER_SECOND {
            self.suppressed.set(self.suppressed.get() + 1);
            return None;
        }
        self.written.set(self.written.get() + 1);
        Some(self.suppressed.take())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_cut_and_counted() {
        let limit = LogLimit::default();
        let start = Instant::now();
        let written = (0..100).filter(|_| limit.admit_at(start).is_some());
        assert_eq!(written.count(), LINES_PER_SECOND as usize);
        let later = start + Duration::from_secs(2);
        assert_eq!(limit.admit_at(later), Some(90));
        assert_eq!(limit.admit_at(later), Some(0));
    }
}
