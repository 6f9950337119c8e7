//! Which roots judge istiod's certificate: Istio's order of files, for discovery and for the CA.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use ithildin_spiffe::x509;
use rustls::{RootCertStore, pki_types::CertificateDer};

use super::{Svid, SvidError};

/// `XDS_ROOT_CA` and `CA_ROOT_CA`: the roots of the operating system.
const SYSTEM: &str = "SYSTEM";
/// Mounted by hand in old set-ups.
const MOUNTED_ROOT: &str = "etc/certs/root-cert.pem";
/// The mesh's root, from the ConfigMap that istiod writes into each namespace.
const MESH_ROOT: &str = "var/run/secrets/istio/root-cert.pem";
/// The root in a `PROV_CERT` folder, with the client certificate beside it.
const PROVISIONED_ROOT: &str = "root-cert.pem";
const PROVISIONED_CERTIFICATE: &str = "cert-chain.pem";
const PROVISIONED_KEY: &str = "key.pem";
/// Where `proxyMetadata` names file-mounted certificates.
const METADATA_ROOT: &str = "ISTIO_META_TLS_CLIENT_ROOT_CERT";
const METADATA_CERTIFICATE: &str = "ISTIO_META_TLS_CLIENT_CERT_CHAIN";
const METADATA_KEY: &str = "ISTIO_META_TLS_CLIENT_KEY";

/// What the rules look at.
#[derive(Clone, Debug)]
pub struct RootRules<'a> {
    /// The working folder, to which Istio's paths are relative.
    pub folder: &'a Path,
    /// `XDS_ROOT_CA` or `CA_ROOT_CA`; empty if not set.
    pub root_ca: &'a str,
    /// `PROV_CERT`; empty if not set.
    pub prov_cert: &'a str,
    /// `FILE_MOUNTED_CERTS`.
    pub file_mounted: bool,
    /// `PILOT_CERT_PROVIDER`.
    pub pilot_cert_provider: &'a str,
    /// `proxyMetadata` of the proxy configuration.
    pub proxy_metadata: &'a BTreeMap<String, String>,
}

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
    #[error("{setting} names no file: {}", path.display())]
    Missing { setting: String, path: PathBuf },
    #[error(
        "PILOT_CERT_PROVIDER is none, so there is no root for istiod; set {0} to a file or to SYSTEM"
    )]
    NoProvider(&'static str),
    #[error("FILE_MOUNTED_CERTS is set, but proxyMetadata has no {METADATA_ROOT}")]
    NotInMetadata,
    #[error("root {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("root {}: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error("the operating system has no usable roots: {0}")]
    System(String),
    #[error("no SPIFFE bundle: {0}")]
    Bundle(#[from] SvidError),
}

impl RootRules<'_> {
    /// Roots for discovery, by Istio's `FindRootCAForXDS`.
    ///
    /// # Errors
    /// When the rule that applies names no file. That of `PROV_CERT` may appear later.
    pub fn for_xds(&self) -> Result<Roots, RootError> {
        let mounted = self.folder.join(MOUNTED_ROOT);
        match self.root_ca {
            SYSTEM => Ok(Roots::System),
            "" if mounted.exists() => Ok(Roots::File(mounted)),
            "" if !self.prov_cert.is_empty() => Ok(self.provisioned()),
            "" if self.file_mounted => self.in_metadata(),
            "" => self.of_mesh("XDS_ROOT_CA"),
            path => existing("XDS_ROOT_CA", self.folder.join(path)),
        }
    }

    /// Roots for the CA, by Istio's `FindRootCAForCA`.
    ///
    /// # Errors
    /// As [`RootRules::for_xds`].
    pub fn for_ca(&self) -> Result<Roots, RootError> {
        match self.root_ca {
            SYSTEM => Ok(Roots::System),
            "" if self.pilot_cert_provider == "custom" => {
                existing("PILOT_CERT_PROVIDER custom", self.folder.join(MOUNTED_ROOT))
            }
            "" if !self.prov_cert.is_empty() => Ok(self.provisioned()),
            "" => self.of_mesh("CA_ROOT_CA"),
            path => existing("CA_ROOT_CA", self.folder.join(path)),
        }
    }

    /// The client certificate for discovery, by Istio's `GetKeyCertsForXDS`.
    pub fn client_for_xds(&self) -> Option<ClientFiles> {
        if !self.prov_cert.is_empty() || !self.file_mounted {
            return self.client_for_ca();
        }
        let named = |key| Some(self.folder.join(self.proxy_metadata.get(key)?));
        Some(ClientFiles {
            certificate: named(METADATA_CERTIFICATE)?,
            key: named(METADATA_KEY)?,
        })
    }

    /// The client certificate for the CA, by Istio's `GetKeyCertsForCA`. It may appear later.
    pub fn client_for_ca(&self) -> Option<ClientFiles> {
        let provisioned = self.folder.join(self.prov_cert);
        (!self.prov_cert.is_empty()).then(|| ClientFiles {
            certificate: provisioned.join(PROVISIONED_CERTIFICATE),
            key: provisioned.join(PROVISIONED_KEY),
        })
    }

    fn provisioned(&self) -> Roots {
        Roots::File(self.folder.join(self.prov_cert).join(PROVISIONED_ROOT))
    }

    fn in_metadata(&self) -> Result<Roots, RootError> {
        let path = self.proxy_metadata.get(METADATA_ROOT);
        let path = path.ok_or(RootError::NotInMetadata)?;
        existing(METADATA_ROOT, self.folder.join(path))
    }

    fn of_mesh(&self, variable: &'static str) -> Result<Roots, RootError> {
        if self.pilot_cert_provider == "none" {
            return Err(RootError::NoProvider(variable));
        }
        existing("the root of the mesh", self.folder.join(MESH_ROOT))
    }
}

fn existing(setting: &str, path: PathBuf) -> Result<Roots, RootError> {
    if path.exists() {
        return Ok(Roots::File(path));
    }
    let setting = setting.to_owned();
    Err(RootError::Missing { setting, path })
}

impl Roots {
    pub(super) fn load(&self) -> Result<RootCertStore, RootError> {
        match self {
            Self::System => system(),
            Self::File(path) => file(path),
            Self::Spiffe(svid) => Ok(bundle(&svid.roots()?)),
        }
    }
}

fn system() -> Result<RootCertStore, RootError> {
    let native = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(native.certs);
    if added > 0 {
        return Ok(store);
    }
    let reasons: Vec<_> = native.errors.iter().map(ToString::to_string).collect();
    Err(RootError::System(reasons.join("; ")))
}

fn file(path: &Path) -> Result<RootCertStore, RootError> {
    let malformed = |reason: String| RootError::Malformed {
        path: path.to_path_buf(),
        reason,
    };
    let pem = std::fs::read(path).map_err(|source| RootError::Read {
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
