//! What is done to a request's headers before it is routed.

use std::net::IpAddr;

use bytes::Bytes;
use ithildin_http1::Known;

use super::{
    exchange::Context,
    failure::LocalReply,
    headers::Headers,
    matching::without_port,
    request::{Protocol, Request},
    trace::undecided,
    xfcc,
};
use crate::{
    access_log::ResponseFlags,
    config::{
        HttpManager,
        http::{EscapedSlashes, UnderscoreAction},
    },
    stats::HttpBlock,
    worker::Connection,
};

/// Refuses what may not pass, and makes the forwarding headers ours.
pub(super) fn request(context: &Context<'_>, request: &mut Request) -> Result<(), LocalReply> {
    let (manager, connection) = (context.manager, context.connection);
    underscores(manager, &mut request.headers)?;
    target(manager, context.stats, request)?;
    let internal = is_internal(manager, connection, &request.headers);
    let edge = manager.use_remote_address && !internal;
    forwarded_for(manager, connection, &mut request.headers);
    scheme(manager, connection, request);
    sanitise(edge, internal, &mut request.headers);
    if edge {
        let address = trusted_address(manager, connection, &request.headers);
        let name = "x-envoy-external-address";
        request.headers.set(Known::XEnvoy, name, address);
    }
    if internal {
        let name = "x-envoy-internal";
        request.headers.set(Known::XEnvoy, name, "true");
    }
    request_id(manager, edge, &mut request.headers);
    xfcc::apply(manager, connection, &mut request.headers);
    if let Some(via) = &manager.via {
        append_via(&mut request.headers, via);
    }
    // We answer it ourselves, unless the upstream is to.
    if !manager.proxy_100_continue {
        let answered = |expect: &Bytes| expect.eq_ignore_ascii_case(b"100-continue");
        if request.headers.known(Known::Expect).is_some_and(answered) {
            request.headers.remove_known(Known::Expect);
        }
    }
    te(&mut request.headers);
    Ok(())
}

/// The request's target: its authority and path.
fn target(
    manager: &HttpManager,
    stats: &HttpBlock,
    request: &mut Request,
) -> Result<(), LocalReply> {
    let absolute = request.scheme.is_some() && request.protocol != Protocol::Http2;
    let relative = request.path.first() == Some(&b'/') || request.is_connect();
    if !relative || (absolute && !manager.http1.allow_absolute_url) {
        stats.downstream_rq_non_relative_path.inc();
        let none = ResponseFlags::NONE;
        return Err(LocalReply::new(404, "", none, "absolute_path_rejected"));
    }
    if manager.strip_any_host_port && !request.is_connect() {
        let host = std::str::from_utf8(&request.authority).unwrap_or_default();
        let length = without_port(host).len();
        request.authority.truncate(length);
    }
    let no_normal_path = || {
        stats.downstream_rq_failed_path_normalization.inc();
        LocalReply::no_normal_path()
    };
    let redirects = escaped_slashes(manager.escaped_slashes, request).ok_or_else(no_normal_path)?;
    if manager.normalize_path || manager.merge_slashes {
        let path =
            super::path::normalise(&request.path, manager.normalize_path, manager.merge_slashes);
        request.path = path.ok_or_else(no_normal_path)?;
    }
    match redirects {
        true => Err(super::redirect::to_normal_path(request)),
        false => Ok(()),
    }
}

/// Whether the client is to be sent to what is left of the path; `None` if the path is refused.
fn escaped_slashes(action: EscapedSlashes, request: &mut Request) -> Option<bool> {
    if action == EscapedSlashes::Keep {
        return Some(false);
    }
    let Some(path) = super::path::unescape_slashes(&request.path) else {
        return Some(false);
    };
    // gRPC knows no redirects.
    let refused = action == EscapedSlashes::Redirect && request.is_grpc();
    if refused || action == EscapedSlashes::Reject {
        return None;
    }
    request.path = path;
    Some(action == EscapedSlashes::Redirect)
}

/// Adds ours to the proxies that a message came through.
pub(super) fn append_via(headers: &mut Headers, via: &str) {
    let value = match headers.joined("via") {
        Some(before) => Bytes::from([&before[..], b", ", via.as_bytes()].concat()),
        None => Bytes::copy_from_slice(via.as_bytes()),
    };
    headers.set(Known::Via, "via", value);
}

/// Of the values of TE only one passes a proxy (RFC 9110, section 10.1.4).
fn te(headers: &mut Headers) {
    let Some(te) = headers.known(Known::Te) else {
        return;
    };
    if te.eq_ignore_ascii_case(b"trailers") {
        return;
    }
    let name = |value: &[u8]| {
        let end = memchr::memchr(b';', value).unwrap_or(value.len());
        value[..end].trim_ascii().eq_ignore_ascii_case(b"trailers")
    };
    let trailers = te.split(|b| *b == b',').any(name);
    headers.remove_known(Known::Te);
    if trailers {
        headers.push(Known::Te, "te", "trailers");
    }
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
                    "Bad Request",
                    ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
                    "http1.unexpected_underscore",
                )),
                false => Ok(()),
            }
        }
    }
}

/// Whether the client is one of our own: no proxy stands between, or one that tells of it alone.
fn is_internal(manager: &HttpManager, connection: &Connection, headers: &Headers) -> bool {
    if manager.internal_addresses.is_empty() {
        return false;
    }
    let list = headers.joined("x-forwarded-for");
    let address = match (manager.use_remote_address, list) {
        (true, None) => Some(connection.remote.ip()),
        (true, Some(_)) | (false, None) => None,
        (false, Some(list)) => {
            let alone = manager.xff_num_trusted_hops == 0 && !list.contains(&b',');
            alone.then(|| told_address(manager, headers)).flatten()
        }
    };
    let mut networks = manager.internal_addresses.iter();
    address.is_some_and(|address| networks.any(|network| network.contains(address)))
}

/// `x-forwarded-for`: the client's own address behind what it told, at the edge.
fn forwarded_for(manager: &HttpManager, connection: &Connection, headers: &mut Headers) {
    if !manager.use_remote_address || manager.skip_xff_append {
        return;
    }
    let remote = connection.remote.ip();
    let value = match headers.joined("x-forwarded-for") {
        Some(before) => [&before[..], b",", remote.to_string().as_bytes()].concat(),
        None => remote.to_string().into_bytes(),
    };
    headers.set(Known::XForwardedFor, "x-forwarded-for", value);
}

/// The address of the client as far as it can be trusted: our peer's, or what the outermost of the
/// trusted proxies before us saw.
fn trusted_address(manager: &HttpManager, connection: &Connection, headers: &Headers) -> String {
    let told = told_address(manager, headers);
    told.unwrap_or(connection.remote.ip()).to_string()
}

/// The client's address by `x-forwarded-for`, to which we have added our own peer if we do; `None`
/// where that header is not believed, or says nothing.
pub(super) fn told_address(manager: &HttpManager, headers: &Headers) -> Option<IpAddr> {
    let hops = manager.xff_num_trusted_hops as usize;
    let from_the_end = match manager.use_remote_address {
        // Our own entry is behind theirs.
        true => hops.checked_sub(1)? + usize::from(!manager.skip_xff_append),
        false => hops,
    };
    let list = headers.joined("x-forwarded-for")?;
    let entry = list.rsplit(|b| *b == b',').nth(from_the_end)?.trim_ascii();
    std::str::from_utf8(entry).ok()?.parse().ok()
}

/// `x-forwarded-proto` and `x-forwarded-port`: the client's word counts only behind a proxy that we
/// trust.
fn scheme(manager: &HttpManager, connection: &Connection, request: &mut Request) {
    let actual = match connection.tls.is_some() {
        true => "https",
        false => "http",
    };
    let trusting = !manager.use_remote_address || manager.xff_num_trusted_hops > 0;
    let headers = &mut request.headers;
    if !trusting || headers.known(Known::XForwardedProto).is_none() {
        headers.set(Known::XForwardedProto, "x-forwarded-proto", actual);
    }
    request.scheme = Some(match headers.known(Known::XForwardedProto) {
        Some(told) if told.eq_ignore_ascii_case(b"https") => "https",
        Some(told) if told.eq_ignore_ascii_case(b"http") => "http",
        _ => actual,
    });
    if manager.append_x_forwarded_port
        && (!trusting || headers.known(Known::XForwardedPort).is_none())
    {
        let port = connection.local.port().to_string();
        headers.set(Known::XForwardedPort, "x-forwarded-port", port);
    }
}

/// A client of our own asks for a span.
pub(super) const FORCE_TRACE: &str = "x-envoy-force-trace";

/// Headers that steer Envoy, and so are not for strangers to send. What our own clients ask by
/// them is not done, either, and so goes no further; but for spans.
const INTERNAL: &[&str] = &[
    "x-envoy-expected-rq-timeout-ms",
    FORCE_TRACE,
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-internal",
    "x-envoy-ip-tags",
    "x-envoy-max-retries",
    "x-envoy-original-url",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
];

/// What the edge takes away besides: only a proxy of the mesh may say it.
const EDGE: &[&str] = &[
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-original-host",
    "x-envoy-original-path",
];

fn sanitise(edge: bool, internal: bool, headers: &mut Headers) {
    if headers.known(Known::XEnvoy).is_none() {
        return;
    }
    let is_one_of = |names: &[&str], name: &[u8]| {
        let mut names = names.iter();
        names.any(|it| it.as_bytes().eq_ignore_ascii_case(name))
    };
    headers.retain(|field| {
        let name = field.name.as_bytes();
        field.known != Known::XEnvoy
            || internal && name.eq_ignore_ascii_case(FORCE_TRACE.as_bytes())
            || !(is_one_of(INTERNAL, name) || edge && is_one_of(EDGE, name))
    });
}

fn request_id(manager: &HttpManager, edge: bool, headers: &mut Headers) {
    if !manager.generate_request_id {
        return;
    }
    let known = headers.known(Known::XRequestId);
    let known = known.filter(|id| !id.is_empty());
    let packs = || manager.tracing.as_ref().is_none_or(|it| it.packs_reason);
    if edge && manager.preserve_external_request_id && packs() {
        // It is a stranger's, who does not decide what is traced.
        if let Some(id) = known.and_then(|id| undecided(id)) {
            headers.set(Known::XRequestId, "x-request-id", id);
            return;
        }
    }
    if edge && !manager.preserve_external_request_id || known.is_none() {
        let id = uuid::Uuid::new_v4().hyphenated().to_string();
        headers.set(Known::XRequestId, "x-request-id", id);
    }
}
