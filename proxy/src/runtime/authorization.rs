//! Network filters that let a connection in, or do not (`envoy.filters.network.rbac` and `.ext_authz`).
//!
//! They are asked as soon as the connection is there. Envoy asks when its first bytes come, so that a
//! service which speaks first greets clients that nobody let in.

use std::{
    future::poll_fn,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use bytes::BytesMut;

use crate::{
    access_log::ResponseFlags,
    config::{
        ext_authz::TcpExtAuthz,
        listener::AccessFilter,
        matchers::{HeaderMatch, ValueMatch},
    },
    ext_authz,
    io::Stream,
    metadata::{DynamicMetadata, MetadataMatch},
    rbac::{Rbac, Subject},
    stats::TcpExtAuthzBlock,
    worker::{Connection, Downstream, Worker},
};

/// Where the RBAC filter leaves what shadow rules came to, whatever its own name is.
const RBAC: &str = "envoy.filters.network.rbac";

/// The most that is read ahead of a client while a service is asked about it, in bytes.
const READ_AHEAD: usize = 16 << 10;

/// A connection that is not let in: it is closed without a word.
#[derive(Default)]
pub(super) struct Refusal {
    pub(super) flags: ResponseFlags,
    /// `RESPONSE_CODE_DETAILS` of its log line.
    pub(super) details: Option<&'static str>,
}

/// Takes the connection through every filter of its chain.
pub(super) async fn admit(worker: &Worker, downstream: &mut Downstream) -> Result<(), Refusal> {
    let chain = Arc::clone(&downstream.connection.chain);
    let mut metadata = DynamicMetadata::default();
    for filter in &chain.access {
        match filter {
            AccessFilter::Rbac(filter) => {
                judge(worker, &downstream.connection, filter, &mut metadata)?;
            }
            AccessFilter::ExtAuthz(filter) => ask(worker, downstream, filter, &metadata).await?,
        }
    }
    Ok(())
}

fn judge(
    worker: &Worker,
    connection: &Connection,
    filter: &Rbac,
    metadata: &mut DynamicMetadata,
) -> Result<(), Refusal> {
    let stats = connection.listener.stats.worker(worker.index);
    if let Some(shadow) = &filter.shadow_rules {
        let verdict = shadow.judge(&ConnectionSubject(connection, metadata));
        match verdict.allowed {
            true => stats.rbac_shadow_allowed.inc(),
            false => stats.rbac_shadow_denied.inc(),
        }
        verdict.leave(metadata, RBAC, &filter.shadow_keys);
    }
    let Some(rules) = &filter.rules else {
        return Ok(());
    };
    let verdict = rules.judge(&ConnectionSubject(connection, metadata));
    if verdict.allowed {
        stats.rbac_allowed.inc();
        return Ok(());
    }
    stats.rbac_denied.inc();
    tracing::debug!(
        listener = %connection.listener.name,
        remote = %connection.remote,
        reason = verdict.details(),
        "a connection was denied",
    );
    Err(Refusal::default())
}

async fn ask(
    worker: &Worker,
    downstream: &mut Downstream,
    filter: &TcpExtAuthz,
    metadata: &DynamicMetadata,
) -> Result<(), Refusal> {
    let stats = filter.stats.worker(worker.index);
    let matcher = filter.enabled_metadata.as_ref();
    if !matcher.is_none_or(|it| it.admits(Some(metadata))) {
        stats.disabled.inc();
        return Ok(());
    }
    stats.total.inc();
    let active = Active::new(stats);
    let include = (filter.include_peer_certificate, filter.include_tls_session);
    let attributes = ext_authz::attributes(&downstream.connection, include);
    let asking = ext_authz::check(worker, &filter.service, attributes);
    let Downstream {
        stream, read_ahead, ..
    } = downstream;
    let answer = unless_broken(stream, read_ahead, pin!(asking)).await;
    drop(active);
    let details = match answer {
        Some(Ok(answer)) if ext_authz::is_ok(&answer) => {
            stats.ok.inc();
            return Ok(());
        }
        Some(Ok(_)) => {
            stats.denied.inc();
            "ext_authz_denied"
        }
        Some(Err(error)) => {
            stats.error.inc();
            let cluster = &filter.service.cluster;
            if let Some(suppressed) = worker.log.admit() {
                tracing::warn!(
                    %cluster, %error, suppressed, "an authorization service did not answer"
                );
            }
            if filter.failure_mode_allow {
                stats.failure_mode_allowed.inc();
                return Ok(());
            }
            "ext_authz_error"
        }
        // The client is gone.
        None => return Err(Refusal::default()),
    };
    stats.cx_closed.inc();
    Err(Refusal {
        flags: ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE,
        details: Some(details),
    })
}

/// `future`, unless the connection breaks first. What the client says meanwhile is kept; that it says no
/// more is no break.
async fn unless_broken<F: Future>(
    stream: &mut Stream,
    read_ahead: &mut BytesMut,
    mut future: Pin<&mut F>,
) -> Option<F::Output> {
    let mut broken = pin!(async {
        while read_ahead.len() < READ_AHEAD {
            if stream.readable().await.is_err() {
                return;
            }
            read_ahead.reserve(READ_AHEAD - read_ahead.len());
            match stream.read(read_ahead).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => return,
            }
        }
        std::future::pending().await
    });
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        broken.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// Counts one question while it waits.
struct Active<'s>(&'s TcpExtAuthzBlock);

impl<'s> Active<'s> {
    fn new(stats: &'s TcpExtAuthzBlock) -> Self {
        stats.active.inc();
        Self(stats)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.dec();
    }
}

struct ConnectionSubject<'c>(&'c Connection, &'c DynamicMetadata);

impl Subject for ConnectionSubject<'_> {
    fn connection(&self) -> &Connection {
        self.0
    }

    /// There are no headers: only their absence can be asked for.
    fn header(&self, matcher: &HeaderMatch) -> bool {
        match &matcher.value {
            ValueMatch::Present(present) => *present == matcher.invert,
            _ => false,
        }
    }

    fn metadata(&self, matcher: &MetadataMatch) -> bool {
        matcher.admits(Some(self.1))
    }

    fn path(&self) -> Option<&[u8]> {
        None
    }

    fn remote_ip(&self) -> IpAddr {
        self.0.remote.ip()
    }
}
