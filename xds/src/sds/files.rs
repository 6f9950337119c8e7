//! Secrets from files: Istio's names `file-cert:<chain>~<key>`, `file-root:<roots>` and
//! `file-root:system`, and files of xDS resources (`path_config_source`).
//!
//! A file that is broken or gone leaves the last good content in force.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use ithildin_proto::{
    from_yaml,
    pb::envoy::{
        extensions::transport_sockets::tls::v3::Secret, service::discovery::v3::DiscoveryResponse,
    },
    unpack,
};
use ithildin_spiffe::{Caller, x509::certificates_from_pem};
use parking_lot::Mutex;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use tokio::{runtime::Handle, sync::watch};
use tracing::{info, warn};

use super::encode;
use crate::{SecretState, watch_paths::PathWatch};

const CERTIFICATE: &str = "file-cert:";
const ROOT: &str = "file-root:";
const SYSTEM: &str = "system";
/// The largest file: ten times the roots of the web.
const MAX_FILE_BYTES: usize = 4 << 20;
/// Where distributions keep the roots of the web, in the order of their spread.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The files that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FileName {
    Certificate {
        chain: PathBuf,
        key: PathBuf,
    },
    Root(PathBuf),
    /// A discovery response in YAML or JSON, which has the secret among its resources.
    Discovery {
        path: PathBuf,
        /// A folder whose changes announce those of the file.
        folder: Option<PathBuf>,
    },
}

/// Reads and watches each named set of files once, for all who ask.
#[derive(Clone, Debug)]
pub(crate) struct FileSecrets {
    /// The reader tasks live here, wherever a subscriber lives.
    runtime: Handle,
    watched: Watched,
}

type Watched = Arc<Mutex<HashMap<Key, watch::Receiver<SecretState>>>>;
type Key = (String, FileName);

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
            Self::Discovery { path, folder } => {
                let inside = folder.iter().map(|folder| folder.join("..data"));
                inside.chain([path.clone()]).collect()
            }
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
            Self::Discovery { path, .. } => discovered(name, path),
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
    pub(crate) fn subscribe(&self, name: &str, file: FileName) -> watch::Receiver<SecretState> {
        let mut watched = self.watched.lock();
        let key = (name.to_owned(), file);
        if let Some(receiver) = watched.get(&key) {
            return receiver.clone();
        }
        let first = match key.1.read(name) {
            Ok(secret) => SecretState::Ready(Arc::new(secret.into())),
            Err(error) => {
                warn!(name, error, "a secret's file cannot be used; it is watched");
                SecretState::Pending(format!("secret {name:?}: {error}").into())
            }
        };
        let (sender, receiver) = watch::channel(first);
        watched.insert(key.clone(), receiver.clone());
        let task = follow(key, sender, Arc::clone(&self.watched));
        self.runtime.spawn(task);
        receiver
    }
}

/// Whether `caller` could read the agent's files itself; an agent must not read for another user.
pub(crate) fn may_read(caller: &Caller) -> bool {
    let own = rustix::process::geteuid().as_raw();
    caller.uid.is_some_and(|uid| uid == 0 || uid == own)
}

async fn follow(key: Key, sender: watch::Sender<SecretState>, watched: Watched) {
    let (name, file) = &key;
    let mut watch = PathWatch::new(file.paths());
    loop {
        watch.changed().await;
        if forget_unused(&key, &sender, &watched) {
            return;
        }
        match file.read(name) {
            Ok(secret) => {
                if replace(&sender, SecretState::Ready(Arc::new(secret.into()))) {
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
fn forget_unused(key: &Key, sender: &watch::Sender<SecretState>, watched: &Watched) -> bool {
    let mut watched = watched.lock();
    let unused = sender.receiver_count() == 1;
    if unused {
        watched.remove(key);
    }
    unused
}

fn replace(sender: &watch::Sender<SecretState>, new: SecretState) -> bool {
    sender.send_if_modified(|state| {
        let changed = *state != new;
        *state = new;
        changed
    })
}

fn discovered(name: &str, path: &Path) -> Result<Secret, String> {
    let at = path.display();
    let text = String::from_utf8(read(path)?).map_err(|error| format!("{at}: {error}"))?;
    let response: DiscoveryResponse =
        from_yaml(&text).map_err(|errors| format!("{at}: {}", errors.0.join("; ")))?;
    for any in &response.resources {
        let secret: Secret = unpack(any).map_err(|error| format!("{at}: {error}"))?;
        if secret.name == name {
            return Ok(secret);
        }
    }
    Err(format!(
        "{at}: there is no secret {name:?} among its resources"
    ))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    ithildin_sys::file::read_regular(path, MAX_FILE_BYTES)
        .map_err(|error| format!("{}: {error}", path.display()))
}
