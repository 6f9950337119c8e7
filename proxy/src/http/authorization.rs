//! RBAC filters on a request (`envoy.filters.http.rbac`).

use std::net::IpAddr;

use super::{exchange::Context, failure::LocalReply, prepare, request::Request};
use crate::{
    access_log::ResponseFlags, config::route::HeaderMatch, rbac::Subject, worker::Connection,
};

/// Lets the request pass every filter, or says which policy denied it.
pub(super) fn authorize(context: &Context<'_>, request: &Request) -> Result<(), LocalReply> {
    let subject = RequestSubject { context, request };
    let stats = context.stats;
    for filter in &context.manager.rbac {
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
            return Err(denied(verdict.details()));
        }
        stats.rbac_allowed.inc();
    }
    Ok(())
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

    fn path(&self) -> Option<&[u8]> {
        Some(self.request.path_only())
    }

    fn remote_ip(&self) -> IpAddr {
        let headers = &self.request.headers;
        let told = prepare::told_address(self.context.manager, headers);
        told.unwrap_or(self.context.connection.remote.ip())
    }
}
