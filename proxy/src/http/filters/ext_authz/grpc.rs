//! What a service of gRPC is told of a request.

use std::{collections::HashMap, time::SystemTime};

use ithildin_proto::pb::{
    envoy::service::auth::v3::{
        AttributeContext,
        attribute_context::{HttpRequest, Request as RequestProto},
    },
    google::protobuf::Timestamp,
};

use super::Question;
use crate::{
    config::ext_authz::ExtAuthz,
    ext_authz,
    http::{
        exchange::Exchange,
        request::{BodyLength, Protocol, Request},
    },
};

/// Says whether the service got a part of a longer body.
pub(super) const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

const SERVICE: &str = "x-envoy-downstream-service-cluster";

impl Exchange<'_> {
    pub(super) fn attributes(
        &self,
        filter: &ExtAuthz,
        question: &Question,
        body: &[u8],
    ) -> AttributeContext {
        let include = (filter.include_peer_certificate, filter.include_tls_session);
        let mut attributes = ext_authz::attributes(self.context.connection, include);
        if let Some(source) = &mut attributes.source {
            let service = self.request.headers.get(SERVICE);
            source.service = service.map_or_else(String::new, |it| text(it));
        }
        attributes.request = Some(RequestProto {
            time: timestamp(SystemTime::now().checked_sub(self.meter.started.elapsed())),
            http: Some(http(filter, question, &self.request, body)),
        });
        attributes.context_extensions = question.context.iter().cloned().collect();
        attributes
    }
}

/// Each header with its values as one list, by its name in lower case; with those of HTTP/2 that say what is
/// asked for.
pub(super) fn headers(request: &Request, wanted: impl Fn(&str) -> bool) -> HashMap<String, String> {
    let mut headers: HashMap<String, String> = HashMap::new();
    let mut add = |name: String, value: &[u8]| {
        if name == PARTIAL_BODY || !wanted(&name) {
            return;
        }
        let value = text(value);
        match headers.get_mut(&name) {
            Some(list) => {
                list.push(',');
                list.push_str(&value);
            }
            None => drop(headers.insert(name, value)),
        }
    };
    let scheme = request.scheme.unwrap_or("http");
    add(":method".into(), &request.method);
    add(":authority".into(), &request.authority);
    add(":path".into(), &request.path);
    add(":scheme".into(), scheme.as_bytes());
    match request.body {
        BodyLength::Known(length) => add("content-length".into(), length.to_string().as_bytes()),
        BodyLength::Unknown if request.protocol != Protocol::Http2 => {
            add("transfer-encoding".into(), b"chunked");
        }
        BodyLength::Unknown | BodyLength::Empty => {}
    }
    if let Some(upgrade) = &request.upgrade {
        add("connection".into(), b"upgrade");
        add("upgrade".into(), upgrade);
    }
    for field in request.headers.iter() {
        let name = String::from_utf8_lossy(field.name.as_bytes());
        add(name.to_ascii_lowercase(), &field.value);
    }
    headers
}

/// What a service gets of a body.
pub(super) fn part(question: &Question, ahead: &[u8]) -> Option<(Vec<u8>, bool)> {
    let most = question.body?.max_bytes;
    let part = &ahead[..ahead.len().min(most)];
    Some((part.to_vec(), part.len() < ahead.len()))
}

pub(in crate::http) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(char::REPLACEMENT_CHARACTER, "!")
}

fn http(filter: &ExtAuthz, question: &Question, request: &Request, ahead: &[u8]) -> HttpRequest {
    let allowed = filter.allowed_headers.as_ref();
    let wanted = |name: &str| {
        allowed.is_none_or(|it| it.admit(name)) && !filter.disallowed_headers.admit(name)
    };
    let mut http = HttpRequest {
        id: fastrand::u64(..).to_string(),
        method: text(&request.method),
        headers: headers(request, wanted),
        path: text(&request.path),
        host: text(&request.authority),
        scheme: request.scheme.unwrap_or("http").into(),
        protocol: match request.protocol {
            Protocol::Http10 => "HTTP/1.0",
            Protocol::Http11 => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
        }
        .into(),
        size: i64::try_from(ahead.len()).unwrap_or(i64::MAX),
        ..HttpRequest::default()
    };
    if let Some((part, is_partial)) = part(question, ahead) {
        let is_partial = is_partial.to_string();
        http.headers.insert(PARTIAL_BODY.into(), is_partial);
        // What a route says of this does not count, as in Envoy.
        match filter.body.is_some_and(|it| it.pack_as_bytes) {
            true => http.raw_body = part,
            false => http.body = text(&part),
        }
    }
    http
}

fn timestamp(time: Option<SystemTime>) -> Option<Timestamp> {
    let since = time?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Timestamp {
        seconds: i64::try_from(since.as_secs()).ok()?,
        nanos: i32::try_from(since.subsec_nanos()).ok()?,
    })
}
