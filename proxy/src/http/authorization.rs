//! RBAC filters on a request (`envoy.filters.http.rbac`).

use std::net::IpAddr;

use super::{
    exchange::{Context, Exchange},
    failure::LocalReply,
    prepare,
    request::Request,
};
use crate::{
    access_log::ResponseFlags,
    config::matchers::HeaderMatch,
    metadata::MetadataMatch,
    rbac::{Rbac, Subject},
    worker::Connection,
};

/// Where it leaves what shadow rules came to, whatever its own name is.
const NAMESPACE: &str = "envoy.filters.http.rbac";

impl Exchange<'_> {
    /// Lets the request pass, or says which policy denied it.
    pub(super) fn authorize(&mut self, filter: &Rbac) -> Result<(), LocalReply> {
        let (context, request) = (self.context, &self.request);
        let subject = RequestSubject { context, request };
        let stats = context.stats;
        let named = filter
            .stats
            .as_ref()
            .map(|it| it.worker(context.worker.index));
        let mut shadow = None;
        if let Some(rules) = &filter.shadow_rules {
            let verdict = rules.judge(&subject);
            match (verdict.allowed, named) {
                (true, Some(named)) => named.shadow_allowed.inc(),
                (false, Some(named)) => named.shadow_denied.inc(),
                (true, None) => stats.rbac_shadow_allowed.inc(),
                (false, None) => stats.rbac_shadow_denied.inc(),
            }
            shadow = Some(verdict);
        }
        let verdict = filter.rules.as_ref().map(|rules| rules.judge(&subject));
        if let Some(shadow) = shadow {
            let metadata = self.request.metadata.get_or_insert_default();
            shadow.leave(metadata, NAMESPACE, &filter.shadow_keys);
        }
        let Some(verdict) = verdict else {
            return Ok(());
        };
        match (verdict.allowed, named) {
            (true, Some(named)) => named.allowed.inc(),
            (false, Some(named)) => named.denied.inc(),
            (true, None) => stats.rbac_allowed.inc(),
            (false, None) => stats.rbac_denied.inc(),
        }
        match verdict.allowed {
            true => Ok(()),
            false => Err(denied(verdict.details())),
        }
    }
}

fn denied(details: String) -> LocalReply {
    let mut reply = LocalReply::new(403, "RBAC: access denied", ResponseFlags::NONE, "");
    reply.details = details.into();
    reply
}

struct RequestSubject<'r> {
    context: &'r Context<'r>,
    request: &'r Request,
}

impl Subject for RequestSubject<'_> {
    fn connection(&self) -> &Connection {
        self.context.connection
    }

    fn header(&self, matcher: &HeaderMatch) -> bool {
        matcher.admits(self.request)
    }

    fn metadata(&self, matcher: &MetadataMatch) -> bool {
        matcher.admits(self.request.metadata.as_deref())
    }

    fn path(&self) -> Option<&[u8]> {
        Some(self.request.path_only())
    }

    fn remote_ip(&self) -> IpAddr {
        let headers = &self.request.headers;
        let told = prepare::told_address(self.context.manager, headers);
        told.unwrap_or(self.context.connection.remote.ip())
    }
}
