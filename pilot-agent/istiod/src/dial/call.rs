//! What each call says of us: a token, the cluster, and headers of the operator's.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ithildin_sys::file::read_regular;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tracing::warn;

/// Where the kubelet projects the token, under the working folder.
pub const TOKEN_FILE: &str = "./var/run/secrets/tokens/istio-token";
/// Of Istio's multi-cluster conventions.
const CLUSTER_ID: &str = "clusterid";
const AUTHORIZATION: &str = "authorization";
/// A token is a few KiB; the HTTP/2 peer takes no larger header.
const MAX_TOKEN_BYTES: usize = 64 << 10;

/// The metadata of every call.
#[derive(Clone, Debug, Default)]
pub struct CallHeaders {
    token: Option<PathBuf>,
    /// That there is none was told.
    missing: Arc<AtomicBool>,
    fixed: Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>,
}

/// Why a call cannot say what it should.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("token {}: {source}", path.display())]
    Token { path: PathBuf, source: io::Error },
    #[error("token {}: more than {MAX_TOKEN_BYTES} bytes, or not one line of ASCII text", path.display())]
    MalformedToken { path: PathBuf },
    #[error("header {0:?}: the name or the value cannot be sent as ASCII metadata")]
    Header(String),
}

impl CallHeaders {
    /// `token`: a file that is read for each call; where there is none, the call has no token.
    /// `cluster_id` is left out if it is empty. `extra`: names and values of `XDS_HEADER_*` or
    /// `CA_HEADER_*`, without the prefix; gRPC lowers the names.
    ///
    /// # Errors
    /// A header that gRPC cannot carry.
    pub fn new<'a>(
        token: Option<PathBuf>,
        cluster_id: &'a str,
        extra: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, CallError> {
        let cluster = (!cluster_id.is_empty()).then_some((CLUSTER_ID, cluster_id));
        let fixed = cluster
            .into_iter()
            .chain(extra)
            .map(|(name, value)| header(name, value))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            token,
            missing: Arc::default(),
            fixed,
        })
    }

    pub(super) fn apply(&self, metadata: &mut MetadataMap, token: bool) -> Result<(), CallError> {
        for (name, value) in &self.fixed {
            metadata.append(name.clone(), value.clone());
        }
        if let Some(path) = self.token.as_ref().filter(|_| token) {
            let bearer = bearer(path)?;
            let was_missing = self.missing.swap(bearer.is_none(), Ordering::Relaxed);
            match bearer {
                Some(bearer) => _ = metadata.insert(AUTHORIZATION, bearer),
                None if !was_missing => warn!(
                    token = %path.display(),
                    "there is no token, without which istiod knows us by a client certificate or not at all; \
                     mount the service account's, of the audience istio-ca"
                ),
                None => {}
            }
        }
        Ok(())
    }
}

fn header(
    name: &str,
    value: &str,
) -> Result<(MetadataKey<Ascii>, MetadataValue<Ascii>), CallError> {
    let unsendable = || CallError::Header(name.to_owned());
    let key = name.to_ascii_lowercase();
    let key = MetadataKey::from_bytes(key.as_bytes()).map_err(|_| unsendable())?;
    let value = value.parse().map_err(|_| unsendable())?;
    Ok((key, value))
}

fn bearer(path: &Path) -> Result<Option<MetadataValue<Ascii>>, CallError> {
    let failed = |source| CallError::Token {
        path: path.to_path_buf(),
        source,
    };
    let malformed = || CallError::MalformedToken {
        path: path.to_path_buf(),
    };
    let bytes = match read_regular(path, MAX_TOKEN_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Err(malformed()),
        Err(error) => return Err(failed(error)),
    };
    let token = bytes.trim_ascii();
    if token.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(token).map_err(|_| malformed())?;
    let mut value: MetadataValue<Ascii> =
        format!("Bearer {text}").parse().map_err(|_| malformed())?;
    value.set_sensitive(true);
    Ok(Some(value))
}
