//! Roots that istiod hands out for the whole mesh besides its own (PCDS).

use std::sync::Arc;

use ithildin_spiffe::x509::{PemError, readable_certificates_from_pem};
use ithildin_xds::sds::ExtraRoots;
use tokio::sync::watch;
use tracing::{info, warn};

/// Publishes the roots in `pem`, now and later, each once and in a settled order. One that cannot be
/// read is told and left out; the others must not wait for it.
pub(super) async fn follow(
    mut pem: watch::Receiver<Arc<[String]>>,
    roots: watch::Sender<ExtraRoots>,
) {
    loop {
        let now = read(&pem.borrow_and_update());
        if *roots.borrow() != now {
            info!(count = now.len(), "the roots of the mesh have changed");
            roots.send_replace(now);
        }
        if pem.changed().await.is_err() {
            return;
        }
    }
}

fn read(pem: &[String]) -> ExtraRoots {
    let complain = |error: &PemError| warn!(%error, "a root of the mesh cannot be read");
    let mut roots = Vec::new();
    for text in pem {
        match readable_certificates_from_pem(text.as_bytes()) {
            Ok((found, odd)) => {
                odd.iter().for_each(complain);
                roots.extend(found);
            }
            Err(error) => complain(&error),
        }
    }
    roots.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
    roots.dedup();
    roots.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::default();
        params.self_signed(&key).unwrap().pem()
    }

    #[tokio::test]
    async fn roots_are_followed_and_garbage_takes_none_along() {
        let (one, two) = (root(), root());
        let (sender, pem) = watch::channel([one.clone(), "garbage".into(), one.clone()].into());
        let published = watch::Sender::default();
        let mut roots = published.subscribe();
        tokio::spawn(follow(pem, published));
        roots.changed().await.unwrap();
        assert_eq!(roots.borrow_and_update().len(), 1);
        sender.send_replace([two.clone() + &one].into());
        roots.changed().await.unwrap();
        let both = roots.borrow_and_update().clone();
        assert_eq!(both.len(), 2);
        assert_eq!(
            read(&[one, two]),
            both,
            "the order does not depend on istiod's"
        );
    }
}
