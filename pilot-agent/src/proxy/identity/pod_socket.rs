//! SDS at Istio's own path, for other programs of the Pod: proxyless gRPC, an Envoy of the user's.
//!
//! Only where the path is ours to write to, and never over a socket of somebody else's, however dead.
//! When such a socket comes later, it is told and left alone: an identity does not change its source
//! while it runs.

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use ithildin_spiffe::workload_api::WorkloadEndpoint;
use ithildin_xds::{SdsServer, serve::Socket};
use tokio::time::sleep;
use tonic::service::Routes;
use tracing::{info, warn};

use super::{choice::SocketPath, probe};

/// Every user of the Pod may ask (Istio's mode).
const SOCKET_MODE: u32 = 0o666;
/// Istio's mode of the folder.
const FOLDER_MODE: u32 = 0o750;
/// How often to look whether somebody took the path.
const POLL: Duration = Duration::from_secs(5);

pub(super) struct PodSocket {
    /// Absolute.
    pub(super) path: PathBuf,
    /// Whether we make the folder: in a Pod it is mounted, on a machine of Istio's it is not.
    pub(super) create_folder: bool,
    /// Where our identity comes from, for the log.
    pub(super) source: String,
}

impl PodSocket {
    /// Serves until it is dropped.
    pub(super) async fn serve(self, sds: SdsServer) {
        match self.open() {
            Ok(Some(socket)) => {
                info!(socket = %self.path.display(), "SDS for other programs of the Pod");
                tokio::select! {
                    served = socket.serve(Routes::new(sds.into_service()), std::future::pending()) => {
                        if let Err(error) = served {
                            warn!(%error, socket = %self.path.display(), "SDS has ended");
                        }
                    }
                    () = self.watch() => {}
                }
            }
            Ok(None) => self.watch().await,
            Err(error) => {
                warn!(%error, "there is no SDS for other programs of the Pod");
                self.watch().await;
            }
        }
    }

    /// `None` where it is not for us to serve.
    fn open(&self) -> io::Result<Option<Socket>> {
        if probe::socket(&self.path) == SocketPath::Somebodys {
            return Ok(None);
        }
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        if !folder.is_dir() {
            if !self.create_folder {
                return Ok(None);
            }
            DirBuilder::new()
                .recursive(true)
                .mode(FOLDER_MODE)
                .create(folder)?;
        }
        let socket = Socket::unix(&self.path, SOCKET_MODE)?;
        probe::claim(&self.path)?;
        Ok(Some(socket))
    }

    /// Tells when a socket of somebody else's comes.
    async fn watch(&self) {
        let mut told = probe::socket(&self.path) == SocketPath::Somebodys;
        loop {
            sleep(POLL).await;
            if !told && probe::socket(&self.path) == SocketPath::Somebodys {
                told = true;
                warn!(
                    socket = %self.path.display(),
                    source = self.source,
                    "somebody's socket has come; the identity stays with its source until a restart"
                );
            }
        }
    }
}

impl Drop for PodSocket {
    fn drop(&mut self) {
        if probe::socket(&self.path) == SocketPath::Nothing {
            probe::unclaim(&self.path);
        }
    }
}

/// Whether the Workload API is at that very path.
pub(super) fn is_at(endpoint: &WorkloadEndpoint, path: &Path) -> bool {
    matches!(endpoint, WorkloadEndpoint::Unix(socket) if socket == path)
}
