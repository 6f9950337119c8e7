//! The server's streams: the complete state at once, then again with each change.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use ithildin_proto::workload::{
    JwtBundlesResponse, X509BundlesResponse, X509svid, X509svidResponse,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tonic::Status;

use super::NO_IDENTITY;
use crate::{IdentitySnapshot, IdentityState, X509Svid, jwt::JwtBundles};

/// A stream of answers.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers with each snapshot, waits while there is none yet, and ends with SPIRE's `PermissionDenied`
/// when the identity is withdrawn. A slow reader sees only the newest; equal answers are sent once.
pub(super) fn identities<T: Clone + PartialEq + Send + 'static>(
    states: watch::Receiver<IdentityState>,
    answer: fn(&IdentitySnapshot) -> T,
) -> Answers<T> {
    answers(states, move |state| match state {
        IdentityState::Waiting(_) => Ok(None),
        IdentityState::Ready(snapshot) => Ok(Some(answer(snapshot))),
        IdentityState::Withdrawn(_) => Err(Status::permission_denied(NO_IDENTITY)),
    })
}

/// The same for JWT bundles; `None` ends the stream.
pub(super) fn jwt_bundles(
    states: watch::Receiver<Option<Arc<JwtBundles>>>,
    answer: fn(&JwtBundles) -> JwtBundlesResponse,
) -> Answers<JwtBundlesResponse> {
    answers(states, move |state| match state {
        Some(bundles) => Ok(Some(answer(bundles))),
        None => Err(Status::permission_denied(NO_IDENTITY)),
    })
}

/// What `FetchX509SVID` answers for `snapshot`. It holds the private keys.
pub fn x509_svid_response(snapshot: &IdentitySnapshot) -> X509svidResponse {
    let own = |name: &str| {
        let mut svids = snapshot.svids.iter();
        svids.any(|svid| svid.id.trust_domain_name() == name)
    };
    let federated = snapshot.bundles.iter();
    let federated = federated.filter(|(trust_domain, _)| !own(trust_domain.as_str()));
    X509svidResponse {
        svids: snapshot
            .svids
            .iter()
            .map(|svid| x509_svid(snapshot, svid))
            .collect(),
        crl: crls(snapshot),
        federated_bundles: federated
            .map(|(trust_domain, bundle)| (trust_domain.id(), concatenated(&bundle.roots)))
            .collect(),
    }
}

/// What a bundle stream carries for `snapshot`.
pub(super) fn x509_bundles_response(snapshot: &IdentitySnapshot) -> X509BundlesResponse {
    let bundles = snapshot.bundles.iter();
    X509BundlesResponse {
        crl: crls(snapshot),
        bundles: bundles
            .map(|(trust_domain, bundle)| (trust_domain.id(), concatenated(&bundle.roots)))
            .collect(),
    }
}

/// What a JWT bundle stream carries for `bundles`.
pub(super) fn jwt_bundles_response(bundles: &JwtBundles) -> JwtBundlesResponse {
    let bundles = bundles.iter();
    JwtBundlesResponse {
        bundles: bundles
            .map(|(trust_domain, bundle)| (trust_domain.id(), bundle.jwks().to_vec()))
            .collect::<HashMap<_, _>>(),
    }
}

fn answers<S, T>(
    mut states: watch::Receiver<S>,
    answer: impl Fn(&S) -> Result<Option<T>, Status> + Send + 'static,
) -> Answers<T>
where
    S: Send + Sync + 'static,
    T: Clone + PartialEq + Send + 'static,
{
    states.mark_changed();
    let reader = Reader {
        states,
        answer,
        sent: None,
        ended: false,
    };
    Box::pin(stream::unfold(reader, |mut reader| async move {
        let answer = reader.next().await?;
        Some((answer, reader))
    }))
}

struct Reader<S, T, F> {
    states: watch::Receiver<S>,
    answer: F,
    sent: Option<T>,
    ended: bool,
}

impl<S, T, F> Reader<S, T, F>
where
    T: Clone + PartialEq,
    F: Fn(&S) -> Result<Option<T>, Status>,
{
    async fn next(&mut self) -> Option<Result<T, Status>> {
        while !self.ended {
            self.states.changed().await.ok()?;
            let answer = (self.answer)(&self.states.borrow_and_update());
            match answer {
                Ok(Some(answer)) if self.sent.as_ref() != Some(&answer) => {
                    self.sent = Some(answer.clone());
                    return Some(Ok(answer));
                }
                Ok(_) => {}
                Err(status) => {
                    self.ended = true;
                    return Some(Err(status));
                }
            }
        }
        None
    }
}

fn x509_svid(snapshot: &IdentitySnapshot, svid: &X509Svid) -> X509svid {
    let bundle = snapshot.bundles.get(svid.id.trust_domain_name());
    X509svid {
        spiffe_id: svid.id.to_string(),
        x509_svid: concatenated(&svid.chain),
        x509_svid_key: svid.key.pkcs8_der().to_vec(),
        bundle: bundle
            .map(|bundle| concatenated(&bundle.roots))
            .unwrap_or_default(),
        hint: svid.hint.clone().unwrap_or_default(),
    }
}

fn crls(snapshot: &IdentitySnapshot) -> Vec<Vec<u8>> {
    snapshot.crls.iter().map(|crl| crl.to_vec()).collect()
}

fn concatenated(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    certificates
        .iter()
        .flat_map(|der| der.iter().copied())
        .collect()
}
