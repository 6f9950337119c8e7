//! Where gRPC services listen: a Unix socket, or TCP on loopback.

use std::{
    fs::{self, DirBuilder},
    io,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::watch;
use tonic::{service::Routes, transport::Server};

use crate::accept::connections;

/// A peer that is silent for this long is asked for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long it may take to give it.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams at a time on one connection. A proxy has one for each secret, and those beyond the limit
/// would wait for ever, since none ends; Envoy alone opens another connection.
const MAX_STREAMS: u32 = 1024;

/// Of folders that are made for a socket.
const FOLDER_MODE: u32 = 0o755;

/// A socket that services can be served on. The file of a Unix socket goes with it.
#[derive(Debug)]
pub struct Socket {
    kind: Kind,
    file: Option<SocketFile>,
}

#[derive(Debug)]
enum Kind {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Socket {
    /// Opens a Unix socket with the permission bits `mode`, and the folder for it if there is none.
    ///
    /// A dead socket of our own user is replaced. A live one, another user's or a file of another
    /// kind is left alone.
    ///
    /// # Errors
    /// `AddrInUse`, or what the system says, with the path in the text.
    pub fn unix(path: &Path, mode: u32) -> io::Result<Self> {
        check_ours(path)?;
        if let Some(folder) = path.parent() {
            create_folder(folder).map_err(|error| {
                let folder = folder.display();
                io::Error::new(error.kind(), format!("cannot create {folder}: {error}"))
            })?;
        }
        let listener = ithildin_sys::socket::listen_unix(path, mode)?;
        Ok(Self {
            kind: Kind::Unix(listener),
            file: SocketFile::at(path),
        })
    }

    /// Opens a TCP socket. Callers have no identity there: it must be a loopback address.
    ///
    /// # Errors
    /// `InvalidInput` for another address, or what the system says, with the address in the text.
    pub fn tcp(addr: SocketAddr) -> io::Result<Self> {
        if !addr.ip().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{addr} is not a loopback address"),
            ));
        }
        let options = ithildin_sys::socket::ListenOptions {
            reuse_port: false,
            ..Default::default()
        };
        Ok(Self {
            kind: Kind::Tcp(ithildin_sys::socket::listen(addr, &options)?),
            file: None,
        })
    }

    /// The address of a TCP socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Unix(_) => None,
            Kind::Tcp(listener) => listener.local_addr().ok(),
        }
    }

    /// Serves `routes` until `shutdown` ends. Then connections are cut, since discovery streams never
    /// end by themselves, and a Unix socket is removed, if it is still ours.
    ///
    /// # Errors
    /// When the socket cannot be used at all. A connection that fails ends alone.
    pub async fn serve(self, routes: Routes, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let _file = self.file;
        // Dropped at the end, which cuts the connections that are left.
        let (_alive, cut) = watch::channel(());
        let router = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_concurrent_streams(MAX_STREAMS)
            .add_routes(routes);
        match self.kind {
            Kind::Unix(listener) => {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                tokio::select! {
                    served = router.serve_with_incoming(connections(listener, cut)) => served,
                    () = shutdown => Ok(()),
                }
            }
            Kind::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                tokio::select! {
                    served = router.serve_with_incoming(connections(listener, cut)) => served,
                    () = shutdown => Ok(()),
                }
            }
        }
        .map_err(io::Error::other)
    }
}

/// Whatever the umask: who may write to the folder could put a socket of his own into our place.
fn create_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(folder)
}

/// Removes a socket's file when it is dropped, unless another file has its path now.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    fn at(path: &Path) -> Option<Self> {
        Some(Self {
            path: path.to_path_buf(),
            inode: inode(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path) == Some(self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path)
        .ok()
        .map(|metadata| metadata.ino())
}

fn check_ours(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() == own {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        format!(
            "cannot listen on {}: what is there belongs to user {}; remove it or choose another path",
            path.display(),
            metadata.uid()
        ),
    ))
}
