//! A request body kept while it is sent, so that it can be sent again.
//!
//! Invariant: no more than the limit is kept. A body that turns out to be longer is passed on, and
//! its request is not tried again.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;

use super::{body::Part, headers::Headers};
use crate::stats::ClusterStats;

/// What was sent of one body.
pub(super) struct Tape {
    /// In bytes.
    limit: usize,
    /// Counts bodies that are longer, on this worker.
    stats: Arc<ClusterStats>,
    worker: usize,
    state: Cell<State>,
    // Copied: parts share the buffers that they were read into, which may be much larger.
    data: RefCell<Vec<u8>>,
    trailers: RefCell<Headers>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Untouched,
    /// Some of it was sent, and more may come.
    Recording,
    Whole,
    TooLong,
}

impl Tape {
    pub(super) fn new(limit: usize, stats: &Arc<ClusterStats>, worker: usize) -> Rc<Self> {
        Rc::new(Self {
            limit,
            stats: Arc::clone(stats),
            worker,
            state: Cell::new(State::Untouched),
            data: RefCell::default(),
            trailers: RefCell::default(),
        })
    }

    /// Whether what is sent next is the whole body. As in Envoy, one that is still coming in is not
    /// sent again.
    pub(super) fn can_replay(&self) -> bool {
        matches!(self.state.get(), State::Untouched | State::Whole)
    }

    /// The body, if some of it has been sent.
    pub(super) fn replay(&self) -> Option<Bytes> {
        let data = || Bytes::copy_from_slice(&self.data.borrow());
        (self.state.get() == State::Whole).then(data)
    }

    pub(super) fn trailers(&self) -> Headers {
        self.trailers.borrow().clone()
    }

    pub(super) fn has_trailers(&self) -> bool {
        !self.trailers.borrow().is_empty()
    }

    /// Keeps one part. `is_last`: no data follows.
    pub(super) fn record(&self, part: &Part, is_last: bool) {
        if self.state.get() == State::TooLong {
            return;
        }
        let mut kept = self.data.borrow_mut();
        let is_last = match part {
            Part::Data(data) if kept.len() + data.len() > self.limit => {
                *kept = Vec::new();
                self.state.set(State::TooLong);
                let stats = self.stats.worker(self.worker);
                stats.retry_or_shadow_abandoned.inc();
                return;
            }
            Part::Data(data) => {
                kept.extend_from_slice(data);
                is_last
            }
            Part::End(trailers) => {
                self.trailers.replace(trailers.clone());
                true
            }
        };
        self.state.set(match is_last {
            true => State::Whole,
            false => State::Recording,
        });
    }
}
