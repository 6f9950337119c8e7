//! The roots that judge istiod's certificate.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use ithildin_spiffe::x509;
use ithildin_sys::file::read_regular;
use ithildin_web_tls::{NoSystemRoots, system_roots};
use rustls::{RootCertStore, pki_types::CertificateDer};

use super::{Svid, SvidError};

/// The largest file of certificates or of a key: ten times the roots of the web.
pub(super) const MAX_PEM_BYTES: usize = 4 << 20;

/// Roots, read anew for each connection.
#[derive(Clone, Debug)]
pub enum Roots {
    System,
    /// PEM.
    File(PathBuf),
    /// The bundle of our own SPIFFE trust domain.
    Spiffe(Svid),
}

/// A client certificate and its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Why there are no roots.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("root {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("root {}: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error(transparent)]
    System(#[from] NoSystemRoots),
    #[error("no SPIFFE bundle: {0}")]
    Bundle(#[from] SvidError),
}

impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("what the operating system trusts"),
            Self::File(path) => write!(f, "what {} holds", path.display()),
            Self::Spiffe(_) => f.write_str("the bundle of our own SPIFFE trust domain"),
        }
    }
}

impl Roots {
    pub(super) fn load(&self) -> Result<RootCertStore, RootError> {
        match self {
            Self::System => Ok(system_roots()?),
            Self::File(path) => file(path),
            Self::Spiffe(svid) => Ok(bundle(&svid.roots()?)),
        }
    }
}

fn file(path: &Path) -> Result<RootCertStore, RootError> {
    let malformed = |reason: String| RootError::Malformed {
        path: path.to_path_buf(),
        reason,
    };
    let pem = read_regular(path, MAX_PEM_BYTES).map_err(|source| RootError::Read {
        path: path.to_path_buf(),
        source,
    })?;
    let roots = x509::certificates_from_pem(&pem).map_err(|error| malformed(error.to_string()))?;
    let mut store = RootCertStore::empty();
    for root in roots {
        store
            .add(root)
            .map_err(|error| malformed(error.to_string()))?;
    }
    match store.is_empty() {
        true => Err(malformed("no certificate".into())),
        false => Ok(store),
    }
}

fn bundle(roots: &[CertificateDer<'static>]) -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    store
}
