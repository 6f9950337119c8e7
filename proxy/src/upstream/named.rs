//! Hosts that requests name, as one worker knows them.
//!
//! Invariant: a host has pools of its own, and no connection is shared by two names.

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::{FailureKind, cluster::Context, failure::UpstreamFailure, hosts::Host};
use crate::config::{
    Map,
    forward::{Forward, Known, NamedHost, Question, Resolution},
};

/// Bytes of a name (RFC 1035, section 2.3.4), without the dot at its end.
const MAX_NAME: usize = 253;

/// The hosts of one cluster.
#[derive(Debug, Default)]
pub(super) struct NamedHosts {
    hosts: Map<Box<str>, Name>,
    /// Requests that wait for addresses.
    pending: Rc<Cell<u32>>,
}

#[derive(Debug)]
struct Name {
    known: Known,
    /// What it led to when it changed last: looking costs no lock that workers share.
    resolution: Resolution,
    used: Instant,
    /// By port: of the addresses beside them.
    hosts: SmallVec<[(u16, Rc<Host>); 1]>,
    addresses: Arc<[IpAddr]>,
}

impl NamedHosts {
    /// The host, if its addresses are known.
    pub(super) fn get(
        &mut self,
        asked: NamedHost<'_>,
        context: &Context,
    ) -> Option<Result<Rc<Host>, UpstreamFailure>> {
        let name = self.hosts.get_mut(asked.name)?;
        name.used = Instant::now();
        if name.known.has_changed().unwrap_or(false) {
            name.resolution = name.known.borrow_and_update().clone();
        }
        let addresses = match &name.resolution {
            Resolution::Pending => return None,
            Resolution::Failed(reason) => return Some(Err(unresolved(reason))),
            Resolution::Addresses(addresses) => Arc::clone(addresses),
        };
        if !Arc::ptr_eq(&addresses, &name.addresses) {
            name.addresses = addresses;
            for (_, host) in name.hosts.drain(..) {
                host.pools.close();
            }
        }
        let found = name.hosts.iter().find(|(port, _)| *port == asked.port);
        if let Some((_, host)) = found {
            return Some(Ok(Rc::clone(host)));
        }
        let host = Rc::new(host(asked, &name.addresses, context)?);
        name.hosts.push((asked.port, Rc::clone(&host)));
        Some(Ok(host))
    }

    /// What a name leads to, if somebody has asked for it.
    pub(super) fn known(&self, name: &str) -> Option<Known> {
        self.hosts.get(name).map(|name| name.known.clone())
    }

    pub(super) fn insert(&mut self, name: &str, mut known: Known) {
        let resolution = known.borrow_and_update().clone();
        self.hosts.entry(name.into()).or_insert_with(|| Name {
            known,
            resolution,
            used: Instant::now(),
            hosts: SmallVec::new(),
            addresses: Arc::default(),
        });
    }

    /// Leave to wait for addresses.
    pub(super) fn admit(&self, forward: &Forward) -> Option<Pending> {
        let pending = self.pending.get();
        (pending < forward.max_pending).then(|| {
            self.pending.set(pending + 1);
            Pending(Rc::clone(&self.pending))
        })
    }

    /// Forgets what nobody has asked for in a long time, and has no connection.
    pub(super) fn reap(&mut self, forward: &Forward) {
        self.hosts.retain(|_, name| {
            name.hosts.iter().for_each(|(_, host)| host.pools.reap());
            let is_used = name.hosts.iter().any(|(_, host)| !host.pools.is_empty());
            is_used || name.used.elapsed() < forward.host_ttl
        });
    }

    pub(super) fn close(&self) {
        for (_, host) in self.hosts.values().flat_map(|name| &name.hosts) {
            host.pools.close();
        }
    }
}

/// One that waits.
#[derive(Debug)]
pub(super) struct Pending(Rc<Cell<u32>>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Refuses what no name server knows, so that nothing of it is kept.
pub(super) fn check(name: &str) -> Result<(), UpstreamFailure> {
    match name.len() {
        ..=MAX_NAME => Ok(()),
        _ => Err(unresolved(&"the name is too long".into())),
    }
}

/// Asks the control runtime for a name.
pub(super) async fn ask(forward: &Forward, name: &str) -> Result<Known, UpstreamFailure> {
    let (answer, known) = oneshot::channel();
    let name = name.into();
    let overflow = || UpstreamFailure::from(FailureKind::TooManyNames);
    let asked = forward.questions.try_send(Question { name, answer });
    asked.map_err(|_| overflow())?;
    known.await.ok().flatten().ok_or_else(overflow)
}

/// Waits for what a name leads to, good or bad.
pub(super) async fn resolved(mut known: Known) {
    // Without somebody who resolves it stays as it is.
    let _ = known
        .wait_for(|known| !matches!(known, Resolution::Pending))
        .await;
}

pub(super) fn unresolved(reason: &Arc<str>) -> UpstreamFailure {
    UpstreamFailure {
        transport_failure_reason: Some(Arc::clone(reason)),
        ..FailureKind::NotResolved.into()
    }
}

fn host(asked: NamedHost<'_>, addresses: &[IpAddr], context: &Context) -> Option<Host> {
    let mut addresses = addresses
        .iter()
        .map(|address| SocketAddr::new(*address, asked.port));
    let first = addresses.next()?;
    Some(Host::asked_for(
        first,
        addresses.collect(),
        asked.name,
        context,
    ))
}
