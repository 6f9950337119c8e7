//! Copies of requests to other clusters (`request_mirror_policies`): sent, and their answers thrown
//! away. Nobody waits for them.

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use ithildin_http1::{Limits, Progress, parse_response};

use super::{
    body::{Part, Source},
    exchange::Exchange,
    over_http1, over_http2,
    request::{BodyLength, Request},
    tape::Tape,
    wire::Wire,
};
use crate::{
    config::{
        Cluster, Snapshot,
        route::{Forward, Mirror},
    },
    upstream::{Http1Lease, Http2Lease, HttpLease, LbRequest},
    worker::Worker,
};

/// The longest that a copy may take where the route has no limit.
const LONGEST: Duration = Duration::from_secs(60);

/// The most that the copies of one worker may hold, in bytes: a slow cluster that nobody waits for must
/// not fill the memory. Further copies are dropped.
const MOST_HELD: usize = 32 << 20;
/// Bytes of a copy without its body: its head, task and buffers.
const COPY: usize = 16 << 10;
/// Interim answers taken for one copy; more are a mistake or an attack.
const MAX_INTERIM: usize = 16;

/// Stands behind the host, unless the configuration says otherwise.
const SUFFIX: &[u8] = b"-shadow";

/// Copies that are sent once the body is there.
pub(super) struct Mirrors {
    targets: Vec<(Arc<Cluster>, Request)>,
    tape: Rc<Tape>,
    limit: Duration,
}

impl Exchange<'_> {
    /// Sends copies of a request without a body; one with a body is kept as it passes.
    pub(super) fn mirror(
        &self,
        forward: &Forward,
        snapshot: &Snapshot,
        source: &mut Source<'_, '_>,
    ) -> Option<Mirrors> {
        if forward.mirrors.is_empty() || self.request.upgrade.is_some() {
            return None;
        }
        let mirrors = forward.mirrors.iter().filter(|it| it.percent.hits());
        let targets = mirrors.filter_map(|mirror| {
            let cluster = snapshot.clusters.get(&mirror.cluster)?;
            Some((Arc::clone(cluster), self.copy(mirror)))
        });
        let targets: Vec<_> = targets.collect();
        let (first, _) = targets.first()?;
        let worker = self.context.worker;
        let buffer = self.context.connection.listener.buffer_limit as usize;
        let mirrors = Mirrors {
            tape: Tape::new(buffer, &first.stats, worker.index),
            limit: forward.timeout.unwrap_or(LONGEST),
            targets,
        };
        if self.request.body == BodyLength::Empty {
            mirrors.send(worker, &Bytes::new());
            return None;
        }
        source.record(&mirrors.tape);
        Some(mirrors)
    }

    fn copy(&self, mirror: &Mirror) -> Request {
        let request = &self.request;
        Request {
            method: request.method.clone(),
            scheme: request.scheme,
            authority: match mirror.adds_suffix {
                true => shadow_of(&request.authority),
                false => request.authority.clone(),
            },
            path: request.path.clone(),
            headers: request.headers.clone(),
            body: BodyLength::Empty,
            upgrade: None,
            protocol: request.protocol,
            metadata: None,
        }
    }
}

impl Mirrors {
    /// Sends the copies of a request whose body has passed, if it was not too long to be kept.
    pub(super) fn finish(self, worker: &Rc<Worker>) {
        if let Some(body) = self.tape.replay() {
            self.send(worker, &body);
        }
    }

    fn send(self, worker: &Rc<Worker>, body: &Bytes) {
        for (cluster, mut request) in self.targets {
            if !body.is_empty() {
                request.body = BodyLength::Known(body.len() as u64);
            }
            let Some(held) = Held::take(worker, COPY + body.len()) else {
                let stats = cluster.stats.worker(worker.index);
                stats.upstream_rq_pending_overflow.inc();
                continue;
            };
            let (worker, body) = (Rc::clone(worker), body.clone());
            let limit = Some(self.limit);
            tokio::task::spawn_local(async move {
                let _held = held;
                let sent = Box::pin(send(&worker, &cluster, &request, body));
                if worker.timers.timeout(limit, sent).await.flatten().is_none() {
                    tracing::debug!(cluster = %cluster.name, "a mirrored request was not answered");
                }
            });
        }
    }
}

/// A copy's share of [`MOST_HELD`].
struct Held {
    worker: Rc<Worker>,
    bytes: usize,
}

impl Held {
    fn take(worker: &Rc<Worker>, bytes: usize) -> Option<Self> {
        let all = worker.mirrored.get() + bytes;
        (all <= MOST_HELD).then(|| {
            worker.mirrored.set(all);
            Self {
                worker: Rc::clone(worker),
                bytes,
            }
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mirrored = &self.worker.mirrored;
        mirrored.set(mirrored.get() - self.bytes);
    }
}

/// `None` if there was no whole answer, whatever the reason.
async fn send(
    worker: &Worker,
    cluster: &Arc<Cluster>,
    request: &Request,
    body: Bytes,
) -> Option<()> {
    let choice = LbRequest {
        downstream: request.protocol.downstream(),
        ..LbRequest::default()
    };
    match worker.upstreams.http(cluster, &choice).await.ok()? {
        HttpLease::Http1(lease) => over_one(worker, lease, request, body).await,
        HttpLease::Http2(lease) => over_two(lease, request, body).await,
    }
}

async fn over_one(
    worker: &Worker,
    mut lease: Http1Lease,
    request: &Request,
    body: Bytes,
) -> Option<()> {
    let read_ahead = std::mem::take(&mut lease.leftover);
    let wire = Wire::new(&mut lease.stream, read_ahead, &worker.buffers);
    let head = over_http1::request_head(request, request.body.framing());
    wire.write(&mut [head, body]).await.ok()?;
    let mut interims = 0;
    let mut progress = Progress::default();
    let head = loop {
        let method = &request.method;
        let parsed =
            wire.with_buffer(|it| parse_response(it, Limits::default(), method, &mut progress));
        match parsed.ok()? {
            Some(head) if head.is_interim() => {
                interims += 1;
                if interims > MAX_INTERIM {
                    return None;
                }
            }
            Some(head) => break head,
            None if wire.fill().await.ok()? == 0 => return None,
            None => {}
        }
    };
    let mut source = Source::wire(&wire, head.framing, true);
    skip(&mut source).await?;
    drop(source);
    wire.release_buffer();
    lease.leftover = wire.into_read_ahead();
    if head.keep_alive {
        lease.give_back();
    }
    Some(())
}

async fn over_two(mut lease: Http2Lease, request: &Request, body: Bytes) -> Option<()> {
    let head = over_http2::request_head(request, false).ok()?;
    let (response, mut stream) = lease.send.send_request(head, body.is_empty()).ok()?;
    if !body.is_empty() {
        stream.send_data(body, true).ok()?;
    }
    let mut source = Source::http2(response.await.ok()?.into_body());
    skip(&mut source).await
}

async fn skip(source: &mut Source<'_, '_>) -> Option<()> {
    while let Part::Data(_) = source.next().await.ok()? {}
    Some(())
}

/// `host-shadow`, before the port.
fn shadow_of(authority: &Bytes) -> Bytes {
    let text = std::str::from_utf8(authority).unwrap_or_default();
    let host = super::matching::without_port(text).len();
    let (host, port) = authority.split_at(host);
    [host, SUFFIX, port].concat().into()
}
