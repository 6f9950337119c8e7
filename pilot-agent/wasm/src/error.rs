//! Why there is no module.

use std::{io, net::IpAddr, path::PathBuf, time::Duration};

use http::StatusCode;
use ithildin_web_tls::NoSystemRoots;

/// Why a module could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0:?} is no URL")]
    Url(String),
    #[error("{0:?} is no image: {1}")]
    Reference(String, &'static str),
    #[error("the scheme of {0} is none of http, https and oci")]
    Scheme(String),
    #[error("{0} holds a user name: give a pull secret instead")]
    UserInfo(String),
    #[error("{host}: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("{host} is at {address}, {reason}: it is never asked for modules")]
    Blocked {
        host: String,
        address: IpAddr,
        reason: &'static str,
    },
    #[error("no connection to {host}: {source}")]
    Connect { host: String, source: io::Error },
    #[error("no TLS with {host}: {source}")]
    Tls { host: String, source: io::Error },
    #[error(transparent)]
    Roots(#[from] NoSystemRoots),
    #[error("{host}: {source}")]
    Exchange { host: String, source: hyper::Error },
    #[error("more than {0} redirects")]
    Redirects(usize),
    #[error("a redirect to {0:?} that is not followed: {1}")]
    Redirect(String, &'static str),
    #[error("{url}: status {status}")]
    Status { url: String, status: StatusCode },
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    #[error("nothing within {0:?}")]
    Timeout(Duration),
    #[error("the body ends early: {0}")]
    Broken(hyper::Error),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{count} modules are in use already, and no more are kept")]
    Full { count: usize },
    #[error("the checksum {0:?} is no SHA-256 in hexadecimal")]
    NoChecksum(String),
    #[error("the checksum is {found}, not {expected}")]
    Checksum { found: String, expected: String },
    #[error("not a Wasm module: {0}")]
    NotWasm(&'static str),
    #[error("the archive: {0}")]
    Archive(io::Error),
    #[error("the archive has no plugin.wasm")]
    NoPlugin,
    #[error("the image's manifest: {0}")]
    Manifest(String),
    #[error("the registry's challenge: {0}")]
    Challenge(&'static str),
    #[error("the pull secret: {0}")]
    Secret(&'static str),
    #[error(
        "the registry {registry} does not speak TLS ({source}): name it in WASM_INSECURE_REGISTRIES if it may do without"
    )]
    Plaintext { registry: String, source: Box<Self> },
    #[error("the fetch ended before its time")]
    Interrupted,
}

/// Compares two SHA-256 sums in hexadecimal.
///
/// # Errors
/// When they differ.
pub(crate) fn verify(found: &str, expected: &str) -> Result<(), FetchError> {
    match found == expected {
        true => Ok(()),
        false => Err(FetchError::Checksum {
            found: found.to_owned(),
            expected: expected.to_owned(),
        }),
    }
}

impl FetchError {
    /// Whether the same may go well a moment later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Status { status, .. } => {
                let for_ever = [
                    StatusCode::NOT_IMPLEMENTED,
                    StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                    StatusCode::NETWORK_AUTHENTICATION_REQUIRED,
                ];
                status.is_server_error() && !for_ever.contains(status)
            }
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Exchange { .. }
            | Self::Timeout(_)
            | Self::Broken(_) => true,
            _ => false,
        }
    }

    /// What the metrics call it.
    pub(crate) fn result(&self) -> &'static str {
        match self {
            Self::Checksum { .. } => "checksum_mismatched",
            Self::Manifest(_) | Self::Challenge(_) | Self::Secret(_) | Self::Plaintext { .. } => {
                "manifest_failure"
            }
            Self::NotWasm(_) | Self::NoPlugin | Self::Archive(_) => "fetch_failure",
            _ => "download_failure",
        }
    }
}
