//! `envoy.filters.http.fault`: a request is held up, or answered with an error, on purpose.

use std::{future::poll_fn, pin::pin, sync::Arc, time::Duration};

use super::Verdict;
use crate::{
    access_log::ResponseFlags,
    config::filters::{Abort, Fault},
    http::{
        client::Client, exchange::Exchange, failure::LocalReply, race::Beside, request::Request,
    },
    stats::HttpStats,
};

const NODE: &str = "x-envoy-downstream-service-node";

/// Counts one request with a fault while it lives.
#[derive(Debug)]
pub(in crate::http) struct ActiveFault {
    stats: Arc<HttpStats>,
    worker: usize,
}

impl Drop for ActiveFault {
    fn drop(&mut self) {
        self.stats.worker(self.worker).fault_active_faults.dec();
    }
}

impl Exchange<'_> {
    /// Holds the request up, then answers it, as chance has it.
    pub(super) async fn inject(
        &mut self,
        fault: &Fault,
        cluster: Option<&str>,
        client: &mut Client<'_, '_>,
    ) -> Verdict {
        if !concerns(fault, cluster, &self.request) {
            return Verdict::Pass;
        }
        if let Some((delay, percent)) = fault.delay
            && percent.hits()
        {
            self.fault_begins();
            self.context.stats.fault_delays_injected.inc();
            self.outcome.flags |= ResponseFlags::DELAY_INJECTED;
            if !self.hold(delay, client).await {
                return Verdict::Gone;
            }
        }
        match fault.abort {
            Some((abort, percent)) if percent.hits() => {
                self.fault_begins();
                self.context.stats.fault_aborts_injected.inc();
                Verdict::Reply(reply(abort))
            }
            _ => Verdict::Pass,
        }
    }

    fn fault_begins(&mut self) {
        if self.filters.fault.is_none() {
            self.context.stats.fault_active_faults.inc();
            self.filters.fault = Some(ActiveFault {
                stats: Arc::clone(&self.context.manager.stats),
                worker: self.context.worker.index,
            });
        }
    }

    /// Whether the client is still there when the time is over.
    async fn hold(&self, delay: Duration, client: &mut Client<'_, '_>) -> bool {
        let mut gone = pin!(poll_fn(|cx| client.poll_gone(cx)));
        let over = pin!(tokio::time::sleep(delay));
        let held = Beside::new(gone.as_mut()).with(over, |()| true).await;
        held.is_some()
    }
}

fn concerns(fault: &Fault, cluster: Option<&str>, request: &Request) -> bool {
    let wanted = fault.upstream_cluster.as_deref();
    if wanted.is_some_and(|wanted| cluster != Some(wanted)) {
        return false;
    }
    let node = request.headers.get(NODE);
    let is_node = |wanted: &str| node.is_some_and(|node| node == wanted.as_bytes());
    (fault.downstream_nodes.is_empty() || fault.downstream_nodes.iter().any(|it| is_node(it)))
        && fault.headers.iter().all(|header| header.admits(request))
}

fn reply(abort: Abort) -> LocalReply {
    let (status, grpc) = match abort {
        Abort::Http(status) => (status, None),
        Abort::Grpc(status) => (200, Some(status)),
    };
    let flags = ResponseFlags::FAULT_INJECTED;
    let mut reply = LocalReply::new(status, "fault filter abort", flags, "fault_filter_abort");
    reply.grpc_status = grpc;
    reply
}
