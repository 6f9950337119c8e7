//! The pools of one host: one for each key, each with idle HTTP/1 and shared HTTP/2 connections.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::{Rc, Weak},
};

use tokio::sync::oneshot;

use super::{
    LbRequest,
    carried::Carried,
    cluster::Context,
    connect::{self, Connected},
    failure::UpstreamFailure,
    hosts::Host,
    http1::IdleConnection,
    http2::SharedConnection,
    key::{PoolKey, Wanted},
    lease::HttpLease,
    limits::{self, PendingPermit},
};
use crate::{config::Map, io::Live};

/// All pools of one address in one cluster generation.
#[derive(Debug, Default)]
pub(super) struct HostPools {
    shared: RefCell<Vec<Rc<Pool>>>,
    /// Those that are for one client only. There may be as many as there are clients.
    own: RefCell<Map<Carried, Vec<Rc<Pool>>>>,
}

impl HostPools {
    /// The pool for `wanted`; made if it is new.
    pub(super) fn pool(
        &self,
        context: &Rc<Context>,
        wanted: &Wanted<'_>,
        request: &LbRequest<'_>,
    ) -> Rc<Pool> {
        let (mut shared, mut own);
        let pools = match wanted.carried() {
            None => {
                shared = self.shared.borrow_mut();
                &mut *shared
            }
            Some(carried) => {
                own = self.own.borrow_mut();
                own.entry(*carried).or_default()
            }
        };
        if let Some(pool) = pools.iter().find(|pool| wanted.is(&pool.key)) {
            return Rc::clone(pool);
        }
        let pool = Pool::new(context, wanted.to_key(), request);
        pools.push(Rc::clone(&pool));
        pool
    }

    pub(super) fn reap(&self) {
        let reap = |pools: &mut Vec<Rc<Pool>>| {
            pools.retain(|pool| {
                if !pool.is_current() {
                    pool.close();
                }
                pool.reap();
                !pool.is_unused()
            });
        };
        reap(&mut self.shared.borrow_mut());
        self.own.borrow_mut().retain(|_, pools| {
            reap(pools);
            !pools.is_empty()
        });
    }

    pub(super) fn close(&self) {
        let (shared, own) = (self.shared.borrow(), self.own.borrow());
        for pool in shared.iter().chain(own.values().flatten()) {
            pool.close();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shared.borrow().is_empty() && self.own.borrow().is_empty()
    }
}

/// The connections to one host under one key.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) key: PoolKey,
    pub(super) context: Rc<Context>,
    pub(super) usage: Rc<Usage>,
    /// Last in, first out: the connection used last is the least likely to be stale.
    pub(super) idle: RefCell<Vec<IdleConnection>>,
    pub(super) shared: RefCell<Vec<Rc<SharedConnection>>>,
    /// HTTP/2 connections on their way.
    pub(super) opening: Cell<u32>,
    /// The host answered with HTTP/2 by ALPN.
    pub(super) speaks_http2: Cell<bool>,
    /// Nothing comes back to this pool.
    pub(super) closed: Cell<bool>,
    /// The downstream connection that the upstream ones tell of, and without which they are of no
    /// use.
    owner: Option<Weak<Live>>,
}

/// What a pool shares with its connections, so that they do not hold the pool.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub(super) connections: Cell<u32>,
    waiting: RefCell<VecDeque<oneshot::Sender<Result<(), UpstreamFailure>>>>,
}

impl Usage {
    /// Waits until a connection or a stream may be free.
    pub(super) async fn freed(&self) -> Result<(), UpstreamFailure> {
        let (wake, woken) = oneshot::channel();
        self.waiting.borrow_mut().push_back(wake);
        let mut waiter = Waiter { usage: self, woken };
        (&mut waiter.woken).await.unwrap_or(Ok(()))
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|wake| !wake.is_closed());
        waiting.len()
    }

    /// Lets up to `count` waiting requests try again.
    pub(super) fn wake(&self, count: usize) {
        for _ in 0..count {
            if !self.wake_one(&Ok(())) {
                return;
            }
        }
    }

    /// Fails all waiting requests.
    pub(super) fn fail(&self, failure: &UpstreamFailure) {
        while self.wake_one(&Err(failure.clone())) {}
    }

    /// Whether there was somebody to wake.
    fn wake_one(&self, result: &Result<(), UpstreamFailure>) -> bool {
        loop {
            let Some(wake) = self.waiting.borrow_mut().pop_front() else {
                return false;
            };
            // A request that gave up has dropped its end.
            if wake.send(result.clone()).is_ok() {
                return true;
            }
        }
    }
}

/// A request that waits. If it goes away between the wake-up and its turn, the next one has it.
struct Waiter<'a> {
    usage: &'a Usage,
    woken: oneshot::Receiver<Result<(), UpstreamFailure>>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if let Ok(Ok(())) = self.woken.try_recv() {
            self.usage.wake(1);
        }
    }
}

/// Wakes the next that waits, unless it is forgotten.
struct WakeNext<'a>(&'a Usage);

impl Drop for WakeNext<'_> {
    fn drop(&mut self) {
        self.0.wake(1);
    }
}

impl Pool {
    fn new(context: &Rc<Context>, key: PoolKey, request: &LbRequest<'_>) -> Rc<Self> {
        let is_owned = key.carried.is_some_and(|carried| carried.ends.is_some());
        let owner = request.downstream_end.filter(|_| is_owned);
        Rc::new(Self {
            owner: owner.map(|end| Rc::downgrade(end.live)),
            key,
            context: Rc::clone(context),
            usage: Rc::default(),
            idle: RefCell::default(),
            shared: RefCell::default(),
            opening: Cell::new(0),
            speaks_http2: Cell::new(false),
            closed: Cell::new(false),
        })
    }

    /// A connection of whichever protocol the host chooses by ALPN.
    pub(super) async fn auto(
        self: &Rc<Self>,
        host: &Rc<Host>,
    ) -> Result<HttpLease, UpstreamFailure> {
        if self.speaks_http2.get() {
            return self.http2(host).await.map(HttpLease::Http2);
        }
        if let Some(connection) = self.take_idle() {
            return self.lend(host, connection).map(HttpLease::Http1);
        }
        Box::pin(self.open_auto(host)).await
    }

    async fn open_auto(self: &Rc<Self>, host: &Rc<Host>) -> Result<HttpLease, UpstreamFailure> {
        let pending = PendingPermit::admit(&self.context)?;
        let opened = self.open_either(host).await;
        pending.end(&opened);
        match opened? {
            Some(lease) => Ok(lease),
            None => self.http2(host).await.map(HttpLease::Http2),
        }
    }

    /// `None`: there are HTTP/2 connections now.
    async fn open_either(
        self: &Rc<Self>,
        host: &Rc<Host>,
    ) -> Result<Option<HttpLease>, UpstreamFailure> {
        let lend = |connection| {
            let lease = self.lend(host, connection)?;
            Ok(Some(HttpLease::Http1(lease)))
        };
        while !limits::admits_connection(&self.context, self.usage.connections.get() == 0) {
            self.usage.freed().await?;
            if let Some(connection) = self.take_idle() {
                return lend(connection);
            }
            if self.speaks_http2.get() {
                return Ok(None);
            }
        }
        if self.speaks_http2.get() {
            return Ok(None);
        }
        let connected = self.connect_alone(host).await?;
        if !connected.speaks_http2() {
            return lend(IdleConnection::fresh(connected));
        }
        self.speaks_http2.set(true);
        self.share(connected).await?;
        // They wait for a connection of their own, and this one has room.
        self.usage.wake(usize::MAX);
        Ok(None)
    }

    pub(super) async fn connect(&self, host: &Rc<Host>) -> Result<Connected, UpstreamFailure> {
        connect::connect(&self.context, host, &self.key, &self.usage).await
    }

    /// Connects for one request; if that fails or is given up, the next that waits may try.
    pub(super) async fn connect_alone(
        &self,
        host: &Rc<Host>,
    ) -> Result<Connected, UpstreamFailure> {
        let next = WakeNext(&self.usage);
        let connected = self.connect(host).await?;
        std::mem::forget(next);
        Ok(connected)
    }

    /// Whether its connections can still be of use.
    fn is_current(&self) -> bool {
        let is_owned = |owner: &Weak<Live>| owner.strong_count() > 0;
        self.key.is_current(&self.context.cluster) && self.owner.as_ref().is_none_or(is_owned)
    }

    fn reap(&self) {
        self.reap_idle();
        self.reap_shared();
    }

    /// Closes what is idle now; what is in use closes when it comes back.
    fn close(&self) {
        self.closed.set(true);
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
    }

    /// Whether no connection is open, on its way or waited for.
    fn is_unused(&self) -> bool {
        self.usage.connections.get() == 0 && self.usage.waiting() == 0
    }
}
