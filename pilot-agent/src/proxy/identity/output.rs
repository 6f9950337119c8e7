//! `OUTPUT_CERTS`: the identity as files, for programs that speak neither SDS nor the Workload API.
//!
//! The files follow the identity, whatever its source, whether or not anybody subscribes to a secret.
//! Each is replaced in one step; a failure is logged and tried again. What was written stays when the
//! source has nothing more to say: its reader sees by itself that it expires.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use ithildin_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use ithildin_sys::file::read_regular;
use ithildin_xds::{
    LocalSecrets, SecretRef, SecretState, SecretSubscriber,
    sds::{self, DEFAULT_BUNDLE, DEFAULT_SVID},
};
use tokio::{sync::watch, time::sleep};
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

/// Between two attempts to write: disks fill up and are emptied.
const RETRY: Duration = Duration::from_secs(2);
/// For the owner alone.
const PRIVATE: u32 = 0o600;
/// In a Pod: other containers share the volume and not our user (Istio's rule).
const SHARED: u32 = 0o644;

const KEY: &str = "key.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOTS: &str = "root-cert.pem";

/// Where, and for whom.
#[derive(Clone, Debug)]
pub(super) struct Output {
    folder: PathBuf,
    mode: u32,
}

impl Output {
    pub(super) fn new(folder: &Path, in_kubernetes: bool) -> Self {
        Self {
            folder: folder.to_path_buf(),
            mode: match in_kubernetes {
                true => SHARED,
                false => PRIVATE,
            },
        }
    }

    /// Writes what `secrets` say, now and later, for ever.
    pub(super) async fn follow(self, secrets: LocalSecrets) {
        let subscribe = |name: &str| {
            secrets.subscribe(&SecretRef {
                name: name.to_owned(),
                source: None,
            })
        };
        let mut certificate = subscribe(DEFAULT_SVID);
        let mut trust = subscribe(DEFAULT_BUNDLE);
        let mut complaint = String::new();
        loop {
            let files = contents(&mut certificate, &mut trust);
            let written = self.write(&files);
            let again = written.is_err();
            match written {
                Ok(0) => {}
                Ok(count) => {
                    complaint.clear();
                    info!(folder = %self.folder.display(), files = count, "certificates are written");
                }
                Err(error) if error == complaint => {
                    debug!(error, "certificates are still not written");
                }
                Err(error) => {
                    warn!(
                        error,
                        "certificates are not written; trying again and again"
                    );
                    complaint = error;
                }
            }
            tokio::select! {
                () = sleep(RETRY), if again => {}
                changed = certificate.changed() => if changed.is_err() { return },
                changed = trust.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Replaces the files that differ; says how many.
    fn write(&self, files: &[(&'static str, Zeroizing<Vec<u8>>)]) -> Result<usize, String> {
        let mut count = 0;
        for (name, content) in files {
            let path = self.folder.join(name);
            count += usize::from(
                self.replace(&path, content)
                    .map_err(|error| format!("OUTPUT_CERTS {}: {error}", path.display()))?,
            );
        }
        Ok(count)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<bool> {
        // Others may write to a shared volume: what is there is read no further than is needed to see
        // whether it is ours.
        let old = read_regular(path, content.len());
        if old.is_ok_and(|old| Zeroizing::new(old).as_slice() == content) {
            return Ok(false);
        }
        fs::create_dir_all(&self.folder)?;
        let new = path.with_extension("pem.new");
        // Left by an agent that was killed while it wrote.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(self.mode)
            .open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        Ok(true)
    }
}

/// Those files that there is something for. The key comes first, so that no reader pairs a new
/// certificate with an old key for longer than it takes to write.
fn contents(
    certificate: &mut watch::Receiver<SecretState>,
    trust: &mut watch::Receiver<SecretState>,
) -> Vec<(&'static str, Zeroizing<Vec<u8>>)> {
    let mut files = Vec::new();
    let pair = ready(certificate, sds::certificate_pem);
    if let Some((chain, key)) = pair {
        files.push((KEY, key));
        files.push((CHAIN, Zeroizing::new(chain)));
    }
    if let Some(roots) = ready(trust, sds::roots_pem) {
        files.push((ROOTS, Zeroizing::new(roots)));
    }
    files
}

fn ready<T>(
    state: &mut watch::Receiver<SecretState>,
    read: impl FnOnce(&Secret) -> Option<T>,
) -> Option<T> {
    match &*state.borrow_and_update() {
        SecretState::Ready(secret) => read(secret),
        SecretState::Pending(_) | SecretState::Unavailable(_) => None,
    }
}

#[cfg(test)]
mod tests;
