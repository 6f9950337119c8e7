//! Redirects (`envoy.config.route.v3.RedirectAction`).

use bytes::Bytes;

use super::{failure::LocalReply, matching::without_port, request::Request};
use crate::access_log::ResponseFlags;
use crate::config::route::{PathMatch, Redirect, RedirectPath, RouteMatch};

/// `require_tls: ALL`, to the same place over TLS.
pub(super) fn to_https(request: &Request) -> LocalReply {
    let authority = String::from_utf8_lossy(&request.authority);
    let path = String::from_utf8_lossy(&request.path);
    reply_to(301, format!("https://{}{path}", without_port(&authority)))
}

/// What the route says.
pub(super) fn reply(
    redirect: &Redirect,
    matched: &RouteMatch,
    request: &Request,
    secure: bool,
) -> LocalReply {
    let old_scheme = if secure { "https" } else { "http" };
    let scheme = match (&redirect.scheme, redirect.https) {
        (Some(scheme), _) => scheme,
        (None, true) => "https",
        (None, false) => old_scheme,
    };
    let authority = String::from_utf8_lossy(&request.authority);
    let host = redirect.host.as_deref().unwrap_or(without_port(&authority));
    let kept_port = authority[without_port(&authority).len()..].trim_start_matches(':');
    let port = match redirect.port {
        Some(port) => port.to_string(),
        // A scheme that changes takes the port that belonged to it along.
        None if scheme != old_scheme => String::new(),
        None => kept_port.to_owned(),
    };
    let port = match (scheme, port.as_str()) {
        (_, "") | ("http", "80") | ("https", "443") => String::new(),
        (_, port) => format!(":{port}"),
    };
    let location = format!(
        "{scheme}://{host}{port}{}",
        path(redirect, matched, request)
    );
    reply_to(redirect.status.as_u16(), location)
}

fn path(redirect: &Redirect, matched: &RouteMatch, request: &Request) -> String {
    let old = String::from_utf8_lossy(request.path_only());
    let new = match &redirect.path {
        RedirectPath::Keep => old.into_owned(),
        RedirectPath::Replace(path) => path.to_string(),
        RedirectPath::Prefix(prefix) => {
            let length = match &matched.path {
                PathMatch::Prefix(p) | PathMatch::SeparatedPrefix(p) | PathMatch::Exact(p) => {
                    p.len()
                }
                PathMatch::Regex(_) | PathMatch::Connect => 0,
            };
            format!("{prefix}{}", old.get(length..).unwrap_or_default())
        }
        RedirectPath::Regex(regex, substitution) => {
            let replaced = regex.replace_all(request.path_only(), substitution.as_bytes());
            String::from_utf8_lossy(&replaced).into_owned()
        }
    };
    match request.query() {
        Some(query) if !redirect.strip_query && !new.contains('?') => {
            format!("{new}?{}", String::from_utf8_lossy(query))
        }
        _ => new,
    }
}

fn reply_to(status: u16, location: String) -> LocalReply {
    LocalReply {
        location: Some(Bytes::from(location)),
        ..LocalReply::new(status, "", ResponseFlags::NONE, "direct_response")
    }
}
