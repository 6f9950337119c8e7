//! Where the identity comes from: one rule, decided once at the start, and said aloud.
//!
//! The first row that applies wins.
//!
//! | what is there | source |
//! |---|---|
//! | `ITHILDIN_IDENTITY` names a source | that one |
//! | `SPIFFE_ENDPOINT_SOCKET` | the Workload API there |
//! | somebody's socket at `workload-spiffe-uds/<WORKLOAD_IDENTITY_SOCKET_FILE>` | the Workload API there |
//! | `WORKLOAD_IDENTITY_SOCKET_FILE` other than `socket` | the Workload API there, once it comes |
//! | a `workload-spiffe-uds` folder that we may not write to, as the CSI driver mounts it | the same |
//! | `FILE_MOUNTED_CERTS` | files |
//! | all three files of `workload-spiffe-credentials`, or certificate, key and root in `etc/certs` | files |
//! | istiod | its CA; of `etc/certs`, what is there |
//! | a folder of configuration, and none of these | none: an error |
//!
//! Rows three to five are SPIRE's. Once one of them applies no other CA is ever asked, however late or
//! dead the socket is: a workload that is meant for SPIRE must not run with a lesser identity.

use std::{fmt, path::PathBuf};

use ithildin_spiffe::workload_api::{ENDPOINT_ENV, WorkloadEndpoint};
use ithildin_xds::FileIdentity;

/// What the choice looks at.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) demanded: Demand,
    pub(super) endpoint: Option<WorkloadEndpoint>,
    /// Absolute.
    pub(super) workload_socket: PathBuf,
    pub(super) socket: SocketPath,
    /// `WORKLOAD_IDENTITY_SOCKET_FILE` is not Istio's own name.
    pub(super) socket_named: bool,
    pub(super) folder: SocketFolder,
    pub(super) files_only: bool,
    /// All three files of `workload-spiffe-credentials`, if they are there.
    pub(super) credentials: Option<FileIdentity>,
    /// What there is of `etc/certs`, or of what metadata names.
    pub(super) files: FileIdentity,
    /// Whether there is an istiod to ask.
    pub(super) istiod: bool,
}

/// `ITHILDIN_IDENTITY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::proxy) enum Demand {
    /// By the table.
    #[default]
    Auto,
    Spire,
    Files,
    Istiod,
}

/// What is at the path of the workload's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketPath {
    Nothing,
    /// We made it, or an agent before us in this container.
    Ours,
    Somebodys,
}

/// The folder of that path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketFolder {
    Absent,
    Writable,
    /// Mounted read-only, or of another owner.
    NotOurs,
}

/// The decision, with what to tell about it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) source: Chosen,
    pub(super) why: String,
    pub(super) otherwise: &'static str,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Chosen {
    WorkloadApi(WorkloadEndpoint),
    /// Files for certificate and roots.
    Files(FileIdentity),
    /// istiod's CA for what is not in files.
    Istiod(FileIdentity),
}

/// Nothing names a source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoSource {
    #[error(
        "there is no source of identities: set {ENDPOINT_ENV} to unix:///path/of/the/agent.sock, mount \
         SPIRE's socket at {}, or give certificates in files",
        .0.display()
    )]
    Nothing(PathBuf),
    #[error(
        "ITHILDIN_IDENTITY is istiod, but the configuration comes from --configDir; there is no istiod to ask"
    )]
    NoIstiod,
}

const SET_ENDPOINT: &str = "set SPIFFE_ENDPOINT_SOCKET or ITHILDIN_IDENTITY for another source";
const RESTART_AFTER: &str = "set SPIFFE_ENDPOINT_SOCKET, or mount SPIRE's socket before the agent starts, for SPIRE's identities";

impl Facts {
    /// Applies the table.
    pub(super) fn choose(&self) -> Result<Choice, NoSource> {
        match self.demanded {
            Demand::Auto => {}
            Demand::Spire => return Ok(self.workload_api("ITHILDIN_IDENTITY is spire".into())),
            Demand::Files => return Ok(self.of_files("ITHILDIN_IDENTITY is files".into())),
            Demand::Istiod if self.istiod => {
                return Ok(self.of_istiod("ITHILDIN_IDENTITY is istiod".into()));
            }
            Demand::Istiod => return Err(NoSource::NoIstiod),
        }
        if self.endpoint.is_some() {
            return Ok(self.workload_api(format!("{ENDPOINT_ENV} names it")));
        }
        let path = self.workload_socket.display();
        if self.socket == SocketPath::Somebodys {
            return Ok(self.workload_api(format!("somebody's socket is at {path}")));
        }
        if self.socket_named {
            let why =
                format!("WORKLOAD_IDENTITY_SOCKET_FILE says that there will be a socket at {path}");
            return Ok(self.workload_api(why));
        }
        if self.folder == SocketFolder::NotOurs {
            let why =
                format!("the folder of {path} is somebody else's, who will put a socket there");
            return Ok(self.workload_api(why));
        }
        if self.files_only {
            return Ok(self.of_files("FILE_MOUNTED_CERTS is set".into()));
        }
        if self.credentials.is_some() {
            return Ok(self.of_files("workload-spiffe-credentials has all three files".into()));
        }
        if is_complete(&self.files) {
            return Ok(self.of_files("etc/certs has certificate, key and root".into()));
        }
        match self.istiod {
            true => {
                Ok(self.of_istiod("neither SPIRE's socket nor certificate files are there".into()))
            }
            false => Err(NoSource::Nothing(self.workload_socket.clone())),
        }
    }

    fn workload_api(&self, why: String) -> Choice {
        let endpoint = self.endpoint.clone();
        let endpoint =
            endpoint.unwrap_or_else(|| WorkloadEndpoint::Unix(self.workload_socket.clone()));
        Choice {
            source: Chosen::WorkloadApi(endpoint),
            why,
            otherwise: SET_ENDPOINT,
        }
    }

    fn of_files(&self, why: String) -> Choice {
        let files = self.credentials.clone();
        Choice {
            source: Chosen::Files(files.unwrap_or_else(|| self.files.clone())),
            why,
            otherwise: RESTART_AFTER,
        }
    }

    fn of_istiod(&self, why: String) -> Choice {
        Choice {
            source: Chosen::Istiod(self.files.clone()),
            why,
            otherwise: RESTART_AFTER,
        }
    }
}

fn is_complete(files: &FileIdentity) -> bool {
    files.certificate.is_some() && files.roots.is_some()
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WorkloadApi(endpoint) => write!(f, "the Workload API at {endpoint}"),
            Self::Files(files) => write!(f, "files ({})", Names(files)),
            Self::Istiod(files) if *files == FileIdentity::default() => f.write_str("istiod's CA"),
            Self::Istiod(files) => write!(f, "istiod's CA, and files ({})", Names(files)),
        }
    }
}

/// The files by name.
struct Names<'a>(&'a FileIdentity);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certificate = self.0.certificate.iter();
        let paths = certificate.flat_map(|(chain, key)| [chain, key]);
        let paths: Vec<_> = paths
            .chain(&self.0.roots)
            .map(|path| path.display().to_string())
            .collect();
        f.write_str(&paths.join(", "))
    }
}

#[cfg(test)]
mod tests;
