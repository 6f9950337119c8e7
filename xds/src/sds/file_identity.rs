//! An identity from files (Istio's file-mounted certificates): `default`, `ROOTCA` or both.
//!
//! The files may be of any PKI, so this is no [`ithildin_spiffe::IdentitySnapshot`]. Roots of files
//! have no trust domain of their own: `ROOTCA` is a `trusted_ca`, in which a root that carries a SPIFFE
//! ID still vouches for its own domain only. Roots that the control plane adds are merged in.

use std::{path::PathBuf, sync::Arc};

use ithildin_panics::essential;
use ithildin_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use ithildin_spiffe::x509::{certificates_from_pem, certificates_to_pem};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::{
    ALL_BUNDLES, DEFAULT_BUNDLE, DEFAULT_SVID, FEDERATED_BUNDLE, SecretFeeds, encode,
    files::{FileName, FileSecrets},
    options::FileOptions,
};
use crate::{SecretMessage, SecretState};

/// Roots that are trusted besides those of a source, in DER.
pub type ExtraRoots = Arc<[CertificateDer<'static>]>;

/// Which files stand for the workload. What is `None` comes from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileIdentity {
    /// A chain and its key, in PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Roots, in PEM.
    pub roots: Option<PathBuf>,
}

impl FileIdentity {
    /// Follows the files, and `extra` roots, until nobody asks any more. Needs a tokio runtime.
    pub fn follow(&self, options: &FileOptions, extra: watch::Receiver<ExtraRoots>) -> SecretFeeds {
        let files = FileSecrets::new(options.clone());
        let mut feeds = Vec::new();
        if let Some((chain, key)) = self.certificate.clone() {
            let name = FileName::Certificate { chain, key };
            feeds.push((DEFAULT_SVID.into(), files.subscribe(DEFAULT_SVID, name)));
        }
        if let Some(path) = &self.roots {
            for name in [DEFAULT_BUNDLE, ALL_BUNDLES, FEDERATED_BUNDLE] {
                let file = files.subscribe(name, FileName::Root(path.clone()));
                feeds.push((name.to_owned(), with_extra(name, file, extra.clone())));
            }
        }
        feeds.into_iter().collect()
    }
}

/// The roots of `file` and `extra`, now and later.
fn with_extra(
    name: &'static str,
    mut file: watch::Receiver<SecretState>,
    mut extra: watch::Receiver<ExtraRoots>,
) -> watch::Receiver<SecretState> {
    let merge = move |file: &SecretState, extra: &ExtraRoots| match file {
        SecretState::Ready(secret) => merged(name, secret, extra),
        other => other.clone(),
    };
    let first = merge(&file.borrow_and_update(), &extra.borrow_and_update());
    let (sender, receiver) = watch::channel(first);
    let following = async move {
        let mut extra_ended = false;
        loop {
            tokio::select! {
                changed = file.changed() => if changed.is_err() { return },
                changed = extra.changed(), if !extra_ended => extra_ended = changed.is_err(),
                () = sender.closed() => return,
            }
            let new = merge(&file.borrow_and_update(), &extra.borrow_and_update());
            sender.send_if_modified(|state| {
                let changed = *state != new;
                *state = new;
                changed
            });
        }
    };
    tokio::spawn(essential("roots of files", following));
    receiver
}

fn merged(name: &str, secret: &Arc<SecretMessage>, extra: &ExtraRoots) -> SecretState {
    if extra.is_empty() {
        return SecretState::Ready(Arc::clone(secret));
    }
    let (pem, crl) = encode::trusted_ca(secret);
    match certificates_from_pem(pem) {
        Ok(mut roots) => {
            roots.extend(extra.iter().cloned());
            let secret: Secret =
                encode::pem_validation(name, pooled_pem(roots).into(), crl.cloned());
            SecretState::Ready(Arc::new(secret.into()))
        }
        Err(_) => SecretState::Ready(Arc::clone(secret)),
    }
}

/// Each root once, in an order that does not depend on where it came from: what is equal stays equal.
pub(super) fn pooled_pem(mut roots: Vec<CertificateDer<'static>>) -> String {
    roots.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
    roots.dedup();
    certificates_to_pem(&roots)
}
