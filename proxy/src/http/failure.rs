//! Answers that the proxy gives itself, in Envoy's words.

use std::fmt::Write;

use bytes::Bytes;

use crate::access_log::ResponseFlags;
use crate::upstream::{FailureKind, UpstreamFailure};

/// A response without an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalReply {
    pub(super) status: u16,
    pub(super) body: Bytes,
    /// Envoy's response flag, for the access log; empty for none.
    pub(super) flags: ResponseFlags,
    /// Envoy's response code details.
    pub(super) details: &'static str,
    /// `location` of a redirect.
    pub(super) location: Option<Bytes>,
    /// Why the upstream's transport failed.
    pub(super) transport_failure: Option<std::sync::Arc<str>>,
    pub(super) overloaded: bool,
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
            details,
            location: None,
            transport_failure: None,
            overloaded: false,
        }
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
            "upstream_response_timeout",
        )
    }

    pub(super) fn idle_timeout() -> Self {
        Self::new(
            408,
            "stream timeout",
            ResponseFlags::STREAM_IDLE_TIMEOUT,
            "stream_idle_timeout",
        )
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
            FailureKind::Overflow => Self {
                overloaded: true,
                ..Self::reset(
                    "overflow",
                    ResponseFlags::UPSTREAM_OVERFLOW,
                    "upstream_reset_before_response_started{overflow}",
                    None,
                )
            },
            FailureKind::LocalConnectionFailure => Self::reset(
                failure.kind.reset_reason(),
                ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
                "upstream_reset_before_response_started{local_connection_failure}",
                failure.transport_failure_reason.clone(),
            ),
            FailureKind::RemoteConnectionFailure => Self::reset(
                failure.kind.reset_reason(),
                ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
                "upstream_reset_before_response_started{remote_connection_failure}",
                failure.transport_failure_reason.clone(),
            ),
            FailureKind::ConnectionTimeout => Self::reset(
                failure.kind.reset_reason(),
                ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
                "upstream_reset_before_response_started{connection_timeout}",
                failure.transport_failure_reason.clone(),
            ),
        }
    }

    /// The upstream closed before it answered.
    pub(super) fn upstream_closed() -> Self {
        Self::reset(
            "connection termination",
            ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
            "upstream_reset_before_response_started{connection_termination}",
            None,
        )
    }

    /// The upstream reset the stream before it answered.
    pub(super) fn upstream_reset() -> Self {
        Self::reset(
            "remote reset",
            ResponseFlags::UPSTREAM_REMOTE_RESET,
            "upstream_reset_before_response_started{remote_reset}",
            None,
        )
    }

    /// The upstream's answer makes no sense.
    pub(super) fn upstream_protocol_error() -> Self {
        Self {
            status: 502,
            ..Self::reset(
                "protocol error",
                ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
                "upstream_reset_before_response_started{protocol_error}",
                None,
            )
        }
    }

    fn reset(
        reason: &str,
        flags: ResponseFlags,
        details: &'static str,
        transport_failure: Option<std::sync::Arc<str>>,
    ) -> Self {
        let mut body = format!(
            "upstream connect error or disconnect/reset before headers. reset reason: {reason}"
        );
        if let Some(failure) = &transport_failure {
            // Writing to a string cannot fail.
            let _ = write!(body, ", transport failure reason: {failure}");
        }
        Self {
            status: 503,
            body: body.into(),
            flags,
            details,
            location: None,
            transport_failure,
            overloaded: false,
        }
    }
}
