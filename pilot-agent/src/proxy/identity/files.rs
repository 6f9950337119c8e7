//! Files as a source: what is known of the identity in them, for readiness and for what reads SVIDs.

use std::sync::Arc;

use anyhow::Context;
use ithildin_panics::essential;
use ithildin_spiffe::{
    Caller, IdentitySnapshot, IdentityState, Provider, Source, X509Bundle, X509Svid,
    x509::{certificates_from_pem, key_from_pem},
};
use ithildin_xds::{
    SecretFeeds, SecretMessage, SecretState,
    sds::{self, DEFAULT_BUNDLE, DEFAULT_SVID},
};
use tokio::{sync::watch, task::JoinHandle};

/// The identity that the files of `default` and `ROOTCA` hold.
pub(super) struct FileSource {
    state: watch::Receiver<IdentityState>,
    task: JoinHandle<()>,
}

impl FileSource {
    /// Follows both feeds. Needs a tokio runtime.
    pub(super) fn start(feeds: &SecretFeeds) -> Self {
        let feed = |name: &str| {
            feeds.get(name).unwrap_or_else(|| {
                let reason = format!("no file is named for secret {name:?}");
                watch::channel(SecretState::Pending(reason.into())).1
            })
        };
        let (mut certificate, mut roots) = (feed(DEFAULT_SVID), feed(DEFAULT_BUNDLE));
        let first = state(&certificate.borrow_and_update(), &roots.borrow_and_update());
        let (sender, state_now) = watch::channel(first);
        let following = async move {
            let (mut certificate_ended, mut roots_ended) = (false, false);
            while !(certificate_ended && roots_ended) {
                tokio::select! {
                    changed = certificate.changed(), if !certificate_ended => {
                        certificate_ended = changed.is_err();
                    }
                    changed = roots.changed(), if !roots_ended => roots_ended = changed.is_err(),
                }
                let new = state(&certificate.borrow_and_update(), &roots.borrow_and_update());
                sender.send_replace(new);
            }
            // Nothing changes any more; what was said stays.
            sender.closed().await;
        };
        let task = tokio::spawn(essential("identity of files", following));
        Self {
            state: state_now,
            task,
        }
    }
}

impl Source for FileSource {
    fn subscribe(&self) -> watch::Receiver<IdentityState> {
        self.state.clone()
    }
}

impl Provider for FileSource {
    fn identities(&self, _caller: &Caller) -> watch::Receiver<IdentityState> {
        self.state.clone()
    }
}

impl Drop for FileSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn state(certificate: &SecretState, roots: &SecretState) -> IdentityState {
    match (certificate, roots) {
        (SecretState::Ready(certificate), SecretState::Ready(roots)) => {
            match snapshot(certificate, roots) {
                Ok(snapshot) => IdentityState::Ready(Arc::new(snapshot)),
                Err(reason) => {
                    let text = format!("the files hold no X.509-SVID: {reason:#}");
                    IdentityState::Opaque(text.into())
                }
            }
        }
        (
            SecretState::Ready(_),
            SecretState::Pending(reason) | SecretState::Unavailable(reason),
        )
        | (SecretState::Pending(reason) | SecretState::Unavailable(reason), _) => {
            IdentityState::Waiting(Arc::clone(reason))
        }
    }
}

/// What the files say, if they are of SPIFFE.
fn snapshot(
    certificate: &SecretMessage,
    roots: &SecretMessage,
) -> anyhow::Result<IdentitySnapshot> {
    let (chain, key) = sds::certificate_pem(certificate).context("no certificate")?;
    let svid = X509Svid::new(certificates_from_pem(&chain)?, key_from_pem(&key)?, None)?;
    let roots = certificates_from_pem(&sds::roots_pem(roots).context("no roots")?)?;
    let bundle = X509Bundle {
        trust_domain: svid.id.trust_domain(),
        roots: roots.clone(),
    };
    let bundles = [(bundle.trust_domain.clone(), Arc::new(bundle))].into();
    let snapshot = IdentitySnapshot::new(vec![Arc::new(svid)], bundles, Vec::new())?;
    Ok(snapshot.with_unbound_roots(roots))
}
