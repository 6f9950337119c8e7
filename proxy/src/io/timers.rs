//! Coarse deadlines: one look at the clock to arm, one sweep per worker for all of them.
//!
//! A deadline fires between 0 and [`TICK`] late. Timeouts of proxies are seconds; the few that are
//! shorter than [`PRECISE_BELOW`] go to tokio's timer through [`Timers::timeout`].

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use pin_project_lite::pin_project;
use tokio::{sync::Notify, time::Sleep};

/// Time between two sweeps.
pub const TICK: Duration = Duration::from_millis(100);

/// Below this a deadline that is 100 ms late would be wrong by a tenth or more.
pub const PRECISE_BELOW: Duration = Duration::from_secs(1);

/// A slot that is not armed.
const NEVER: u64 = u64::MAX;

/// All deadlines of one worker.
#[derive(Debug)]
pub struct Timers {
    start: Instant,
    /// Ticks since `start`; advances while a deadline exists.
    now: Cell<u64>,
    slots: RefCell<Slots>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Slots {
    due: Vec<u64>,
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Timers {
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            start: Instant::now(),
            now: Cell::new(0),
            slots: RefCell::default(),
            wake: Notify::new(),
        })
    }

    /// A deadline that is not armed.
    pub fn deadline(self: &Rc<Self>) -> Deadline {
        let mut slots = self.slots.borrow_mut();
        if slots.in_use() == 0 {
            self.now.set(self.elapsed());
            self.wake.notify_one();
        }
        Deadline {
            slot: slots.insert(),
            timers: Rc::clone(self),
        }
    }

    /// `future`, or `None` when `limit` is over first.
    pub fn timeout<F: Future>(
        self: &Rc<Self>,
        limit: Option<Duration>,
        future: F,
    ) -> Timeout<'_, F> {
        Timeout {
            future,
            limit,
            timers: self,
            wait: None,
        }
    }

    fn wait(self: &Rc<Self>, limit: Duration) -> Wait {
        if limit < PRECISE_BELOW {
            return Wait::Precise(Box::pin(tokio::time::sleep(limit)));
        }
        let deadline = self.deadline();
        deadline.arm(limit);
        Wait::Coarse(deadline)
    }

    /// Wakes what is due, for ever. Runs as one task of the worker.
    pub async fn sweep(&self) {
        loop {
            if self.slots.borrow().in_use() == 0 {
                self.wake.notified().await;
            }
            tokio::time::sleep(TICK).await;
            self.now.set(self.elapsed());
            self.fire();
        }
    }

    fn fire(&self) {
        let now = self.now.get();
        let slots = &mut *self.slots.borrow_mut();
        for (due, waker) in slots.due.iter().zip(&mut slots.wakers) {
            if *due <= now
                && let Some(waker) = waker.take()
            {
                waker.wake();
            }
        }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis() / TICK.as_millis()).unwrap_or(NEVER - 1)
    }
}

pin_project! {
    /// See [`Timers::timeout`]. Not an async function: one takes room for its argument twice.
    pub struct Timeout<'t, F> {
        #[pin]
        future: F,
        limit: Option<Duration>,
        timers: &'t Rc<Timers>,
        // Made only when there is something to wait for.
        wait: Option<Wait>,
    }
}

enum Wait {
    Coarse(Deadline),
    /// Boxed: it is large, and rare.
    Precise(Pin<Box<Sleep>>),
}

impl<F: Future> Future for Timeout<'_, F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Some(output));
        }
        let Some(limit) = *this.limit else {
            return Poll::Pending;
        };
        let wait = this.wait.get_or_insert_with(|| this.timers.wait(limit));
        wait.poll_over(cx).map(|()| None)
    }
}

impl Wait {
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Coarse(deadline) => deadline.poll_expired(cx),
            Self::Precise(sleep) => sleep.as_mut().poll(cx),
        }
    }
}

impl Slots {
    fn in_use(&self) -> usize {
        self.due.len() - self.free.len()
    }

    fn insert(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.due.push(NEVER);
            self.wakers.push(None);
            self.due.len() - 1
        })
    }
}

/// One deadline, owned by one task.
#[derive(Debug)]
pub struct Deadline {
    timers: Rc<Timers>,
    slot: usize,
}

impl Deadline {
    /// Moves the deadline to `after` from now.
    pub fn arm(&self, after: Duration) {
        // By the clock and not by the last sweep, which a busy worker may have had long ago: a
        // deadline is never early.
        let due = self.timers.start.elapsed().saturating_add(after);
        let ticks = due.as_nanos().div_ceil(TICK.as_nanos());
        let due = u64::try_from(ticks).unwrap_or(NEVER).min(NEVER - 1);
        self.timers.slots.borrow_mut().due[self.slot] = due;
    }

    /// Arms, or disarms for `None`.
    pub fn set(&self, after: Option<Duration>) {
        match after {
            Some(after) => self.arm(after),
            None => self.disarm(),
        }
    }

    /// The deadline never comes.
    pub fn disarm(&self) {
        self.timers.slots.borrow_mut().due[self.slot] = NEVER;
    }

    /// Resolves when the deadline is over. It may be armed anew while somebody waits.
    pub async fn expired(&self) {
        poll_fn(|cx| self.poll_expired(cx)).await;
    }

    /// See [`expired`](Self::expired).
    pub fn poll_expired(&self, cx: &Context<'_>) -> Poll<()> {
        let slots = &mut *self.timers.slots.borrow_mut();
        if slots.due[self.slot] <= self.timers.now.get() {
            return Poll::Ready(());
        }
        match &mut slots.wakers[self.slot] {
            Some(waker) => waker.clone_from(cx.waker()),
            empty => *empty = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut slots = self.timers.slots.borrow_mut();
        slots.due[self.slot] = NEVER;
        slots.wakers[self.slot] = None;
        slots.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_deadline_fires_when_it_is_over_and_not_before() {
        let timers = Timers::new();
        let deadline = timers.deadline();
        deadline.arm(Duration::from_millis(150));
        let start = Instant::now();
        tokio::select! {
            () = timers.sweep() => {}
            () = deadline.expired() => {}
        }
        assert!(start.elapsed() >= Duration::from_millis(150));
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_deadline_is_not_early_after_a_sweep_that_was_late() {
        let timers = Timers::new();
        let deadline = timers.deadline();
        // A worker that is busy for several ticks.
        std::thread::sleep(5 * TICK);
        deadline.arm(3 * TICK);
        let start = Instant::now();
        tokio::select! {
            () = timers.sweep() => {}
            () = deadline.expired() => {}
        }
        assert!(start.elapsed() >= 3 * TICK);
    }

    #[tokio::test]
    async fn a_deadline_can_be_moved_while_somebody_waits() {
        let timers = Timers::new();
        let deadline = timers.deadline();
        deadline.arm(Duration::from_millis(100));
        let start = Instant::now();
        let moved = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            deadline.arm(Duration::from_millis(400));
            pending::<()>().await;
        };
        tokio::select! {
            () = timers.sweep() => {}
            () = moved => {}
            () = deadline.expired() => {}
        }
        assert!(start.elapsed() >= Duration::from_millis(400));
    }

    #[tokio::test]
    async fn a_timeout_gives_the_output_or_none() {
        let timers = Timers::new();
        assert_eq!(timers.timeout(None, async { 1 }).await, Some(1));
        let second = Some(Duration::from_secs(1));
        assert_eq!(timers.timeout(second, async { 2 }).await, Some(2));
        let late = async {
            timers.timeout(second, pending::<()>()).await.is_none()
                && timers.timeout(Some(TICK), pending::<()>()).await.is_none()
        };
        tokio::select! {
            () = timers.sweep() => {}
            late = late => assert!(late),
        }
        assert_eq!(timers.slots.borrow().in_use(), 0);
    }
}
