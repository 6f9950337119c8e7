//! The cell through which a live connection is told to drain, or to close now, and which tells what
//! passed on it.
//!
//! Invariant: once a connection is closed, its [`Stream`](super::Stream) passes no byte in either
//! direction, whatever the code that owns it is doing.

use std::{
    cell::{Cell, OnceCell, RefCell},
    future::poll_fn,
    io,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use ithildin_tls::Refusal;

/// Why a live connection was closed by us and not by its peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The peer would be refused today: its bundle, a CRL, the policy or its expiry says so.
    #[error("peer is no longer authorised: {0}")]
    Refused(Arc<Refusal>),
    #[error("own identity was withdrawn")]
    IdentityWithdrawn,
    #[error("validation context was withdrawn")]
    ValidationWithdrawn,
    #[error("drain time is over")]
    Drained,
    #[error("process shuts down")]
    Shutdown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Phase {
    Open,
    Draining,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndedBy {
    Us,
    Peer,
}

/// One connection as seen from outside. It is owned by one task: the one that polls its stream.
#[derive(Debug)]
pub struct Live {
    phase: Cell<Phase>,
    reason: OnceCell<CloseReason>,
    waker: RefCell<Option<Waker>>,
    /// Bytes of the stream, inside TLS, that nobody has counted yet: received, and sent.
    passed: Cell<(u64, u64)>,
    /// Who was first to end the connection.
    ended_by: Cell<Option<EndedBy>>,
}

impl Live {
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::new(Phase::Open),
            reason: OnceCell::new(),
            waker: RefCell::new(None),
            passed: Cell::default(),
            ended_by: Cell::default(),
        })
    }

    /// Asks the owner to finish what it does and take nothing new.
    pub fn drain(&self) {
        if self.phase.get() == Phase::Open {
            self.phase.set(Phase::Draining);
            self.wake();
        }
    }

    /// Closes the connection. The first reason stays.
    pub fn close(&self, reason: CloseReason) {
        if self.reason.set(reason).is_ok() {
            self.phase.set(Phase::Closed);
            self.wake();
        }
    }

    /// Whether nothing new should be taken: HTTP/1 answers with `Connection: close`.
    pub fn is_draining(&self) -> bool {
        self.phase.get() >= Phase::Draining
    }

    /// Why the connection was closed from outside, if it was.
    pub fn close_reason(&self) -> Option<&CloseReason> {
        self.reason.get()
    }

    /// Resolves when the connection should drain (or is closed).
    pub async fn draining(&self) {
        poll_fn(|cx| self.poll_phase(Phase::Draining, cx)).await;
    }

    /// Resolves when the connection is closed from outside.
    pub async fn closed(&self) {
        poll_fn(|cx| self.poll_phase(Phase::Closed, cx)).await;
    }

    /// Bytes that passed since this was asked last: received, and sent.
    pub fn take_passed(&self) -> (u64, u64) {
        self.passed.take()
    }

    /// Whether the peer ended the connection, or broke it.
    pub fn is_ended_by_peer(&self) -> bool {
        self.ended_by.get() == Some(EndedBy::Peer)
    }

    /// Notes that we end the connection, or our direction of it, unless the peer was first.
    pub fn end_by_us(&self) {
        self.ended_by.set(self.ended_by.get().or(Some(EndedBy::Us)));
    }

    pub(super) fn received(&self, bytes: usize) {
        let (received, sent) = self.passed.get();
        self.passed.set((received + bytes as u64, sent));
    }

    pub(super) fn sent(&self, bytes: usize) {
        let (received, sent) = self.passed.get();
        self.passed.set((received, sent + bytes as u64));
    }

    pub(super) fn end_by_peer(&self) {
        self.ended_by
            .set(self.ended_by.get().or(Some(EndedBy::Peer)));
    }

    /// An error that carries the reason, if the connection is closed.
    pub(super) fn check(&self) -> io::Result<()> {
        match self.reason.get() {
            None => Ok(()),
            Some(reason) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                reason.clone(),
            )),
        }
    }

    /// Remembers whom to wake. There is one owner, so the last one stands.
    pub(super) fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match waker.as_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }

    fn poll_phase(&self, phase: Phase, cx: &Context<'_>) -> Poll<()> {
        if self.phase.get() >= phase {
            return Poll::Ready(());
        }
        self.register(cx);
        Poll::Pending
    }

    fn wake(&self) {
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
