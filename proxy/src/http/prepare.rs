//! What is done to a request's headers before it is routed, and before it is sent.

use std::net::IpAddr;

use bytes::Bytes;
use ithildin_http1::Known;

use super::{failure::LocalReply, headers::Headers, mutate, request::Request, xfcc};
use crate::{
    access_log::ResponseFlags,
    config::{
        HttpManager,
        http::UnderscoreAction,
        route::{Forward, PathMatch, Route, RouteTable, VirtualHost},
    },
    worker::Connection,
};

/// Refuses what may not pass, and makes the forwarding headers ours.
pub(super) fn request(
    manager: &HttpManager,
    connection: &Connection,
    request: &mut Request,
) -> Result<(), LocalReply> {
    underscores(manager, &mut request.headers)?;
    if request
        .upgrade
        .as_ref()
        .is_some_and(|upgrade| !allows(&manager.upgrades, upgrade))
    {
        return Err(LocalReply::new(
            403,
            "",
            ResponseFlags::NONE,
            "upgrade_failed",
        ));
    }
    if manager.normalize_path || manager.merge_slashes {
        let path =
            super::path::normalise(&request.path, manager.normalize_path, manager.merge_slashes);
        request.path = path.ok_or_else(|| {
            LocalReply::new(400, "", ResponseFlags::NONE, "path_normalization_failed")
        })?;
    }
    let external = forwarded_for(manager, connection, &mut request.headers);
    scheme(manager, connection, request);
    if external {
        sanitise(&mut request.headers);
    }
    request_id(manager, external, &mut request.headers);
    xfcc::apply(manager, connection, &mut request.headers);
    // We answer it ourselves, unless the upstream is to.
    if !manager.proxy_100_continue {
        request.headers.remove_known(Known::Expect);
    }
    // Of the values of TE only one passes a proxy.
    let te = request.headers.known(Known::Te);
    if te.is_some_and(|te| !te.eq_ignore_ascii_case(b"trailers")) {
        request.headers.remove_known(Known::Te);
    }
    Ok(())
}

fn underscores(manager: &HttpManager, headers: &mut Headers) -> Result<(), LocalReply> {
    let has_one = |name: &[u8]| name.contains(&b'_');
    match manager.headers_with_underscores {
        UnderscoreAction::Allow => Ok(()),
        UnderscoreAction::DropHeader => {
            headers.retain(|field| !has_one(field.name.as_bytes()));
            Ok(())
        }
        UnderscoreAction::RejectRequest => {
            match headers.iter().any(|field| has_one(field.name.as_bytes())) {
                true => Err(LocalReply::new(
                    400,
                    "",
                    ResponseFlags::NONE,
                    "http1.unexpected_underscore",
                )),
                false => Ok(()),
            }
        }
    }
}

fn allows(upgrades: &[std::sync::Arc<str>], upgrade: &[u8]) -> bool {
    upgrades
        .iter()
        .any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(upgrade))
}

/// `x-forwarded-for`; returns whether the request comes from outside.
fn forwarded_for(manager: &HttpManager, connection: &Connection, headers: &mut Headers) -> bool {
    let remote = connection.remote.ip();
    if !manager.use_remote_address {
        // Only a single, private address in the header makes a request internal.
        let internal = headers
            .known(Known::XForwardedFor)
            .and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok())
            .is_some_and(is_private);
        return !internal;
    }
    let first = headers.known(Known::XForwardedFor).is_none();
    if !manager.skip_xff_append {
        let value = match headers.joined("x-forwarded-for") {
            Some(before) => [&before[..], b",", remote.to_string().as_bytes()].concat(),
            None => remote.to_string().into_bytes(),
        };
        headers.set(Known::XForwardedFor, "x-forwarded-for", value);
    }
    !(first && is_private(remote))
}

/// Envoy's internal addresses: RFC 1918, RFC 4193 and loopback.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback(),
    }
}

/// `x-forwarded-proto`: the client's word counts only behind a proxy that we trust.
fn scheme(manager: &HttpManager, connection: &Connection, request: &mut Request) {
    let actual = if connection.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let told = request.headers.known(Known::XForwardedProto);
    let keep = (!manager.use_remote_address || manager.xff_num_trusted_hops > 0)
        && told.is_some_and(|told| {
            told.eq_ignore_ascii_case(b"http") || told.eq_ignore_ascii_case(b"https")
        });
    if !keep {
        request
            .headers
            .set(Known::XForwardedProto, "x-forwarded-proto", actual);
    }
    let scheme = request.headers.known(Known::XForwardedProto);
    let secure = scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https"));
    request.scheme = Some(if secure { "https" } else { "http" });
    if manager.append_x_forwarded_port && request.headers.known(Known::XForwardedPort).is_none() {
        let port = connection.local.port().to_string();
        request
            .headers
            .push(Known::XForwardedPort, "x-forwarded-port", port);
    }
}

/// Headers that steer Envoy, and so are not for strangers to send.
const INTERNAL: &[&str] = &[
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-ip-tags",
    "x-envoy-is-timeout-retry",
    "x-envoy-max-retries",
    "x-envoy-original-path",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
];

fn sanitise(headers: &mut Headers) {
    headers.retain(|field| {
        field.known != Known::XEnvoy
            || !INTERNAL
                .iter()
                .any(|name| field.name.as_bytes().eq_ignore_ascii_case(name.as_bytes()))
    });
}

fn request_id(manager: &HttpManager, external: bool, headers: &mut Headers) {
    if !manager.generate_request_id {
        return;
    }
    let edge = manager.use_remote_address && external && !manager.preserve_external_request_id;
    if edge || headers.known(Known::XRequestId).is_none() {
        let id = uuid::Uuid::new_v4().hyphenated().to_string();
        headers.set(Known::XRequestId, "x-request-id", id);
    }
}

/// The route's rewrites and header operations.
pub(super) fn forwarded(
    request: &mut Request,
    table: &RouteTable,
    host: &VirtualHost,
    route: &Route,
    forward: &Forward,
) {
    rewrite_path(request, route, forward);
    if let Some(host) = &forward.host_rewrite {
        if forward.append_x_forwarded_host {
            let old = request.authority.clone();
            request
                .headers
                .set(Known::XForwardedHost, "x-forwarded-host", old);
        }
        request.authority = Bytes::copy_from_slice(host.as_bytes());
    }
    // The most specific level comes first (`most_specific_header_mutations_wins` is off).
    for mutations in [
        &route.request_headers,
        &host.request_headers,
        &table.request_headers,
    ] {
        mutate::apply(mutations, &mut request.headers);
    }
}

fn rewrite_path(request: &mut Request, route: &Route, forward: &Forward) {
    let (path, query) = match memchr::memchr(b'?', &request.path) {
        Some(at) => request.path.split_at(at),
        None => (&request.path[..], &b""[..]),
    };
    let new = match (&forward.prefix_rewrite, &forward.regex_rewrite) {
        (Some(prefix), _) => {
            let matched = match &route.matches.path {
                PathMatch::Prefix(p) | PathMatch::SeparatedPrefix(p) | PathMatch::Exact(p) => {
                    p.len()
                }
                PathMatch::Regex(_) | PathMatch::Connect => return,
            };
            let rest = path.get(matched..).unwrap_or_default();
            [prefix.as_bytes(), rest, query].concat()
        }
        (None, Some((regex, substitution))) => {
            let replaced = regex.replace_all(path, substitution.as_bytes());
            [&replaced[..], query].concat()
        }
        (None, None) => return,
    };
    let old = std::mem::replace(&mut request.path, Bytes::from(new));
    request
        .headers
        .set(Known::XEnvoy, "x-envoy-original-path", old);
}
