//! Secrets from files: Istio's names `file-cert:<chain>~<key>`, `file-root:<roots>` and
//! `file-root:system`, and files of xDS resources (`path_config_source`).
//!
//! Files are taken when they are whole: a chain with its own key, roots that are not cut off. A file
//! that is broken or gone, or half of a rotation, leaves the last good content in force. That a
//! certificate expires is told, since nobody but its owner can renew it.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use ithildin_panics::{contained, essential};
use ithildin_proto::{
    from_yaml,
    pb::envoy::{
        extensions::transport_sockets::tls::v3::Secret, service::discovery::v3::DiscoveryResponse,
    },
    unpack,
};
use ithildin_spiffe::{
    Caller,
    x509::{
        PemPair, certificates_to_pem, crls_from_pem, crls_to_pem, readable_certificates_from_pem,
    },
};
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::watch};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::{encode, expiry::ExpiryNotice, options::FileOptions};
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
    options: Arc<FileOptions>,
    watched: Watched,
}

/// What was read, and what is known of its end.
struct Content {
    secret: Secret,
    pair: Option<PemPair>,
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

    fn paths(&self, options: &FileOptions) -> Vec<PathBuf> {
        match self {
            Self::Certificate { chain, key } => vec![chain.clone(), key.clone()],
            Self::Root(path) => {
                let crl = options.crl.iter().cloned();
                crl.chain([path.clone()]).collect()
            }
            Self::Discovery { path, folder } => {
                let inside = folder.iter().map(|folder| folder.join("..data"));
                inside.chain([path.clone()]).collect()
            }
        }
    }

    /// Reads the files and checks that they are what they should be. Files that make a parser panic are
    /// no better than others that are broken.
    fn read(&self, name: &str, options: &FileOptions) -> Result<Content, String> {
        contained(|| self.content(name, options)).flatten()
    }

    fn content(&self, name: &str, options: &FileOptions) -> Result<Content, String> {
        let secret = match self {
            Self::Certificate { chain, key } => return pair(name, chain, key),
            Self::Root(path) => roots(name, path, options.crl.as_deref())?,
            Self::Discovery { path, .. } => discovered(name, path)?,
        };
        Ok(Content { secret, pair: None })
    }
}

impl FileSecrets {
    /// Must be called inside a runtime, which then watches the files.
    pub(crate) fn new(options: FileOptions) -> Self {
        Self {
            runtime: Handle::current(),
            options: Arc::new(options),
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
        let mut expiry = ExpiryNotice::default();
        let first = match key.1.read(name, &self.options) {
            Ok(content) => {
                expiry.of(content.pair);
                SecretState::Ready(Arc::new(content.secret.into()))
            }
            Err(error) => {
                warn!(name, error, "a secret's file cannot be used; it is watched");
                SecretState::Pending(format!("secret {name:?}: {error}").into())
            }
        };
        let (sender, receiver) = watch::channel(first);
        watched.insert(key.clone(), receiver.clone());
        let follower = Follower {
            key,
            options: Arc::clone(&self.options),
            sender,
            watched: Arc::clone(&self.watched),
            expiry,
            complaint: String::new(),
        };
        self.runtime
            .spawn(essential("secrets of files", follower.follow()));
        receiver
    }
}

/// Whether `caller` could read the agent's files itself; an agent must not read for another user.
pub(crate) fn may_read(caller: &Caller) -> bool {
    let own = rustix::process::geteuid().as_raw();
    caller.uid.is_some_and(|uid| uid == 0 || uid == own)
}

/// Follows one set of files until nobody asks for it any more.
struct Follower {
    key: Key,
    options: Arc<FileOptions>,
    sender: watch::Sender<SecretState>,
    watched: Watched,
    expiry: ExpiryNotice,
    /// What was wrong last: an hour with a broken file is not an hour of equal lines.
    complaint: String,
}

impl Follower {
    async fn follow(mut self) {
        let mut watch = PathWatch::new(self.key.1.paths(&self.options), self.options.settle);
        loop {
            self.expiry.tell(&self.key.0, SystemTime::now());
            watch.changed().await;
            if self.forget_unused() {
                return;
            }
            let (name, file) = &self.key;
            match file.read(name, &self.options) {
                Ok(content) => self.take(content),
                Err(error) if error != self.complaint => {
                    warn!(
                        name,
                        error, "a secret's file cannot be used; what was read before stays"
                    );
                    self.complaint = error;
                }
                Err(_) => {}
            }
        }
    }

    fn take(&mut self, content: Content) {
        self.complaint.clear();
        self.expiry.of(content.pair);
        let new = SecretState::Ready(Arc::new(content.secret.into()));
        if replace(&self.sender, new) {
            info!(name = self.key.0, "a secret's files have changed");
        }
    }

    /// Whether only the map holds a receiver; it no longer does then.
    fn forget_unused(&self) -> bool {
        let mut watched = self.watched.lock();
        let unused = self.sender.receiver_count() == 1;
        if unused {
            watched.remove(&self.key);
        }
        unused
    }
}

fn replace(sender: &watch::Sender<SecretState>, new: SecretState) -> bool {
    sender.send_if_modified(|state| {
        let changed = *state != new;
        *state = new;
        changed
    })
}

fn pair(name: &str, chain: &Path, key: &Path) -> Result<Content, String> {
    let chain_pem = read(chain)?;
    let key_pem = Zeroizing::new(read(key)?);
    let pair = PemPair::check(&chain_pem, &key_pem)
        .map_err(|error| format!("{} and {}: {error}", chain.display(), key.display()))?;
    Ok(Content {
        secret: encode::pem_certificate(name, chain_pem, key_pem.to_vec()),
        pair: Some(pair),
    })
}

fn roots(name: &str, path: &Path, crl: Option<&Path>) -> Result<Secret, String> {
    let (roots, odd) = readable_certificates_from_pem(&read(path)?)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    for error in odd {
        warn!(name, file = %path.display(), %error, "a root cannot be read; the others are used");
    }
    let crl = match crl {
        Some(path) if path.exists() => {
            let crls = crls_from_pem(&read(path)?)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            (!crls.is_empty()).then(|| encode::inline(crls_to_pem(&crls).into_bytes()))
        }
        _ => None,
    };
    let pem = certificates_to_pem(&roots).into_bytes();
    Ok(encode::pem_validation(name, pem, crl))
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
