//! Which roots vouch for istiod and for its CA.
//!
//! Files come and go while we run (a virtual machine gets its root late), so the rules are applied when
//! a connection is made.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::env::Env;

/// Old manifests mount the root here.
const OLD_MOUNT: &str = "./etc/certs/root-cert.pem";
/// The config map `istio-ca-root-cert`, as the injection template mounts it.
const CONFIG_MAP: &str = "./var/run/secrets/istio/root-cert.pem";
/// The root in the folder of provisioned certificates.
const ROOT_FILE: &str = "root-cert.pem";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// The operating system's (`SYSTEM`).
    System,
    File(PathBuf),
}

/// `PILOT_CERT_PROVIDER`: who signed istiod's certificate, as far as it tells where its root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PilotCertProvider {
    Istiod,
    Custom,
    None,
}

/// What may name the root, in order of precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RootRules {
    /// `XDS_ROOT_CA` or `CA_ROOT_CA`.
    pub(crate) explicit: Option<Root>,
    pub(crate) provider: PilotCertProvider,
    /// `PROV_CERT`.
    pub(crate) provisioned: Option<PathBuf>,
    /// With `FILE_MOUNTED_CERTS`: `ISTIO_META_TLS_CLIENT_ROOT_CERT`.
    pub(crate) mounted: Option<PathBuf>,
}

/// No root vouches for the peer.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum RootError {
    #[error("the root certificate {} for {peer} does not exist; mount it, or set {variable}", path.display())]
    Missing {
        peer: &'static str,
        path: PathBuf,
        variable: &'static str,
    },
    #[error("PILOT_CERT_PROVIDER is none, but {peer} needs a root certificate; set {variable}")]
    NoProvider {
        peer: &'static str,
        variable: &'static str,
    },
}

impl Root {
    pub(super) fn parse(text: &str) -> Self {
        match text {
            "SYSTEM" => Self::System,
            path => Self::File(path.into()),
        }
    }
}

impl PilotCertProvider {
    pub(super) fn resolve(env: &Env) -> Self {
        match env.text("PILOT_CERT_PROVIDER") {
            Some("none") => Self::None,
            Some("custom") => Self::Custom,
            // istiod, kubernetes and k8s.io/<signer>: the config map has the root.
            _ => Self::Istiod,
        }
    }
}

impl RootRules {
    /// For the stream of xDS.
    pub(crate) fn for_xds(&self) -> Result<Root, RootError> {
        let (peer, variable) = ("istiod", "XDS_ROOT_CA");
        match &self.explicit {
            Some(Root::System) => return Ok(Root::System),
            Some(Root::File(path)) => return existing(path, peer, variable),
            None => {}
        }
        if Path::new(OLD_MOUNT).is_file() {
            return Ok(Root::File(OLD_MOUNT.into()));
        }
        if let Some(folder) = &self.provisioned {
            return Ok(Root::File(folder.join(ROOT_FILE)));
        }
        if let Some(path) = &self.mounted {
            return existing(path, peer, variable);
        }
        match self.provider {
            PilotCertProvider::None => Err(RootError::NoProvider { peer, variable }),
            _ => existing(Path::new(CONFIG_MAP), peer, variable),
        }
    }

    /// For calls of the CA.
    pub(crate) fn for_ca(&self) -> Result<Root, RootError> {
        let (peer, variable) = ("the CA", "CA_ROOT_CA");
        match &self.explicit {
            Some(Root::System) => return Ok(Root::System),
            Some(Root::File(path)) => return existing(path, peer, variable),
            None => {}
        }
        if self.provider == PilotCertProvider::Custom {
            return existing(Path::new(OLD_MOUNT), peer, variable);
        }
        if let Some(folder) = &self.provisioned {
            return Ok(Root::File(folder.join(ROOT_FILE)));
        }
        match self.provider {
            PilotCertProvider::None => Err(RootError::NoProvider { peer, variable }),
            _ => existing(Path::new(CONFIG_MAP), peer, variable),
        }
    }
}

fn existing(path: &Path, peer: &'static str, variable: &'static str) -> Result<Root, RootError> {
    match path.is_file() {
        true => Ok(Root::File(path.to_path_buf())),
        false => Err(RootError::Missing {
            peer,
            path: path.to_path_buf(),
            variable,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> RootRules {
        RootRules {
            explicit: None,
            provider: PilotCertProvider::Istiod,
            provisioned: None,
            mounted: None,
        }
    }

    #[test]
    fn the_first_that_is_said_wins() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("root.pem");
        std::fs::write(&file, "").unwrap();
        let explicit = RootRules {
            explicit: Some(Root::File(file.clone())),
            provisioned: Some("/prov".into()),
            ..rules()
        };
        assert_eq!(explicit.for_xds(), Ok(Root::File(file.clone())));
        assert_eq!(explicit.for_ca(), Ok(Root::File(file.clone())));
        let provisioned = RootRules {
            provisioned: Some("/prov".into()),
            mounted: Some(file.clone()),
            ..rules()
        };
        let late = Ok(Root::File("/prov/root-cert.pem".into()));
        assert_eq!(provisioned.for_xds(), late, "it may come later");
        assert_eq!(provisioned.for_ca(), late);
        let mounted = RootRules {
            mounted: Some(file.clone()),
            ..rules()
        };
        assert_eq!(mounted.for_xds(), Ok(Root::File(file)));
    }

    #[test]
    fn a_missing_root_says_what_to_set() {
        let error = rules().for_xds().unwrap_err().to_string();
        assert!(
            error.contains(CONFIG_MAP) && error.contains("XDS_ROOT_CA"),
            "{error}"
        );
        let none = RootRules {
            provider: PilotCertProvider::None,
            ..rules()
        };
        let error = none.for_ca().unwrap_err().to_string();
        assert!(
            error.contains("PILOT_CERT_PROVIDER") && error.contains("CA_ROOT_CA"),
            "{error}"
        );
        let missing = RootRules {
            explicit: Some(Root::File("/nonexistent.pem".into())),
            ..rules()
        };
        assert!(missing.for_xds().is_err() && missing.for_ca().is_err());
    }
}
