//! Answers that the proxy gives itself, in Envoy's words.

use std::{borrow::Cow, io};

use bytes::Bytes;
use http::HeaderName;
use ithildin_http1::ParseError;
use ithildin_tls::HandshakeError;

use super::{
    body::{BodyError, PumpError},
    exchange::Broken,
    wire::WireError,
};
use crate::access_log::ResponseFlags;
use crate::upstream::{FailureKind, UpstreamFailure};

/// Before the reason why there is no response, and where there was no response to tries before
/// either.
const RESET: &str = "upstream connect error or disconnect/reset before headers. reset reason: ";
const RETRIED: &str = "upstream connect error or disconnect/reset before headers. \
                       retried and the latest reset reason: ";

/// The details of [`LocalReply::max_duration`].
pub(super) const MAX_DURATION: &str = "max_duration_timeout";

/// Flag and details of a response that an upstream cut off in the middle.
pub(super) fn cut_off(error: &BodyError) -> (ResponseFlags, &'static str) {
    match error {
        BodyError::Wire(WireError::Protocol(_)) => (
            ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
            "upstream_reset_after_response_started{protocol_error}",
        ),
        BodyError::Http2(error) if error.is_reset() => (
            ResponseFlags::UPSTREAM_REMOTE_RESET,
            "upstream_reset_after_response_started{remote_reset}",
        ),
        BodyError::Wire(WireError::Io(_)) | BodyError::Http2(_) => (
            ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
            "upstream_reset_after_response_started{connection_termination}",
        ),
    }
}

/// What becomes of a request whose body stopped in the middle: the client is gone, or sent
/// something that is no body.
pub(super) fn client_broke(sent: Option<&Result<(), PumpError>>) -> Broken {
    match sent {
        Some(Err(PumpError::Source(BodyError::Wire(WireError::Protocol(error)))))
            if *error != ParseError::Truncated =>
        {
            Broken::BadRequest(LocalReply::refused(*error))
        }
        _ => Broken::Client,
    }
}

/// A response without an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalReply {
    pub(super) status: u16,
    pub(super) body: Bytes,
    /// Envoy's response flag, for the access log; empty for none.
    pub(super) flags: ResponseFlags,
    /// Envoy's response code details.
    pub(super) details: Cow<'static, str>,
    /// Why the upstream's transport failed.
    pub(super) transport_failure: Option<std::sync::Arc<str>>,
    pub(super) overloaded: bool,
    /// In place of what HTTP's status stands for.
    pub(super) grpc_status: Option<u32>,
    /// The route's operations on response headers do not concern it.
    pub(super) is_bare: bool,
    /// `location` of a redirect, and what filters add.
    pub(super) headers: Vec<(HeaderName, Bytes)>,
}

impl LocalReply {
    pub(super) fn new(
        status: u16,
        body: &'static str,
        flags: ResponseFlags,
        details: &'static str,
    ) -> Self {
        Self {
            status,
            body: Bytes::from_static(body.as_bytes()),
            flags,
            details: Cow::Borrowed(details),
            transport_failure: None,
            overloaded: false,
            grpc_status: None,
            is_bare: false,
            headers: Vec::new(),
        }
    }

    pub(super) fn no_normal_path() -> Self {
        Self::new(400, "", ResponseFlags::NONE, "path_normalization_failed")
    }

    pub(super) fn no_route() -> Self {
        Self::new(404, "", ResponseFlags::NO_ROUTE_FOUND, "route_not_found")
    }

    pub(super) fn no_cluster(status: u16) -> Self {
        Self::new(
            status,
            "",
            ResponseFlags::NO_CLUSTER_FOUND,
            "cluster_not_found",
        )
    }

    /// The whole response took longer than the route allows.
    pub(super) fn timeout() -> Self {
        Self::new(
            504,
            "upstream request timeout",
            ResponseFlags::UPSTREAM_REQUEST_TIMEOUT,
            "response_timeout",
        )
    }

    pub(super) fn idle_timeout(is_complete: bool) -> Self {
        Self::new(
            late(is_complete),
            "stream timeout",
            ResponseFlags::STREAM_IDLE_TIMEOUT,
            "stream_idle_timeout",
        )
    }

    /// The stream lived longer than the route, or its client, allows.
    pub(super) fn max_duration(is_complete: bool) -> Self {
        let status = late(is_complete);
        let none = ResponseFlags::NONE;
        Self::new(status, "downstream duration timeout", none, MAX_DURATION)
    }

    /// The request took too long to arrive.
    pub(super) fn request_timeout() -> Self {
        let none = ResponseFlags::NONE;
        Self::new(408, "request timeout", none, "request_overall_timeout")
    }

    /// Its head did.
    pub(super) fn header_timeout() -> Self {
        let none = ResponseFlags::NONE;
        Self::new(
            408,
            "request header timeout",
            none,
            "request_header_timeout",
        )
    }

    /// Bytes that are no request.
    pub(super) fn refused(error: ParseError) -> Self {
        let flags = match error {
            ParseError::NoHost | ParseError::Fragment => ResponseFlags::NONE,
            _ => ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
        };
        Self::new(error.status(), error.body(), flags, error.details())
    }

    /// HTTP/1.0 where it is not accepted.
    pub(super) fn low_version() -> Self {
        Self::refused(ParseError::Version)
    }

    /// A change of protocol that is not configured.
    pub(super) fn upgrade_failed() -> Self {
        Self::new(403, "", ResponseFlags::NONE, "upgrade_failed")
    }

    /// One try took longer than the route allows.
    pub(super) fn per_try_timeout() -> Self {
        Self {
            details: Cow::Borrowed("upstream_per_try_timeout"),
            ..Self::timeout()
        }
    }

    /// Whether it tells of an upstream, or of the want of one; otherwise of the client.
    pub(super) fn is_of_upstream(&self) -> bool {
        let of_client =
            ResponseFlags::STREAM_IDLE_TIMEOUT | ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR;
        !self.flags.is_empty() && !self.flags.intersects(of_client)
    }

    /// In the words for a request that was tried before.
    pub(super) fn after_retries(mut self) -> Self {
        if let Some(reason) = self.body.strip_prefix(RESET.as_bytes()) {
            let words = RETRIED.as_bytes();
            self.body = [words, reason].concat().into();
        }
        self
    }

    /// No connection to an upstream.
    pub(super) fn unavailable(failure: &UpstreamFailure) -> Self {
        match failure.kind {
            FailureKind::NoCluster => Self::no_cluster(503),
            FailureKind::NoHealthyUpstream => Self::new(
                503,
                "no healthy upstream",
                ResponseFlags::NO_HEALTHY_UPSTREAM,
                "no_healthy_upstream",
            ),
            FailureKind::NotResolved => Self {
                details: unresolved(failure).into(),
                ..Self::new(503, kind_text(failure), failure.kind.flags(), "")
            },
            FailureKind::TooManyNames => Self::new(
                503,
                kind_text(failure),
                failure.kind.flags(),
                "dns_cache_overflow",
            ),
            kind => Self {
                overloaded: kind == FailureKind::Overflow,
                ..Self::reset(
                    kind.reset_reason(),
                    kind.flags(),
                    failure.transport_failure_reason.clone(),
                )
            },
        }
    }

    /// The upstream closed before it answered. With TLS 1.3 this is how it refuses us, and the error
    /// holds its alert.
    pub(super) fn upstream_closed(error: Option<&io::Error>) -> Self {
        let flags = ResponseFlags::UPSTREAM_CONNECTION_TERMINATION;
        let tls = error.filter(|error| error.get_ref().is_some_and(|it| it.is::<HandshakeError>()));
        let reason = tls.map(|error| format!("TLS_error: {error}").into());
        Self::reset("connection termination", flags, reason)
    }

    /// The upstream reset the stream before it answered.
    pub(super) fn upstream_reset() -> Self {
        Self::reset("remote reset", ResponseFlags::UPSTREAM_REMOTE_RESET, None)
    }

    /// The upstream's answer makes no sense.
    pub(super) fn upstream_protocol_error() -> Self {
        let flags = ResponseFlags::UPSTREAM_PROTOCOL_ERROR;
        Self {
            status: 502,
            ..Self::reset("protocol error", flags, None)
        }
    }

    fn reset(
        reason: &str,
        flags: ResponseFlags,
        transport_failure: Option<std::sync::Arc<str>>,
    ) -> Self {
        let mut details = format!("upstream_reset_before_response_started{{{reason}");
        if let Some(failure) = &transport_failure {
            details.extend(["|", failure]);
        }
        details.push('}');
        let body = format!("{RESET}{reason}");
        Self {
            status: 503,
            body: body.into(),
            flags,
            details: details.replace(' ', "_").into(),
            transport_failure,
            overloaded: false,
            grpc_status: None,
            is_bare: false,
            headers: Vec::new(),
        }
    }
}

fn kind_text(failure: &UpstreamFailure) -> &'static str {
    failure.kind.reset_reason()
}

/// The details of a name without addresses.
fn unresolved(failure: &UpstreamFailure) -> String {
    let reason = failure.transport_failure_reason.as_deref();
    let reason = reason.unwrap_or_default().replace(' ', "_");
    format!("dns_resolution_failure{{{reason}}}")
}

/// Whose fault it is that time ran out: the client's, until it has sent all.
fn late(is_complete: bool) -> u16 {
    if is_complete { 504 } else { 408 }
}
