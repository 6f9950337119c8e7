//! What is there at the start: the socket, its folder, and certificate files.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use ithildin_sys::file::read_regular;
use ithildin_xds::FileIdentity;
use rustix::{
    fs::{Access, access},
    io::Errno,
};

use super::choice::{Demand, Facts, SocketFolder, SocketPath};
use crate::proxy::settings::{CertificateFiles, ConfigSource, Settings};

/// Beside a socket of ours: its device and inode. It tells what an agent before us left behind from a
/// socket of SPIRE's that is dead for the moment, which we must not touch.
const MARK: &str = ".ithildin";
/// Two numbers of 64 bits.
const MAX_MARK_BYTES: usize = 64;

/// Looks at everything that the choice of the source depends on.
pub(super) fn facts(settings: &Settings) -> anyhow::Result<Facts> {
    let identity = &settings.identity;
    let path = &identity.workload_socket;
    let workload_socket = std::path::absolute(path)
        .with_context(|| format!("the folder of {} has no absolute path", path.display()))?;
    let output = settings.ca.output.as_deref();
    let credentials = CertificateFiles {
        chain: identity.credentials.join("cert-chain.pem"),
        key: identity.credentials.join("key.pem"),
        root: identity.credentials.join("root-cert.pem"),
    };
    let credentials = present(&credentials, output);
    let files_only = settings.ca.files.only;
    let only = files_only || identity.demanded == Demand::Files;
    Ok(Facts {
        demanded: identity.demanded,
        endpoint: identity.endpoint.clone(),
        socket: socket(&workload_socket),
        socket_named: identity.workload_socket_named,
        folder: folder(&workload_socket),
        workload_socket,
        files_only,
        credentials: (credentials.certificate.is_some() && credentials.roots.is_some())
            .then_some(credentials),
        files: files(settings, only, output),
        istiod: settings.source == ConfigSource::Istiod,
    })
}

/// What is at `path`. Like Istio's agent we take anything but a plain file for a socket.
pub(super) fn socket(path: &Path) -> SocketPath {
    match fs::symlink_metadata(path) {
        Err(_) => SocketPath::Nothing,
        Ok(metadata) if metadata.is_file() => SocketPath::Nothing,
        Ok(metadata) => match read_regular(&mark(path), MAX_MARK_BYTES) {
            Ok(text) if text == identify(&metadata).as_bytes() => SocketPath::Ours,
            _ => SocketPath::Somebodys,
        },
    }
}

/// Writes beside our socket that it is ours.
pub(super) fn claim(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    fs::write(mark(path), identify(&metadata))
}

/// Takes the claim back, once the socket is gone.
pub(super) fn unclaim(path: &Path) {
    // It may be gone already.
    let _ = fs::remove_file(mark(path));
}

fn mark(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(MARK);
    name.into()
}

fn identify(metadata: &fs::Metadata) -> String {
    format!("{} {}", metadata.dev(), metadata.ino())
}

fn folder(socket: &Path) -> SocketFolder {
    let Some(folder) = socket.parent() else {
        return SocketFolder::Absent;
    };
    match access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => SocketFolder::Writable,
        Err(Errno::NOENT | Errno::NOTDIR) => SocketFolder::Absent,
        Err(_) => SocketFolder::NotOurs,
    }
}

/// What there is of `etc/certs`. If files are all that there may be, what is missing is waited for; and
/// where nothing is in `etc/certs`, those that the metadata names stand for the workload.
fn files(settings: &Settings, only: bool, output: Option<&Path>) -> FileIdentity {
    let files = &settings.ca.files;
    let found = present(&files.own, output);
    if !only {
        return found;
    }
    let named = files.client.as_ref().or(files.server.as_ref());
    let named = named.filter(|_| found == FileIdentity::default());
    let CertificateFiles { chain, key, root } = named.unwrap_or(&files.own);
    let given = |path: &PathBuf| Some(path.clone()).filter(|path| !path.as_os_str().is_empty());
    FileIdentity {
        certificate: given(chain).zip(given(key)),
        roots: given(root),
    }
}

/// The files that exist. Those that we write ourselves are nobody's word but ours.
fn present(files: &CertificateFiles, output: Option<&Path>) -> FileIdentity {
    let exists = |path: &Path| path.is_file() && !is_in(path, output);
    let certificate = exists(&files.chain) && exists(&files.key);
    FileIdentity {
        certificate: certificate.then(|| (files.chain.clone(), files.key.clone())),
        roots: exists(&files.root).then(|| files.root.clone()),
    }
}

fn is_in(path: &Path, folder: Option<&Path>) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    folder
        .zip(path.parent())
        .is_some_and(|(folder, parent)| real(folder).is_some() && real(folder) == real(parent))
}

#[cfg(test)]
mod tests;
