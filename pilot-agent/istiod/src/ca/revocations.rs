//! The CA's revocations, which istiod writes into a ConfigMap beside the mesh's root.

use std::{path::PathBuf, sync::Arc};

use ithildin_panics::essential;
use ithildin_spiffe::x509::crls_from_pem;
use ithildin_xds::watch_paths::{PathWatch, SETTLE};
use rustls_pki_types::CertificateRevocationListDer;
use tokio::sync::watch;
use tracing::{info, warn};

/// CRLs in DER.
pub(super) type Crls = Arc<[CertificateRevocationListDer<'static>]>;

/// The largest file: revocations of a large company.
const MAX_BYTES: usize = 4 << 20;

/// The content of `file`, now and later. A file that is broken leaves the last good one in force; one
/// that is gone means no revocations, as before it came.
pub(super) fn follow(file: Option<PathBuf>) -> watch::Receiver<Crls> {
    let Some(file) = file else {
        return watch::channel(Crls::default()).1;
    };
    let first = read(&file).unwrap_or_else(|error| {
        warn!(error, "revocations cannot be read; they are watched");
        Crls::default()
    });
    let (sender, receiver) = watch::channel(first);
    let following = async move {
        let mut watch = PathWatch::new(vec![file.clone()], SETTLE);
        let mut complaint = String::new();
        loop {
            tokio::select! {
                () = watch.changed() => {}
                () = sender.closed() => return,
            }
            match read(&file) {
                Ok(crls) => {
                    complaint.clear();
                    if *sender.borrow() != crls {
                        info!(file = %file.display(), count = crls.len(), "revocations have changed");
                        sender.send_replace(crls);
                    }
                }
                Err(error) if error != complaint => {
                    warn!(
                        error,
                        "revocations cannot be read; what was read before stays"
                    );
                    complaint = error;
                }
                Err(_) => {}
            }
        }
    };
    tokio::spawn(essential("revocations", following));
    receiver
}

fn read(file: &std::path::Path) -> Result<Crls, String> {
    if !file.exists() {
        return Ok(Crls::default());
    }
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let pem = ithildin_sys::file::read_regular(file, MAX_BYTES).map_err(|error| named(&error))?;
    let crls = crls_from_pem(&pem).map_err(|error| named(&error))?;
    Ok(crls.into())
}
