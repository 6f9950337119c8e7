//! HTTP/1 connections: lent whole, pooled last in first out.

use std::{rc::Rc, time::Instant};

use super::{
    balance::Host,
    connect::{Connected, ConnectionCount},
    failure::UpstreamFailure,
    lease::Http1Lease,
    limits::{self, PendingPermit, RequestPermit},
    pool::Pool,
};
use crate::io::Stream;

/// A connection that nobody uses.
#[derive(Debug)]
pub(super) struct IdleConnection {
    pub(super) stream: Stream,
    pub(super) history: History,
    /// Reap rounds since it came back.
    idle_rounds: u64,
}

/// What a connection has behind it.
#[derive(Debug)]
pub(super) struct History {
    /// Held, never read: it counts until it is dropped.
    _count: ConnectionCount,
    /// Requests that it carried.
    pub(super) requests: u32,
    opened: Instant,
}

impl IdleConnection {
    pub(super) fn fresh(connected: Connected) -> Self {
        connected.count.is_http1();
        Self {
            stream: connected.stream,
            history: History {
                _count: connected.count,
                requests: 0,
                opened: Instant::now(),
            },
            idle_rounds: 0,
        }
    }
}

impl Pool {
    /// A connection for one HTTP/1 request.
    pub(super) async fn http1(
        self: &Rc<Self>,
        host: &Rc<Host>,
    ) -> Result<Http1Lease, UpstreamFailure> {
        let connection = match self.take_idle() {
            Some(connection) => connection,
            None => Box::pin(self.open_http1(host)).await?,
        };
        self.lend(host, connection)
    }

    /// The idle connection that was used last and is still good.
    pub(super) fn take_idle(&self) -> Option<IdleConnection> {
        loop {
            let mut connection = self.idle.borrow_mut().pop()?;
            if connection.stream.is_reusable() && !self.is_too_old(&connection.history) {
                return Some(connection);
            }
        }
    }

    pub(super) fn lend(
        self: &Rc<Self>,
        host: &Rc<Host>,
        connection: IdleConnection,
    ) -> Result<Http1Lease, UpstreamFailure> {
        match RequestPermit::admit(&self.context, host) {
            Ok(request) => Ok(Http1Lease::new(connection, request, self)),
            Err(overflow) => {
                self.give_back(connection.stream, connection.history);
                Err(overflow)
            }
        }
    }

    /// Takes a connection back, for the next request.
    pub(super) fn give_back(&self, stream: Stream, history: History) {
        let max_requests = self.context.cluster.http.max_requests_per_connection;
        if max_requests != 0 && history.requests >= max_requests {
            self.context.stats().upstream_cx_max_requests.inc();
            return;
        }
        if self.closed.get() || self.is_too_old(&history) {
            return;
        }
        self.idle.borrow_mut().push(IdleConnection {
            stream,
            history,
            idle_rounds: 0,
        });
        self.usage.wake(1);
    }

    pub(super) fn reap_idle(&self) {
        let limit = self.context.cluster.http.idle_timeout;
        self.idle.borrow_mut().retain_mut(|connection| {
            connection.idle_rounds += 1;
            let idle = super::REAP_INTERVAL
                .saturating_mul(u32::try_from(connection.idle_rounds).unwrap_or(u32::MAX));
            if limit.is_some_and(|limit| idle > limit) {
                self.context.stats().upstream_cx_idle_timeout.inc();
                return false;
            }
            connection.stream.is_reusable() && !self.is_too_old(&connection.history)
        });
    }

    async fn open_http1(
        self: &Rc<Self>,
        host: &Rc<Host>,
    ) -> Result<IdleConnection, UpstreamFailure> {
        let _pending = PendingPermit::admit(&self.context)?;
        while !limits::admits_connection(&self.context, self.usage.connections.get() == 0) {
            self.usage.freed().await?;
            if let Some(connection) = self.take_idle() {
                return Ok(connection);
            }
        }
        self.connect_alone(host).await.map(IdleConnection::fresh)
    }

    fn is_too_old(&self, history: &History) -> bool {
        let limit = self.context.cluster.http.max_connection_duration;
        limit.is_some_and(|limit| history.opened.elapsed() >= limit)
    }
}
