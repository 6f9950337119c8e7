//! HTTP/2 connections: shared by streams, several when one is full.
//!
//! A connection leaves the pool when it may take no new stream (GOAWAY, age, superseded key), and
//! closes when its last stream is over.

use std::{
    cell::Cell,
    future::poll_fn,
    rc::{Rc, Weak},
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{Builder, SendRequest},
};
use tokio::{
    sync::{Mutex, OnceCell},
    time::{sleep, timeout},
};

use super::{
    FailureKind,
    connect::{Connected, ConnectionCount, Link},
    failure::UpstreamFailure,
    hosts::Host,
    key::Protocol,
    lease::{Http2Lease, StreamPermit},
    limits::{self, PendingPermit, RequestPermit},
    pool::Pool,
};
use crate::{
    config::{cluster::UpstreamHttp, http::Http2Keepalive},
    io::Stream,
};

/// Largest DATA frame that we take: fewer headers and wake-ups on bulk than with 16 KiB, and no
/// frame holds up others for long.
const MAX_FRAME: u32 = 64 * 1024;

/// Bytes of a response head; Envoy's `max_response_headers_kb`, 60.
const MAX_HEADERS: u32 = 60 * 1024;

/// Bytes queued per stream before its sender is held back.
const SEND_BUFFER: usize = 256 * 1024;

/// Streams that we open before the peer's SETTINGS say how many it takes; RFC 9113 recommends that
/// a peer allows no fewer.
const STREAMS_BEFORE_SETTINGS: usize = 100;

/// One ping at a time is under way.
type Pings = Mutex<Option<PingPong>>;

/// One HTTP/2 connection.
#[derive(Debug)]
pub(super) struct SharedConnection {
    send: SendRequest<Bytes>,
    count: ConnectionCount,
    streams: Cell<u32>,
    /// Reap rounds without streams.
    idle_rounds: Cell<u64>,
    pings: Rc<Pings>,
    settled: OnceCell<()>,
}

impl SharedConnection {
    pub(super) fn link(&self) -> Option<&Rc<Link>> {
        self.count.link()
    }

    /// Resolves when the peer's SETTINGS are known.
    pub(super) async fn settled(&self) {
        // The answer comes behind them. A connection that broke fails whoever uses it next.
        let ask = || async {
            let _ = ping(&self.pings).await;
        };
        self.settled.get_or_init(ask).await;
    }

    /// Counts what has passed since it was counted last.
    pub(super) fn count_bytes(&self) {
        self.count.count_bytes();
    }

    /// A stream is over.
    pub(super) fn release(&self) {
        self.streams.set(self.streams.get() - 1);
        self.count.request_is_over();
        self.count.usage().wake(1);
    }

    fn has_room(&self, http: &UpstreamHttp) -> bool {
        let streams = self.streams.get();
        streams < http.max_concurrent_streams
            && (streams as usize) < self.send.current_max_send_streams()
    }
}

impl Pool {
    /// A place on an HTTP/2 connection for one request.
    pub(super) async fn http2(
        self: &Rc<Self>,
        host: &Rc<Host>,
    ) -> Result<Http2Lease, UpstreamFailure> {
        match self.stream(host).await {
            Some(lease) => lease,
            None => Box::pin(self.open_http2(host)).await,
        }
    }

    /// Makes a fresh connection part of the pool.
    pub(super) async fn share(
        self: &Rc<Self>,
        connected: Connected,
    ) -> Result<(), UpstreamFailure> {
        let Connected { stream, count } = connected;
        let handshake = builder(&self.context.cluster.http).handshake::<_, Bytes>(stream);
        let (send, mut connection) = handshake.await.map_err(|error| {
            let endpoint = &count.host().endpoint;
            let kind = FailureKind::RemoteConnectionFailure;
            UpstreamFailure::new(kind, endpoint, Some(error.to_string()))
        })?;
        let pings = Rc::new(Mutex::new(connection.ping_pong()));
        let shared = Rc::new(SharedConnection {
            send,
            count,
            streams: Cell::new(0),
            idle_rounds: Cell::new(0),
            pings: Rc::clone(&pings),
            settled: OnceCell::new(),
        });
        self.shared.borrow_mut().push(Rc::clone(&shared));
        let keepalive = self.context.cluster.http.http2_keepalive;
        let (shared, pool) = (Rc::downgrade(&shared), Rc::downgrade(self));
        let drive = async move {
            let ended = kept_alive(&mut connection, keepalive, &pings).await;
            if let Err(error) = ended {
                tracing::debug!(%error, "an upstream http/2 connection ended");
            }
            retire(&shared, &pool);
        };
        tokio::task::spawn_local(drive);
        Ok(())
    }

    /// A stream on a connection that has room for it.
    async fn stream(
        self: &Rc<Self>,
        host: &Rc<Host>,
    ) -> Option<Result<Http2Lease, UpstreamFailure>> {
        loop {
            let shared = self.connection_with_room()?;
            let request = match RequestPermit::admit(&self.context, host) {
                Ok(request) => request,
                Err(overflow) => return Some(Err(overflow)),
            };
            shared.streams.set(shared.streams.get() + 1);
            shared.count.add_request();
            shared.idle_rounds.set(0);
            let permit = StreamPermit::new(Rc::clone(&shared), request);
            // With room this does not wait; it fails once the peer said GOAWAY.
            match shared.send.clone().ready().await {
                Ok(send) => {
                    // No new streams after the last that the configuration allows.
                    if shared.count.is_spent() || shared.count.is_too_old() {
                        self.retire(&shared);
                    }
                    return Some(Ok(Http2Lease { send, permit }));
                }
                Err(error) => {
                    if error.is_go_away() {
                        self.context.stats().upstream_cx_close_notify.inc();
                    }
                    self.retire(&shared);
                }
            }
        }
    }

    /// Waits for room, and opens connections as long as there are more requests than room.
    async fn open_http2(self: &Rc<Self>, host: &Rc<Host>) -> Result<Http2Lease, UpstreamFailure> {
        let pending = PendingPermit::admit(&self.context)?;
        let lease = self.wait_for_stream(host).await;
        pending.end(&lease);
        lease
    }

    async fn wait_for_stream(
        self: &Rc<Self>,
        host: &Rc<Host>,
    ) -> Result<Http2Lease, UpstreamFailure> {
        loop {
            self.open_more(host);
            self.usage.freed().await?;
            if let Some(lease) = self.stream(host).await {
                return lease;
            }
        }
    }

    fn open_more(self: &Rc<Self>, host: &Rc<Host>) {
        let streams = self.context.cluster.http.max_concurrent_streams as usize;
        // The caller is about to wait, too.
        let waiting = self.usage.waiting() + 1;
        let coming = (self.opening.get() as usize).saturating_mul(streams);
        if waiting <= coming {
            return;
        }
        if !limits::admits_connection(&self.context, self.usage.connections.get() == 0) {
            return;
        }
        self.opening.set(self.opening.get() + 1);
        let (pool, host) = (Rc::clone(self), Rc::clone(host));
        // A task of its own: the request that asked may go away, and others wait.
        tokio::task::spawn_local(async move { pool.open_shared(&host).await });
    }

    async fn open_shared(self: &Rc<Self>, host: &Rc<Host>) {
        let opened = match self.connect(host).await {
            Ok(connected) if self.key.protocol == Protocol::Auto && !connected.speaks_http2() => {
                // The next request asks anew.
                self.speaks_http2.set(false);
                let reason = Some("the host speaks HTTP/2 no longer".into());
                Err(UpstreamFailure::new(
                    FailureKind::RemoteConnectionFailure,
                    &host.endpoint,
                    reason,
                ))
            }
            Ok(connected) => self.share(connected).await,
            Err(failure) => Err(failure),
        };
        self.opening.set(self.opening.get() - 1);
        match opened {
            Ok(()) => {
                let room = self.context.cluster.http.max_concurrent_streams;
                self.usage.wake(room as usize);
            }
            Err(failure) => self.usage.fail(&failure),
        }
    }

    fn connection_with_room(&self) -> Option<Rc<SharedConnection>> {
        let http = &self.context.cluster.http;
        let shared = self.shared.borrow();
        shared.iter().find(|shared| shared.has_room(http)).cloned()
    }

    /// Takes a connection out of the pool; its streams go on.
    fn retire(&self, shared: &Rc<SharedConnection>) {
        let mut all = self.shared.borrow_mut();
        all.retain(|other| !Rc::ptr_eq(other, shared));
    }

    pub(super) fn reap_shared(&self) {
        let http = &self.context.cluster.http;
        self.shared.borrow_mut().retain(|shared| {
            if shared.streams.get() > 0 {
                return !shared.count.is_too_old();
            }
            shared.idle_rounds.set(shared.idle_rounds.get() + 1);
            let rounds = u32::try_from(shared.idle_rounds.get()).unwrap_or(u32::MAX);
            let idle = super::REAP_INTERVAL.saturating_mul(rounds);
            if http.idle_timeout.is_some_and(|limit| idle > limit) {
                self.context.stats().upstream_cx_idle_timeout.inc();
                return false;
            }
            !shared.count.is_too_old()
        });
    }
}

/// A connection, which ends too when its peer does not answer pings.
async fn kept_alive(
    connection: &mut h2::client::Connection<Stream, Bytes>,
    keepalive: Option<Http2Keepalive>,
    pings: &Pings,
) -> Result<(), h2::Error> {
    let Some(keepalive) = keepalive else {
        return connection.await;
    };
    tokio::select! {
        ended = connection => ended,
        () = answers_stop(pings, keepalive) => {
            tracing::debug!("an upstream http/2 connection does not answer pings");
            Ok(())
        }
    }
}

/// Pings until no answer comes in time.
async fn answers_stop(pings: &Pings, keepalive: Http2Keepalive) {
    loop {
        let share = 1.0 + keepalive.jitter * fastrand::f64();
        sleep(keepalive.interval.mul_f64(share)).await;
        // The connection says itself how it ends.
        if timeout(keepalive.timeout, ping(pings)).await.is_err() {
            return;
        }
    }
}

/// Pings, and waits for the answer; also for the one to a ping that nobody waits for any more.
async fn ping(pings: &Pings) -> Result<(), h2::Error> {
    let mut pings = pings.lock().await;
    let Some(pings) = &mut *pings else {
        return Ok(());
    };
    if pings.send_ping(Ping::opaque()).is_err() {
        poll_fn(|cx| pings.poll_pong(cx)).await?;
        pings.send_ping(Ping::opaque())?;
    }
    poll_fn(|cx| pings.poll_pong(cx)).await.map(drop)
}

/// Takes a connection that ended out of its pool.
fn retire(shared: &Weak<SharedConnection>, pool: &Weak<Pool>) {
    if let (Some(pool), Some(shared)) = (pool.upgrade(), shared.upgrade()) {
        pool.retire(&shared);
        // Whoever waited for room on it must open another.
        pool.usage.wake(usize::MAX);
    }
}

fn builder(http: &UpstreamHttp) -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(http.initial_stream_window)
        .initial_connection_window_size(http.initial_connection_window)
        .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}
