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

/// Answers with each snapshot. What was sent is remembered by its snapshot, since the message itself
/// holds private keys.
pub(super) fn svids(states: watch::Receiver<IdentityState>) -> Answers<X509svidResponse> {
    answers(
        states,
        |state| of_identity(state, Arc::clone),
        |snapshot| x509_svid_response(snapshot),
    )
}

/// The same for the bundles alone.
pub(super) fn bundles(states: watch::Receiver<IdentityState>) -> Answers<X509BundlesResponse> {
    answers(
        states,
        |state| of_identity(state, |snapshot| x509_bundles_response(snapshot)),
        Clone::clone,
    )
}

/// The same for JWT bundles; `None` ends the stream.
pub(super) fn jwt_bundles(
    states: watch::Receiver<Option<Arc<JwtBundles>>>,
) -> Answers<JwtBundlesResponse> {
    answers(
        states,
        |state| match state {
            Some(bundles) => Ok(Some(Arc::clone(bundles))),
            None => Err(Status::permission_denied(NO_IDENTITY)),
        },
        |bundles| jwt_bundles_response(bundles),
    )
}

fn of_identity<T>(
    state: &IdentityState,
    content: impl FnOnce(&Arc<IdentitySnapshot>) -> T,
) -> Result<Option<T>, Status> {
    match state {
        IdentityState::Waiting(_) => Ok(None),
        IdentityState::Ready(snapshot) => Ok(Some(content(snapshot))),
        IdentityState::Withdrawn(_) | IdentityState::Opaque(_) => {
            Err(Status::permission_denied(NO_IDENTITY))
        }
    }
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
fn x509_bundles_response(snapshot: &IdentitySnapshot) -> X509BundlesResponse {
    let bundles = snapshot.bundles.iter();
    X509BundlesResponse {
        crl: crls(snapshot),
        bundles: bundles
            .map(|(trust_domain, bundle)| (trust_domain.id(), concatenated(&bundle.roots)))
            .collect(),
    }
}

/// What a JWT bundle stream carries for `bundles`.
fn jwt_bundles_response(bundles: &JwtBundles) -> JwtBundlesResponse {
    let bundles = bundles.iter();
    JwtBundlesResponse {
        bundles: bundles
            .map(|(trust_domain, bundle)| (trust_domain.id(), bundle.jwks().to_vec()))
            .collect::<HashMap<_, _>>(),
    }
}

/// Sends what `content` yields for each state, waits while that is nothing, and ends with its error. A
/// slow reader sees only the newest; equal contents are sent once.
fn answers<S, C, T>(
    mut states: watch::Receiver<S>,
    content: fn(&S) -> Result<Option<C>, Status>,
    message: fn(&C) -> T,
) -> Answers<T>
where
    S: Send + Sync + 'static,
    C: PartialEq + Send + 'static,
    T: Send + 'static,
{
    states.mark_changed();
    let reader = Reader {
        states,
        content,
        sent: None,
        ended: false,
    };
    Box::pin(stream::unfold(reader, move |mut reader| async move {
        let content = reader.next().await?;
        let answer = content.map(|content| {
            let answer = message(&content);
            reader.sent = Some(content);
            answer
        });
        Some((answer, reader))
    }))
}

struct Reader<S, C> {
    states: watch::Receiver<S>,
    content: fn(&S) -> Result<Option<C>, Status>,
    sent: Option<C>,
    ended: bool,
}

impl<S, C: PartialEq> Reader<S, C> {
    async fn next(&mut self) -> Option<Result<C, Status>> {
        while !self.ended {
            self.states.changed().await.ok()?;
            match (self.content)(&self.states.borrow_and_update()) {
                Ok(Some(content)) if self.sent.as_ref() != Some(&content) => {
                    return Some(Ok(content));
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
