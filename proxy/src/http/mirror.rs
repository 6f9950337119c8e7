//! Copies of requests to other clusters (`request_mirror_policies`): sent, and their answers thrown
//! away. Nobody waits for them.

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    body::Source,
    call::{Keep, call},
    exchange::Exchange,
    request::{BodyLength, Request},
    tape::Tape,
    trace::CopySpan,
};
use crate::{
    config::{
        Cluster, Snapshot,
        route::{Forward, Mirror},
    },
    worker::Worker,
};

/// The longest that a copy may take where the route has no limit.
const LONGEST: Duration = Duration::from_secs(60);

/// Bytes of a copy without its body: its head, task and buffers.
const COPY: usize = 16 << 10;

/// Stands behind the host, unless the configuration says otherwise.
const SUFFIX: &[u8] = b"-shadow";

/// Copies that are sent once the body is there.
pub(super) struct Mirrors {
    targets: Vec<Target>,
    tape: Rc<Tape>,
    limit: Duration,
}

struct Target {
    cluster: Arc<Cluster>,
    request: Request,
    span: Option<CopySpan>,
}

impl Exchange<'_> {
    /// Sends copies of a request without a body; one with a body is kept as it passes.
    pub(super) fn mirror(
        &self,
        forward: &Forward,
        snapshot: &Snapshot,
        source: &mut Source<'_, '_>,
    ) -> Option<Mirrors> {
        if forward.mirrors.is_empty() || self.request.asks_for_tunnel() {
            return None;
        }
        let mirrors = forward.mirrors.iter().filter(|it| it.percent.hits());
        let targets = mirrors.filter_map(|mirror| {
            let cluster = snapshot.clusters.get(&mirror.cluster)?;
            let mut request = self.copy(mirror);
            let span = self.copy_span(mirror.trace_sampled, &mut request.headers);
            Some(Target {
                cluster: Arc::clone(cluster),
                request,
                span,
            })
        });
        let targets: Vec<_> = targets.collect();
        let first = &targets.first()?.cluster;
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
        for target in self.targets {
            let Target {
                cluster,
                mut request,
                span,
            } = target;
            if !body.is_empty() {
                request.body = BodyLength::Known(body.len() as u64);
            }
            let Some(held) = worker.mirrored.take(COPY + body.len()) else {
                let stats = cluster.stats.worker(worker.index);
                stats.upstream_rq_pending_overflow.inc();
                continue;
            };
            let (worker, body) = (Rc::clone(worker), body.clone());
            let limit = Some(self.limit);
            tokio::task::spawn_local(async move {
                let _held = held;
                let sent = Box::pin(call(&worker, &cluster, &request, &body, Keep::Nothing));
                let answer = worker.timers.timeout(limit, sent).await;
                let answer = answer.and_then(Result::ok);
                if let Some(span) = span {
                    span.end(&worker, &cluster, answer.as_ref());
                }
                if answer.is_none() {
                    tracing::debug!(cluster = %cluster.name, "a mirrored request was not answered");
                }
            });
        }
    }
}

/// `host-shadow`, before the port.
fn shadow_of(authority: &Bytes) -> Bytes {
    let text = std::str::from_utf8(authority).unwrap_or_default();
    let host = super::matching::without_port(text).len();
    let (host, port) = authority.split_at(host);
    [host, SUFFIX, port].concat().into()
}
