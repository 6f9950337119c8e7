//! Routes that answer themselves: redirects (`envoy.config.route.v3.RedirectAction`) and direct responses.

use bytes::Bytes;
use http::StatusCode;

use super::{failure::LocalReply, request::Request};
use crate::access_log::ResponseFlags;
use crate::config::route::{PathMatch, Redirect, RedirectPath, RouteMatch};

/// `require_tls: ALL`, to the same place over TLS.
pub(super) fn to_https(request: &Request) -> LocalReply {
    let authority = String::from_utf8_lossy(&request.authority);
    let path = String::from_utf8_lossy(&request.path);
    reply_to(301, format!("https://{authority}{path}"))
}

/// To the path that the request's own stands for.
pub(super) fn to_normal_path(request: &Request) -> LocalReply {
    let details = "path_normalization_failed";
    LocalReply {
        headers: vec![(http::header::LOCATION, request.path.clone())],
        ..LocalReply::new(307, "", ResponseFlags::NONE, details)
    }
}

/// An answer that a route has. Where its status speaks of a place, that is the request's own, as in Envoy.
pub(super) fn direct(status: StatusCode, body: &Bytes, request: &Request) -> LocalReply {
    let mut reply = match status == StatusCode::CREATED || status.is_redirection() {
        true => {
            let scheme = request.scheme.unwrap_or("http");
            let authority = String::from_utf8_lossy(&request.authority);
            let path = String::from_utf8_lossy(&request.path);
            reply_to(status.as_u16(), format!("{scheme}://{authority}{path}"))
        }
        false => LocalReply::new(status.as_u16(), "", ResponseFlags::NONE, "direct_response"),
    };
    reply.body = body.clone();
    reply
}

/// What the route says. A path that is rewritten is the request's from now on: logs tell it.
pub(super) fn reply(
    redirect: &Redirect,
    matched: &RouteMatch,
    request: &mut Request,
) -> LocalReply {
    // Decided before the route was.
    let old_scheme = request.scheme.unwrap_or("http");
    let scheme = match (&redirect.scheme, redirect.https) {
        (Some(scheme), _) => scheme,
        (None, true) => "https",
        (None, false) => old_scheme,
    };
    let authority = String::from_utf8_lossy(&request.authority);
    let (host, port) = match &redirect.host {
        Some(host) => (&**host, ""),
        None => split_port(&authority),
    };
    let port = match redirect.port {
        Some(port) => format!(":{port}"),
        // A scheme that changes takes the port that belonged to it along.
        None if scheme != old_scheme && is_default(old_scheme, port) => String::new(),
        None => port.to_owned(),
    };
    let path = path(redirect, matched, request);
    let location = format!("{scheme}://{host}{port}{path}");
    if matches!(
        redirect.path,
        RedirectPath::Prefix(_) | RedirectPath::Regex(..)
    ) {
        request.path = path.into();
    }
    reply_to(redirect.status.as_u16(), location)
}

/// Host, and port with its colon.
fn split_port(authority: &str) -> (&str, &str) {
    // The colons of an IPv6 address are inside of its brackets.
    match authority.rfind(':') {
        Some(at) if !authority[at..].contains(']') => authority.split_at(at),
        _ => (authority, ""),
    }
}

fn is_default(scheme: &str, port: &str) -> bool {
    matches!((scheme, port), ("http", ":80") | ("https", ":443"))
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
                // An expression matches the whole path.
                PathMatch::Regex(_) => old.len(),
                PathMatch::Connect => 0,
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
        headers: vec![(http::header::LOCATION, Bytes::from(location))],
        ..LocalReply::new(status, "", ResponseFlags::NONE, "direct_response")
    }
}
