//! Memory that requests of one kind may hold together.

use std::{cell::Cell, rc::Rc};

/// A worker's limit, and what is taken of it.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    taken: Cell<usize>,
}

impl Budget {
    /// `limit` is in bytes.
    pub fn new(limit: usize) -> Rc<Self> {
        Rc::new(Self {
            limit,
            taken: Cell::default(),
        })
    }

    /// A share of nothing, which can grow.
    pub fn none(self: &Rc<Self>) -> Share {
        Share {
            budget: Rc::clone(self),
            bytes: 0,
        }
    }

    /// Whether nothing is taken.
    #[cfg(test)]
    pub(crate) fn is_whole(&self) -> bool {
        self.taken.get() == 0
    }

    /// So many bytes, until the share is dropped; `None` if they are not there.
    pub fn take(self: &Rc<Self>, bytes: usize) -> Option<Share> {
        let taken = self.taken.get().checked_add(bytes)?;
        (taken <= self.limit).then(|| {
            self.taken.set(taken);
            Share {
                budget: Rc::clone(self),
                bytes,
            }
        })
    }
}

/// A part of a [`Budget`].
#[derive(Debug)]
pub struct Share {
    budget: Rc<Budget>,
    bytes: usize,
}

impl Share {
    /// Takes so many bytes more, if they are there.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let Some(mut more) = self.budget.take(bytes) else {
            return false;
        };
        self.bytes += std::mem::take(&mut more.bytes);
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let taken = &self.budget.taken;
        taken.set(taken.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_can_be_taken_again() {
        let budget = Budget::new(10);
        let first = budget.take(6).expect("it fits");
        assert!(budget.take(5).is_none());
        let second = budget.take(4);
        assert!(second.is_some() && budget.take(1).is_none());
        drop(first);
        assert!(budget.take(6).is_some());
        assert!(budget.take(usize::MAX).is_none());
        let mut share = second.expect("it was there");
        assert!(!share.grow(7) && share.grow(6) && budget.take(1).is_none());
        drop(share);
        assert!(budget.take(10).is_some());
    }
}
