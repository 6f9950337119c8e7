//! Response heads: what every one of them gets, and our own.

use std::{
    cell::RefCell,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use ithildin_http1::Known;

use super::{
    client::Response,
    exchange::Context,
    failure::{LocalReply, MAX_DURATION},
    headers::Headers,
    prepare::{FORCE_TRACE, append_via},
    request::{BodyLength, Request},
};
use crate::config::{HttpManager, http::ServerHeader};

/// Adds what Envoy adds to an upstream's response.
pub(super) fn prepare(context: &Context<'_>, response: &mut Response, started: Instant) {
    if !context.manager.suppress_envoy_headers {
        let headers = &mut response.headers;
        let service_time = started.elapsed().as_millis().to_string();
        headers.set(Known::XEnvoy, "x-envoy-upstream-service-time", service_time);
    }
}

/// A response of ours, and its body.
pub(super) fn local(
    manager: &HttpManager,
    request: &Request,
    reply: LocalReply,
) -> (Response, Bytes) {
    let mut headers = Headers::default();
    let (status, body) = if request.is_grpc() {
        headers.push(Known::ContentType, "content-type", "application/grpc");
        let status = match reply.grpc_status {
            Some(status) => status.to_string().into(),
            None => Bytes::from_static(grpc_status(&reply).as_bytes()),
        };
        headers.push(Known::Other, "grpc-status", status);
        if !reply.body.is_empty() {
            headers.push(Known::Other, "grpc-message", grpc_message(&reply.body));
        }
        (200, Bytes::new())
    } else {
        if !reply.body.is_empty() {
            headers.push(Known::ContentType, "content-type", "text/plain");
        }
        (reply.status, reply.body)
    };
    // What gRPC makes of the answer stays.
    let added = reply.headers.iter();
    let added: Vec<_> = added
        .filter(|(name, _)| !request.is_grpc() || headers.get(name.as_str()).is_none())
        .cloned()
        .collect();
    for (name, _) in &added {
        headers.remove(name.as_str());
    }
    for (name, value) in added {
        headers.append(name, value);
    }
    if reply.overloaded && !manager.suppress_envoy_headers {
        headers.push(Known::XEnvoy, "x-envoy-overloaded", "true");
    }
    let response = Response {
        status,
        headers,
        body: match body.len() {
            0 => BodyLength::Empty,
            length => BodyLength::Known(length as u64),
        },
        protocol: None,
        switch: None,
    };
    match request.is_head() {
        true => (response, Bytes::new()),
        false => (response, body),
    }
}

/// What every response has. It comes last: routes and filters have no say in it.
pub(super) fn finish(context: &Context<'_>, request: &Request, headers: &mut Headers) {
    let manager = context.manager;
    if headers.known(Known::Date).is_none() {
        headers.push(Known::Date, "date", date());
    }
    server(context, headers);
    // Nobody else may force anything.
    let is_forced =
        || !manager.internal_addresses.is_empty() && request.headers.get(FORCE_TRACE).is_some();
    if (manager.always_set_request_id_in_response || is_forced())
        && let Some(id) = request.headers.known(Known::XRequestId)
    {
        headers.set(Known::XRequestId, "x-request-id", id.clone());
    }
    if let Some(via) = &manager.via {
        append_via(headers, via);
    }
}

fn server(context: &Context<'_>, headers: &mut Headers) {
    let name = Bytes::copy_from_slice(context.manager.server_name.as_bytes());
    match context.manager.server_header {
        ServerHeader::Overwrite => headers.set(Known::Server, "server", name),
        ServerHeader::AppendIfAbsent if headers.known(Known::Server).is_none() => {
            headers.push(Known::Server, "server", name);
        }
        ServerHeader::AppendIfAbsent | ServerHeader::PassThrough => {}
    }
}

/// The current time as HTTP writes it; formatted once a second.
fn date() -> Bytes {
    thread_local! {
        static LAST: RefCell<(u64, Bytes)> = const { RefCell::new((0, Bytes::new())) };
    }
    let now = SystemTime::now();
    let second = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|last| {
        if last.0 != second {
            *last = (second, Bytes::from(httpdate::fmt_http_date(now)));
        }
        last.1.clone()
    })
}

/// Envoy's mapping of HTTP to gRPC status codes.
fn grpc_status(reply: &LocalReply) -> &'static str {
    match reply.status {
        // The only one of ours that the client's own deadline may be the reason for.
        _ if reply.details == MAX_DURATION => "4",
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    }
}

/// Percent-encoded, as gRPC has it.
fn grpc_message(body: &[u8]) -> String {
    let mut message = String::with_capacity(body.len());
    for byte in body {
        match byte {
            b' '..=b'~' if *byte != b'%' => message.push(char::from(*byte)),
            byte => message.push_str(&format!("%{byte:02X}")),
        }
    }
    message
}
