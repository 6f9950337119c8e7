//! Where the Workload API is (SPIFFE_Workload_Endpoint.md, section 4).

use std::{env, fmt, net::SocketAddr, path::PathBuf, str::FromStr};

/// The environment variable that names the endpoint.
pub const ENDPOINT_ENV: &str = "SPIFFE_ENDPOINT_SOCKET";

/// A socket of the Workload API: `unix:///path`, `unix:/path`, `tcp://ip:port` or `tcp:ip:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WorkloadEndpoint {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// Why a text is not an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("{ENDPOINT_ENV} is not set; set it to unix:///path/of/the/agent.sock")]
    NotSet,
    #[error("{0:?} has neither the scheme unix: nor tcp:; write unix:///path or tcp://ip:port")]
    Scheme(String),
    #[error("{0:?} has no absolute path; write unix:///path")]
    Path(String),
    #[error("{0:?} has an authority; a Unix socket has only a path: write unix:///path")]
    Authority(String),
    #[error("{0:?} has a query or a fragment; a socket has none")]
    QueryOrFragment(String),
    #[error(
        "{0:?} is not an IP address and a port; host names are not allowed: write tcp://ip:port"
    )]
    Address(String),
}

impl WorkloadEndpoint {
    /// From [`ENDPOINT_ENV`].
    pub fn from_env() -> Result<Self, EndpointError> {
        match env::var(ENDPOINT_ENV) {
            Ok(text) if !text.is_empty() => Self::parse(&text),
            _ => Err(EndpointError::NotSet),
        }
    }

    /// Parses one of the four forms.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        if text.contains(['?', '#']) {
            return Err(EndpointError::QueryOrFragment(text.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("unix:") {
            return unix(text, rest);
        }
        if let Some(rest) = text.strip_prefix("tcp:") {
            let address = rest.strip_prefix("//").unwrap_or(rest);
            return match address.parse() {
                Ok(address) => Ok(Self::Tcp(address)),
                Err(_) => Err(EndpointError::Address(text.to_owned())),
            };
        }
        Err(EndpointError::Scheme(text.to_owned()))
    }
}

fn unix(text: &str, rest: &str) -> Result<WorkloadEndpoint, EndpointError> {
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some("") => return Err(EndpointError::Path(text.to_owned())),
        Some(_) => return Err(EndpointError::Authority(text.to_owned())),
        None => rest,
    };
    if !path.starts_with('/') || path.len() < 2 {
        return Err(EndpointError::Path(text.to_owned()));
    }
    Ok(WorkloadEndpoint::Unix(PathBuf::from(path)))
}

impl FromStr for WorkloadEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        Self::parse(text)
    }
}

impl fmt::Display for WorkloadEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}
