//! Istio's secrets from files: `file-cert:<chain>~<key>`, `file-root:<roots>`, `file-root:system`.
//!
//! A file that is broken or gone leaves the last good content in force.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use ithildin_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use ithildin_spiffe::{Caller, x509::certificates_from_pem};
use parking_lot::Mutex;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use tokio::{runtime::Handle, sync::watch};
use tracing::{info, warn};

use super::encode;
use crate::watch_paths::PathWatch;

const CERTIFICATE: &str = "file-cert:";
const ROOT: &str = "file-root:";
const SYSTEM: &str = "system";
/// Where distributions keep the roots of the web, in the order of their spread.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The files that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileName {
    Certificate { chain: PathBuf, key: PathBuf },
    Root(PathBuf),
}

/// The last word on a file secret.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FileState {
    Ready(Arc<Secret>),
    /// Never read yet; the text says why.
    Missing(Arc<str>),
}

/// Reads and watches each named set of files once, for all who ask.
#[derive(Clone, Debug)]
pub(crate) struct FileSecrets {
    /// The reader tasks live here, wherever a subscriber lives.
    runtime: Handle,
    watched: Watched,
}

type Watched = Arc<Mutex<HashMap<String, watch::Receiver<FileState>>>>;

impl FileName {
    /// `None` if `name` is no file's; an error text if it wants to be one and is malformed.
    pub(crate) fn parse(name: &str) -> Option<Result<Self, String>> {
        if let Some(pair) = name.strip_prefix(CERTIFICATE) {
            return Some(match pair.split_once('~') {
                Some((chain, key)) if !chain.is_empty() && !key.is_empty() => {
                    Ok(Self::Certificate {
                        chain: chain.into(),
                        key: key.into(),
                    })
                }
                _ => Err(format!(
                    "{name:?} is not of the form file-cert:<chain>~<key>"
                )),
            });
        }
        let root = name.strip_prefix(ROOT)?;
        Some(match root {
            "" => Err(format!("{name:?} names no file")),
            SYSTEM => {
                let found = SYSTEM_ROOTS.iter().map(PathBuf::from).find(|p| p.exists());
                let missing = || format!("no root certificates at {}", SYSTEM_ROOTS.join(", "));
                found.map(Self::Root).ok_or_else(missing)
            }
            path => Ok(Self::Root(path.into())),
        })
    }

    fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::Certificate { chain, key } => vec![chain.clone(), key.clone()],
            Self::Root(path) => vec![path.clone()],
        }
    }

    /// Reads the files and checks that they are what they should be.
    fn read(&self, name: &str) -> Result<Secret, String> {
        match self {
            Self::Certificate { chain, key } => {
                let pem = read(chain)?;
                certificates_from_pem(&pem).map_err(|e| format!("{}: {e}", chain.display()))?;
                let key_pem = read(key)?;
                PrivateKeyDer::from_pem_slice(&key_pem)
                    .map_err(|e| format!("{}: no private key: {e}", key.display()))?;
                Ok(encode::pem_certificate(name, pem, key_pem))
            }
            Self::Root(path) => {
                let pem = read(path)?;
                certificates_from_pem(&pem).map_err(|e| format!("{}: {e}", path.display()))?;
                Ok(encode::pem_validation(name, pem, None))
            }
        }
    }
}

impl FileSecrets {
    /// Must be called inside a runtime, which then watches the files.
    pub(crate) fn new() -> Self {
        Self {
            runtime: Handle::current(),
            watched: Arc::default(),
        }
    }

    /// The state of `name`, now and later.
    pub(crate) fn subscribe(&self, name: &str, file: FileName) -> watch::Receiver<FileState> {
        let mut watched = self.watched.lock();
        if let Some(receiver) = watched.get(name) {
            return receiver.clone();
        }
        let first = match file.read(name) {
            Ok(secret) => FileState::Ready(Arc::new(secret)),
            Err(error) => {
                warn!(name, error, "a secret's file cannot be used; it is watched");
                FileState::Missing(error.into())
            }
        };
        let (sender, receiver) = watch::channel(first);
        watched.insert(name.to_owned(), receiver.clone());
        let task = follow(name.to_owned(), file, sender, Arc::clone(&self.watched));
        self.runtime.spawn(task);
        receiver
    }
}

/// Whether `caller` could read the agent's files itself; an agent must not read for another user.
pub(crate) fn may_read(caller: &Caller) -> bool {
    let own = rustix::process::geteuid().as_raw();
    caller.uid.is_some_and(|uid| uid == 0 || uid == own)
}

async fn follow(name: String, file: FileName, sender: watch::Sender<FileState>, watched: Watched) {
    let mut watch = PathWatch::new(file.paths());
    loop {
        watch.changed().await;
        if forget_unused(&name, &sender, &watched) {
            return;
        }
        match file.read(&name) {
            Ok(secret) => {
                if replace(&sender, FileState::Ready(Arc::new(secret))) {
                    info!(name, "a secret's files have changed");
                }
            }
            Err(error) => warn!(
                name,
                error, "a secret's file cannot be used; what was read before stays"
            ),
        }
    }
}

/// Whether only the map holds a receiver; it no longer does then.
fn forget_unused(name: &str, sender: &watch::Sender<FileState>, watched: &Watched) -> bool {
    let mut watched = watched.lock();
    let unused = sender.receiver_count() == 1;
    if unused {
        watched.remove(name);
    }
    unused
}

fn replace(sender: &watch::Sender<FileState>, new: FileState) -> bool {
    sender.send_if_modified(|state| {
        let changed = *state != new;
        *state = new;
        changed
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}
