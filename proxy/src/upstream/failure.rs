//! Why there is no upstream connection, in Envoy's words.

use std::{fmt, io, sync::Arc};

use crate::access_log::ResponseFlags;
use crate::config::cluster::Endpoint;

/// No upstream connection.
#[derive(Clone, Debug)]
pub struct UpstreamFailure {
    pub kind: FailureKind,
    /// The endpoint that failed; `None` if none was chosen.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Envoy's `UPSTREAM_TRANSPORT_FAILURE_REASON`.
    pub transport_failure_reason: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The configuration has no such cluster.
    NoCluster,
    NoHealthyUpstream,
    /// The name of the request has no address.
    NotResolved,
    /// There are too many names, or too many requests wait for addresses.
    TooManyNames,
    Overflow,
    LocalConnectionFailure,
    RemoteConnectionFailure,
    ConnectionTimeout,
}

impl FailureKind {
    /// Envoy's response flag.
    pub fn flags(self) -> ResponseFlags {
        match self {
            Self::NoCluster => ResponseFlags::NO_CLUSTER_FOUND,
            Self::NoHealthyUpstream => ResponseFlags::NO_HEALTHY_UPSTREAM,
            Self::NotResolved => ResponseFlags::DNS_RESOLUTION_FAILED,
            Self::Overflow | Self::TooManyNames => ResponseFlags::UPSTREAM_OVERFLOW,
            Self::LocalConnectionFailure
            | Self::RemoteConnectionFailure
            | Self::ConnectionTimeout => ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
        }
    }

    /// Envoy's reset reason, as it stands in bodies (`reset reason: ...`); its details have
    /// underscores for the spaces.
    pub fn reset_reason(self) -> &'static str {
        match self {
            Self::NoCluster => "cluster not found",
            Self::NoHealthyUpstream => "no healthy upstream",
            Self::NotResolved => "DNS resolution failure",
            Self::TooManyNames => "DNS cache overflow",
            Self::Overflow => "overflow",
            Self::LocalConnectionFailure => "local connection failure",
            Self::RemoteConnectionFailure => "remote connection failure",
            Self::ConnectionTimeout => "connection timeout",
        }
    }
}

impl From<FailureKind> for UpstreamFailure {
    fn from(kind: FailureKind) -> Self {
        Self {
            kind,
            endpoint: None,
            transport_failure_reason: None,
        }
    }
}

impl UpstreamFailure {
    pub(super) fn new(kind: FailureKind, endpoint: &Arc<Endpoint>, reason: Option<String>) -> Self {
        Self {
            kind,
            endpoint: Some(Arc::clone(endpoint)),
            transport_failure_reason: reason.map(Arc::from),
        }
    }
}

impl fmt::Display for UpstreamFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.reset_reason())?;
        match &self.transport_failure_reason {
            Some(reason) => write!(f, ", transport failure reason: {reason}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for UpstreamFailure {}

/// The system's text for an error, as strerror(3) has it: `Connection refused`.
pub(super) fn system_text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.into(),
        None => text,
    }
}
