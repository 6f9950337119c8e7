//! Wasm modules from elsewhere: fetched, verified, and kept as files that Envoy reads.
//!
//! Does what Istio's agent does (`pkg/wasm`), for `http://`, `https://` and `oci://`, and lays the files
//! where it does. Knows nothing of xDS. What holds throughout:
//!
//! - A body goes to disk as it comes and is hashed on its way; no module is ever in memory as a whole.
//! - Nothing happens before the first module is asked for.
//! - Who asks for a module that is being fetched waits for it; it is fetched once.
//! - No address of the link, and none where a cloud tells secrets, is ever connected to, whatever a URL, a
//!   redirect, a registry or a name server says: what is checked is the address that is dialed.
//! - Size, time, redirects, attempts, fetches at a time and modules kept are bounded.

mod cache;
mod client;
mod error;
mod file;
mod folder;
mod guard;
mod modules;
mod oci;
mod over_http;
#[cfg(test)]
mod tests;
mod unpack;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use zeroize::Zeroizing;

pub use cache::Module;
pub use error::FetchError;
pub use guard::{Network, NetworkError};
pub use modules::{Counts, Modules};

/// How modules are fetched and kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Modules are `<SHA-256 of the URL>/<checksum>.wasm` in it.
    pub folder: PathBuf,
    /// A module that nobody used for so long is deleted.
    pub expiry: Duration,
    /// Between two looks for such modules.
    pub purge_interval: Duration,
    /// How long one HTTP request may take, its body included.
    pub request_timeout: Duration,
    /// How often a module is asked for by HTTP until it comes.
    pub attempts: u32,
    /// Hosts, with their port if the URL has one, whose certificate is not verified, and that may be
    /// registries without TLS; `*` is all of them.
    pub insecure: BTreeSet<String>,
    /// Networks that are refused besides those that always are.
    pub blocked: Vec<Network>,
    /// The largest module, and the largest thing that it may come in.
    pub max_bytes: u64,
    /// A folder with Docker's `config.json`, for modules without a pull secret of their own.
    pub docker_config: Option<PathBuf>,
}

/// A module that a filter wants.
#[derive(Clone, Debug)]
pub struct Request {
    pub url: String,
    /// SHA-256 in hexadecimal: of the module, or of the image's manifest.
    pub checksum: Option<String>,
    /// The filter that wants it, and the version of what says so: with [`PullPolicy::Always`] a new version
    /// fetches again.
    pub resource: String,
    pub resource_version: String,
    /// The text of Docker's `config.json`.
    pub pull_secret: Option<Zeroizing<String>>,
    pub policy: PullPolicy,
    /// How long all of it may take.
    pub timeout: Duration,
}

/// Whether a module that is here already is asked for again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// As [`Self::Always`] for an image with the tag `latest`, else as [`Self::IfNotPresent`].
    #[default]
    Unspecified,
    IfNotPresent,
    Always,
}

impl Options {
    /// Istio's own values, with this folder.
    pub fn in_folder(folder: PathBuf) -> Self {
        Self {
            folder,
            expiry: Duration::from_secs(24 * 60 * 60),
            purge_interval: Duration::from_secs(60 * 60),
            request_timeout: Duration::from_secs(15),
            attempts: 5,
            insecure: BTreeSet::new(),
            blocked: Vec::new(),
            max_bytes: 256 << 20,
            docker_config: None,
        }
    }

    /// Whether this host, with its port if it was given one, need not prove who it is.
    fn is_insecure(&self, host: &str) -> bool {
        self.insecure.contains("*") || self.insecure.contains(host)
    }
}
