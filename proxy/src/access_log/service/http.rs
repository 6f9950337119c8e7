//! `envoy.data.accesslog.v3.HTTPAccessLogEntry`.

use std::collections::HashMap;

use ithildin_proto::pb::{
    envoy::{
        config::core::v3::RequestMethod,
        data::accesslog::v3::{
            HttpAccessLogEntry, HttpRequestProperties, HttpResponseProperties,
            http_access_log_entry::HttpVersion,
        },
    },
    google::protobuf::UInt32Value,
};

use super::{Common, text};
use crate::access_log::{Entry, Headers, Needs, Protocol};

/// How a logger tells of requests.
#[derive(Debug)]
pub(crate) struct HttpEntries {
    pub(crate) common: Common,
    /// Names that are told besides what always is; lower-case.
    pub(crate) request_headers: Vec<Box<str>>,
    pub(crate) response_headers: Vec<Box<str>>,
    pub(crate) response_trailers: Vec<Box<str>>,
}

impl HttpEntries {
    pub(super) fn needs(&self, needs: &mut Needs) {
        needs.heads = true;
        for name in &self.response_headers {
            needs.response_header(name);
        }
        for name in &self.response_trailers {
            needs.response_trailer(name);
        }
        self.common.needs(needs);
    }

    pub(super) fn entry(&self, entry: &Entry<'_>) -> HttpAccessLogEntry {
        let version = match entry.protocol {
            None => HttpVersion::ProtocolUnspecified,
            Some(Protocol::Http10) => HttpVersion::Http10,
            Some(Protocol::Http11) => HttpVersion::Http11,
            Some(Protocol::Http2) => HttpVersion::Http2,
        };
        HttpAccessLogEntry {
            common_properties: Some(self.common.properties(entry)),
            protocol_version: version.into(),
            request: Some(self.request(entry)),
            response: Some(self.response(entry)),
        }
    }

    fn request(&self, entry: &Entry<'_>) -> HttpRequestProperties {
        let known = |value: Option<&[u8]>| text(value.unwrap_or_default());
        let header = |name| known(entry.request_headers.and_then(|it| it.get(name)));
        let method = entry.method.and_then(|it| std::str::from_utf8(it).ok());
        let method = method.and_then(RequestMethod::from_str_name);
        let wanted = self.request_headers.iter();
        HttpRequestProperties {
            request_method: method.unwrap_or(RequestMethod::MethodUnspecified).into(),
            scheme: known(entry.scheme),
            authority: known(entry.authority),
            // It is a part of the authority.
            port: None,
            path: known(entry.path),
            user_agent: header("user-agent"),
            referer: header("referer"),
            forwarded_for: header("x-forwarded-for"),
            request_id: header("x-request-id"),
            original_path: header("x-envoy-original-path"),
            request_headers_bytes: entry.heads.request,
            request_body_bytes: entry.bytes.received,
            request_headers: wanted
                .filter_map(|name| Some((name.to_string(), request_header(entry, name)?)))
                .collect(),
            upstream_header_bytes_sent: entry.heads.upstream_sent,
            downstream_header_bytes_received: entry.heads.downstream_received,
        }
    }

    fn response(&self, entry: &Entry<'_>) -> HttpResponseProperties {
        let code = entry.response_code;
        let details = entry.response_code_details;
        HttpResponseProperties {
            response_code: code.map(|code| UInt32Value { value: code.into() }),
            response_headers_bytes: entry.heads.response,
            response_body_bytes: entry.bytes.sent,
            response_headers: named(entry.response_headers, &self.response_headers),
            response_trailers: named(entry.response_trailers, &self.response_trailers),
            response_code_details: details.unwrap_or_default().to_owned(),
            upstream_header_bytes_received: entry.heads.upstream_received,
            downstream_header_bytes_sent: entry.heads.downstream_sent,
        }
    }
}

fn request_header(entry: &Entry<'_>, name: &str) -> Option<String> {
    let pseudo = match name {
        ":method" => entry.method,
        ":path" => entry.path,
        ":authority" | "host" => entry.authority,
        ":scheme" => entry.scheme,
        name => return Some(text(&entry.request_headers?.joined(name)?)),
    };
    pseudo.map(text)
}

/// Each header that is there, with all its values.
fn named(headers: Option<&dyn Headers>, wanted: &[Box<str>]) -> HashMap<String, String> {
    let Some(headers) = headers else {
        return HashMap::new();
    };
    let wanted = wanted.iter();
    wanted
        .filter_map(|name| Some((name.to_string(), text(&headers.joined(name)?))))
        .collect()
}
