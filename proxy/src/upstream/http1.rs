//! HTTP/1 connections: lent whole, pooled last in first out.

use std::rc::Rc;

use super::{
    connect::{Connected, ConnectionCount},
    failure::UpstreamFailure,
    hosts::Host,
    lease::Http1Lease,
    limits::{self, PendingPermit, RequestPermit},
    pool::Pool,
};
use crate::io::Stream;

/// A connection that nobody uses.
#[derive(Debug)]
pub(super) struct IdleConnection {
    pub(super) stream: Stream,
    pub(super) count: ConnectionCount,
    /// Reap rounds since it came back.
    idle_rounds: u64,
}

impl IdleConnection {
    pub(super) fn fresh(connected: Connected) -> Self {
        Self {
            stream: connected.stream,
            count: connected.count,
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
            if connection.stream.is_reusable() && !connection.count.is_too_old() {
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
                self.give_back(connection.stream, connection.count);
                Err(overflow)
            }
        }
    }

    /// Takes a connection back, for the next request.
    pub(super) fn give_back(&self, stream: Stream, count: ConnectionCount) {
        if count.is_spent() || count.is_too_old() || self.closed.get() {
            return;
        }
        self.idle.borrow_mut().push(IdleConnection {
            stream,
            count,
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
            connection.stream.is_reusable() && !connection.count.is_too_old()
        });
    }

    async fn open_http1(
        self: &Rc<Self>,
        host: &Rc<Host>,
    ) -> Result<IdleConnection, UpstreamFailure> {
        let pending = PendingPermit::admit(&self.context)?;
        let opened = self.open_one(host).await;
        pending.end(&opened);
        opened
    }

    async fn open_one(self: &Rc<Self>, host: &Rc<Host>) -> Result<IdleConnection, UpstreamFailure> {
        while !limits::admits_connection(&self.context, self.usage.connections.get() == 0) {
            self.usage.freed().await?;
            if let Some(connection) = self.take_idle() {
                return Ok(connection);
            }
        }
        self.connect_alone(host).await.map(IdleConnection::fresh)
    }
}
