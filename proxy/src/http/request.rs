//! A request head, whatever protocol brought it.

use bytes::Bytes;
use http::Method;
use ithildin_http1::{Framing, Known, RequestHead};

use super::headers::Headers;
use crate::{config::http::Http1Options, metadata::DynamicMetadata, upstream::DownstreamProtocol};

/// What is routed and sent on.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: Bytes,
    /// Of an absolute-form target or an HTTP/2 request; else decided by the connection.
    pub(super) scheme: Option<&'static str>,
    /// Host and port as the client wrote them.
    pub(super) authority: Bytes,
    /// Path and query.
    pub(super) path: Bytes,
    pub(super) headers: Headers,
    pub(super) body: BodyLength,
    /// The protocol to change to: `Upgrade` in HTTP/1, `:protocol` in HTTP/2, whose CONNECT with it is
    /// a GET here, as in Envoy.
    pub(super) upgrade: Option<Bytes>,
    pub(super) protocol: Protocol,
    /// What filters left; `None` before the first did.
    pub(super) metadata: Option<Box<DynamicMetadata>>,
}

/// The protocol of a message, as access logs name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http10,
    Http11,
    Http2,
}

impl Protocol {
    pub(super) fn downstream(self) -> DownstreamProtocol {
        match self {
            Self::Http2 => DownstreamProtocol::Http2,
            Self::Http10 => DownstreamProtocol::Http10,
            Self::Http11 => DownstreamProtocol::Http1,
        }
    }
}

/// What is known of a body before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    Empty,
    Known(u64),
    Unknown,
}

impl BodyLength {
    /// How it is framed towards an HTTP/1 peer.
    pub(super) fn framing(self) -> Framing {
        match self {
            Self::Empty => Framing::None,
            Self::Known(length) => Framing::Length(length),
            Self::Unknown => Framing::Chunked,
        }
    }

    /// From the framing of an HTTP/1 message.
    pub(super) fn of(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::Empty,
            Framing::Length(length) => Self::Known(length),
            Framing::Chunked | Framing::Close => Self::Unknown,
        }
    }
}

impl Request {
    pub(super) fn from_http1(head: &RequestHead, options: &Http1Options) -> Self {
        let protocol = match head.version {
            ithildin_http1::Version::Http10 => Protocol::Http10,
            ithildin_http1::Version::Http11 => Protocol::Http11,
        };
        let mut headers = Headers::from_http1(&head.fields, options.header_format);
        headers.remove_known(Known::Host);
        Self {
            method: head.shared(head.method()),
            scheme: head.scheme,
            authority: match &options.default_host {
                Some(host) if head.authority().is_empty() => {
                    Bytes::copy_from_slice(host.as_bytes())
                }
                _ => head.shared(head.authority()),
            },
            path: if head.is_connect() {
                Bytes::new()
            } else {
                head.shared(head.path())
            },
            headers,
            body: BodyLength::of(head.framing),
            upgrade: head.upgrade().map(|upgrade| head.shared(upgrade)),
            protocol,
            metadata: None,
        }
    }

    /// What is known of a request whose head could not be read: nothing.
    pub(super) fn unreadable() -> Self {
        Self {
            method: Bytes::new(),
            scheme: None,
            authority: Bytes::new(),
            path: Bytes::new(),
            headers: Headers::default(),
            body: BodyLength::Empty,
            upgrade: None,
            protocol: Protocol::Http11,
            metadata: None,
        }
    }

    pub(super) fn is_connect(&self) -> bool {
        self.method == Method::CONNECT.as_str()
    }

    /// Whether bytes without an end that we know follow, and not a body.
    pub(super) fn asks_for_tunnel(&self) -> bool {
        self.upgrade.is_some() || self.is_connect()
    }

    pub(super) fn is_head(&self) -> bool {
        self.method == Method::HEAD.as_str()
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.headers
            .known(Known::ContentType)
            .is_some_and(|value| is_grpc(value))
    }

    /// The path without its query.
    pub(super) fn path_only(&self) -> &[u8] {
        match memchr::memchr(b'?', &self.path) {
            Some(at) => &self.path[..at],
            None => &self.path,
        }
    }

    pub(super) fn query(&self) -> Option<&[u8]> {
        let at = memchr::memchr(b'?', &self.path)?;
        Some(&self.path[at + 1..])
    }
}

/// `application/grpc`, alone or with a suffix or parameters.
pub(super) fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}
