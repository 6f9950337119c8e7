//! RBAC filters on a connection (`envoy.filters.network.rbac`).

use std::net::IpAddr;

use crate::{
    config::route::{HeaderMatch, ValueMatch},
    metadata::MetadataMatch,
    rbac::Subject,
    worker::{Connection, Worker},
};

/// Whether the connection passes every filter of its chain. One that does not is closed without a
/// word.
pub(super) fn admits(worker: &Worker, connection: &Connection) -> bool {
    let stats = connection.listener.stats.worker(worker.index);
    let subject = ConnectionSubject(connection);
    for filter in &connection.chain.rbac {
        if let Some(shadow) = &filter.shadow_rules {
            match shadow.judge(&subject).allowed {
                true => stats.rbac_shadow_allowed.inc(),
                false => stats.rbac_shadow_denied.inc(),
            }
        }
        let Some(rules) = &filter.rules else {
            continue;
        };
        let verdict = rules.judge(&subject);
        if !verdict.allowed {
            stats.rbac_denied.inc();
            tracing::debug!(
                listener = %connection.listener.name,
                remote = %connection.remote,
                reason = verdict.details(),
                "a connection was denied",
            );
            return false;
        }
        stats.rbac_allowed.inc();
    }
    true
}

struct ConnectionSubject<'c>(&'c Connection);

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
        matcher.admits(None)
    }

    fn path(&self) -> Option<&[u8]> {
        None
    }

    fn remote_ip(&self) -> IpAddr {
        self.0.remote.ip()
    }
}
