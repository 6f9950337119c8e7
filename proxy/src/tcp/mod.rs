//! `envoy.filters.network.tcp_proxy`: one downstream connection, one upstream connection, bytes.
//!
//! Half-close is passed on: the end of one direction leaves the other open.

pub(crate) mod peer_exchange;
pub(crate) mod pump;
mod record;
mod telemetry;
mod tunneling;

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::BytesMut;
use peer_exchange::Greeting;
use pump::{Pump, PumpError};
use telemetry::Report;

pub use record::SessionRecord;

use crate::{
    access_log::ResponseFlags,
    config::{forward::NamedHost, listener::TcpProxy},
    hashing::xxh64,
    io::Stream,
    upstream::{FailureKind, LbRequest, TcpLease, UpstreamFailure},
    worker::{Connection, Downstream, Worker},
};

/// Serves one connection to its end.
pub async fn serve(
    worker: &Rc<Worker>,
    proxy: &TcpProxy,
    downstream: Downstream,
    record: &mut SessionRecord,
) {
    let stats = proxy.stats.worker(worker.index);
    stats.downstream_cx_total.inc();
    let limit = proxy.max_connection_duration;
    let session = Box::pin(session(worker, proxy, downstream, record));
    if worker.timers.timeout(limit, session).await.is_none() {
        stats.max_downstream_connection_duration.inc();
        record.flags |= ResponseFlags::DURATION_TIMEOUT;
    }
}

/// Counts a connection that a filter did not let in: to Istio's metrics it is one all the same.
pub fn report_refused(
    worker: &Rc<Worker>,
    proxy: &TcpProxy,
    connection: &Rc<Connection>,
    flags: ResponseFlags,
) {
    let mut report = Report::new(worker, connection);
    let snapshot = worker.snapshot();
    let cluster = choose_cluster(proxy).and_then(|name| snapshot.clusters.get(name));
    cluster.into_iter().for_each(|it| report.to(it));
    report.flags = flags;
}

async fn session(
    worker: &Rc<Worker>,
    proxy: &TcpProxy,
    mut downstream: Downstream,
    record: &mut SessionRecord,
) {
    let mut report = Report::new(worker, &downstream.connection);
    let connected = connect(worker, proxy, &downstream.connection, record, &mut report);
    match connected.await {
        Ok(lease) => {
            record.connected(&lease);
            report.connected(&lease);
            relay(worker, proxy, downstream, lease, (record, &mut report)).await;
        }
        Err(failure) => {
            record.flags |= failure.kind.flags();
            report.flags = record.flags;
            record.failed(&failure);
            tracing::debug!(%failure, "a tcp session has no upstream");
            // The kernel resets a connection that is closed with unread bytes. That we have read
            // some makes no difference to the client, as with Envoy.
            if !downstream.read_ahead.is_empty() {
                downstream.stream.reset_on_close();
            }
        }
    }
}

/// An upstream connection, in as many attempts as configured.
async fn connect(
    worker: &Worker,
    proxy: &TcpProxy,
    connection: &Connection,
    record: &mut SessionRecord,
    report: &mut Report,
) -> Result<TcpLease, UpstreamFailure> {
    let snapshot = worker.snapshot();
    let by_name = connection.server_name.as_deref();
    let by_name = by_name.filter(|_| connection.chain.sni_cluster);
    let found = by_name
        .or_else(|| choose_cluster(proxy))
        .and_then(|name| snapshot.clusters.get(name));
    let Some(cluster) = found else {
        let stats = proxy.stats.worker(worker.index);
        stats.downstream_cx_no_route.inc();
        return Err(FailureKind::NoCluster.into());
    };
    record.cluster = Some(Arc::clone(&cluster.name));
    report.to(cluster);
    let request = LbRequest {
        original_destination: connection.original_destination(),
        downstream_end: Some(connection.end()),
        named: named(connection),
        hash: proxy.hash_source_ip.then(|| {
            let address = connection.remote.ip().to_string();
            xxh64(address.as_bytes(), 0)
        }),
        ..LbRequest::default()
    };
    let asked = proxy.tunneling.as_ref();
    let asked = asked.map(|tunneling| tunneling.request(connection));
    loop {
        let connected = match &asked {
            None => worker.upstreams.tcp(cluster, &request).await,
            Some(asked) => {
                let connect = Box::pin(worker.upstreams.tunnel(cluster, &request, asked));
                // A proxy may take as long as its way takes, but not for ever.
                let connected = worker.timers.timeout(proxy.idle_timeout, connect).await;
                connected.unwrap_or_else(|| Err(FailureKind::ConnectionTimeout.into()))
            }
        };
        let failure = match connected {
            Ok(lease) => {
                record.attempts += 1;
                return Ok(lease);
            }
            Err(failure) => failure,
        };
        if failure.kind.flags() != ResponseFlags::UPSTREAM_CONNECTION_FAILURE {
            return Err(failure);
        }
        record.attempts += 1;
        record.failed(&failure);
        if record.attempts >= proxy.max_connect_attempts {
            let stats = cluster.stats.worker(worker.index);
            stats.upstream_cx_connect_attempts_exceeded.inc();
            record.flags |= failure.kind.flags();
            record.flags |= ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
            return Err(failure);
        }
    }
}

/// The host that the SNI names, where a filter goes by that.
fn named(connection: &Connection) -> Option<NamedHost<'_>> {
    Some(NamedHost {
        name: connection.server_name.as_deref()?,
        port: connection.chain.sni_forward?,
    })
}

fn choose_cluster(proxy: &TcpProxy) -> Option<&str> {
    let weights = proxy.clusters.iter().map(|(_, weight)| u64::from(*weight));
    // Each is of 32 bits, and Envoy has no limit for their sum.
    let total: u64 = weights.clone().sum();
    let mut at = fastrand::u64(..total.max(1));
    for ((name, _), weight) in proxy.clusters.iter().zip(weights) {
        if at < weight || proxy.clusters.len() == 1 {
            return Some(name);
        }
        at -= weight;
    }
    None
}

/// Moves bytes both ways until both directions have ended, one fails, or nothing moves for too
/// long.
async fn relay(
    worker: &Worker,
    proxy: &TcpProxy,
    downstream: Downstream,
    mut lease: TcpLease,
    (record, report): (&mut SessionRecord, &mut Report),
) {
    let connection = Rc::clone(&downstream.connection);
    let mut client = downstream.stream;
    let idle = worker.timers.deadline();
    idle.set(proxy.idle_timeout);
    let end = async {
        let greetings = greet(&connection, &mut client, downstream.read_ahead, &mut lease).await?;
        let limit = connection.listener.buffer_limit as usize;
        let mut flow = Flow::new(greetings, limit);
        let stats = proxy.stats.worker(worker.index);
        poll_fn(|cx| {
            let before = flow.passed();
            let outcome = flow.poll(cx, worker, &mut client, &mut lease.stream);
            let passed = flow.passed();
            if passed != before {
                let moved = (passed.0 - before.0, passed.1 - before.1);
                idle.set(proxy.idle_timeout);
                lease.count_bytes();
                stats.downstream_cx_rx_bytes_total.add(moved.0);
                stats.downstream_cx_tx_bytes_total.add(moved.1);
                (record.sent, record.received) = passed;
            }
            let (client, server) = (flow.client.peer(), flow.server.peer());
            record.met(
                client.and_then(Option::as_ref),
                server.and_then(Option::as_ref),
            );
            report.update(passed, client, server);
            match outcome {
                Poll::Ready(result) => Poll::Ready(result),
                Poll::Pending => idle.poll_expired(cx).map(|()| Err(Broken::Idle)),
            }
        })
        .await
    };
    match end.await {
        Ok(()) => {}
        Err(Broken::Idle) => proxy.stats.worker(worker.index).idle_timeout.inc(),
        // What ends in an error must not look whole at the other side.
        Err(Broken::Client(error)) => {
            tracing::debug!(%error, id = connection.id, "the client broke a tcp session");
            lease.stream.reset_on_close();
        }
        Err(Broken::Upstream(error)) => {
            tracing::debug!(%error, id = connection.id, "the upstream broke a tcp session");
            record.flags |= ResponseFlags::UPSTREAM_REMOTE_RESET;
            client.reset_on_close();
        }
    }
}

/// Tells both sides who we are, where they have agreed on that.
async fn greet(
    connection: &Connection,
    client: &mut Stream,
    read_ahead: BytesMut,
    lease: &mut TcpLease,
) -> Result<[Greeting; 2], Broken> {
    let exchange = connection.chain.peer_exchange.as_ref();
    let downstream = Greeting::begin(exchange, client, read_ahead).await;
    let exchange = lease.cluster().peer_exchange.clone();
    let read_ahead = std::mem::take(&mut lease.read_ahead);
    let upstream = Greeting::begin(exchange.as_ref(), &mut lease.stream, read_ahead).await;
    Ok([
        downstream.map_err(Broken::Client)?,
        upstream.map_err(Broken::Upstream)?,
    ])
}

/// Both directions of a session. Each begins when its source has told who it is.
struct Flow {
    client: Greeting,
    server: Greeting,
    sent: Pump,
    received: Pump,
}

impl Flow {
    fn new([client, server]: [Greeting; 2], limit: usize) -> Self {
        Self {
            client,
            server,
            sent: Pump::new(BytesMut::new(), limit),
            received: Pump::new(BytesMut::new(), limit),
        }
    }

    /// Bytes to the upstream, and from it.
    fn passed(&self) -> (u64, u64) {
        (self.sent.passed, self.received.passed)
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        client: &mut Stream,
        upstream: &mut Stream,
    ) -> Poll<Result<(), Broken>> {
        let sent = match self.client.poll(cx, client) {
            Poll::Ready(Ok(())) => {
                self.sent.take_over(&mut self.client.read_ahead);
                self.sent.poll(cx, &worker.buffers, client, upstream)
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(PumpError::Source(error))),
            Poll::Pending => Poll::Pending,
        };
        let received = match self.server.poll(cx, upstream) {
            Poll::Ready(Ok(())) => {
                self.received.take_over(&mut self.server.read_ahead);
                self.received.poll(cx, &worker.buffers, upstream, client)
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(PumpError::Source(error))),
            Poll::Pending => Poll::Pending,
        };
        both(sent, received)
    }
}

/// Why a session ends before both sides have ended it.
enum Broken {
    Client(io::Error),
    Upstream(io::Error),
    Idle,
}

/// Ready when both directions are, or one has failed.
fn both(
    sent: Poll<Result<(), PumpError>>,
    received: Poll<Result<(), PumpError>>,
) -> Poll<Result<(), Broken>> {
    match (sent, received) {
        (Poll::Ready(Err(PumpError::Source(error))), _)
        | (_, Poll::Ready(Err(PumpError::Sink(error)))) => Poll::Ready(Err(Broken::Client(error))),
        (Poll::Ready(Err(PumpError::Sink(error))), _)
        | (_, Poll::Ready(Err(PumpError::Source(error)))) => {
            Poll::Ready(Err(Broken::Upstream(error)))
        }
        (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
        _ => Poll::Pending,
    }
}
