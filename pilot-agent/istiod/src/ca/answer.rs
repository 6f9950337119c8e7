//! What the CA answered, checked before anybody relies on it: the chain is whole and in order, ends in
//! a root that came with it, is valid now, and certifies our key for the identity that we are.

use std::time::SystemTime;

use ithildin_spiffe::{
    PrivateKey, SvidError, X509Svid,
    x509::{MAX_CHAIN, PemError, certificate_validity, certificates_from_pem},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::expected::{Expected, Unexpected};

/// The most roots of one answer: a CA has two while it rotates.
const MAX_ROOTS: usize = 64;

/// Why an answer is not taken. What was held before stays.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("cert_chain has {0} elements; a leaf and a root are expected at least")]
    TooShort(usize),
    #[error("cert_chain has {0} elements; at most {MAX_CHAIN} and a root are accepted")]
    TooLong(usize),
    #[error("cert_chain[{index}]: {source}")]
    Pem { index: usize, source: PemError },
    #[error("cert_chain ends with {0} roots; at most {MAX_ROOTS} are accepted")]
    TooManyRoots(usize),
    #[error("certificate {0} of the chain is not issued by the one after it")]
    Order(usize),
    #[error("{0}")]
    Svid(#[from] SvidError),
    #[error("the leaf is of {0}")]
    Identity(#[from] Unexpected),
    #[error("the chain does not lead to the root that came with it: {0}")]
    Untrusted(webpki::Error),
    #[error("every root that came with the chain has expired or is malformed")]
    NoRoot,
}

/// A certificate that may be used, and the roots that came with it.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) svid: X509Svid,
    pub(super) roots: Vec<CertificateDer<'static>>,
}

/// Checks `chain`, the PEM texts of an answer, for `key` and at `now`.
pub(super) fn check(
    chain: &[String],
    key: PrivateKey,
    expected: &Expected,
    now: SystemTime,
) -> Result<Issued, AnswerError> {
    if chain.len() > MAX_CHAIN + 1 {
        return Err(AnswerError::TooLong(chain.len()));
    }
    let [certificates @ .., root] = chain else {
        return Err(AnswerError::TooShort(0));
    };
    if certificates.is_empty() {
        return Err(AnswerError::TooShort(chain.len()));
    }
    let pem = |(index, text): (usize, &String)| {
        certificates_from_pem(text.as_bytes()).map_err(|source| AnswerError::Pem { index, source })
    };
    let roots = pem((certificates.len(), root))?;
    if roots.len() > MAX_ROOTS {
        return Err(AnswerError::TooManyRoots(roots.len()));
    }
    let mut presented = Vec::new();
    for element in certificates.iter().enumerate() {
        presented.extend(pem(element)?);
    }
    // Operators' chains often end with the root already.
    presented.retain(|certificate| !roots.contains(certificate));
    check_order(&presented)?;
    let mut svid = X509Svid::new(presented, key, None)?;
    expected.check(&svid.id)?;
    check_path(&svid, &roots, now)?;
    // No peer needs it from us; Istio's agent presents and writes what the CA sent, and there are those who look.
    // Of several the others are on their way in or out, and vouch for nothing here.
    let vouches = |root: &&_| check_path(&svid, std::slice::from_ref(*root), now).is_ok();
    let root = roots.iter().find(vouches).cloned();
    svid.chain.extend(root);
    Ok(Issued { svid, roots })
}

/// TLS sends a chain as it is, and not every peer puts it in order.
fn check_order(chain: &[CertificateDer<'static>]) -> Result<(), AnswerError> {
    let names = |certificate: &CertificateDer<'static>| {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let (issuer, subject) = (parsed.issuer().as_raw(), parsed.subject().as_raw());
        Some((issuer.to_vec(), subject.to_vec()))
    };
    for (index, pair) in chain.windows(2).enumerate() {
        let [certificate, above] = pair else { continue };
        let in_order = names(certificate)
            .zip(names(above))
            .is_some_and(|((issuer, _), (_, subject))| issuer == subject);
        if !in_order {
            return Err(AnswerError::Order(index));
        }
    }
    Ok(())
}

fn check_path(
    svid: &X509Svid,
    roots: &[CertificateDer<'static>],
    now: SystemTime,
) -> Result<(), AnswerError> {
    let live = |root: &&CertificateDer<'static>| {
        certificate_validity(root).is_ok_and(|(_, not_after)| not_after >= now)
    };
    let anchors: Vec<_> = roots
        .iter()
        .filter(live)
        .filter_map(|root| webpki::anchor_from_trusted_cert(root).ok())
        .collect();
    if anchors.is_empty() {
        return Err(AnswerError::NoRoot);
    }
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let time = UnixTime::since_unix_epoch(since.unwrap_or_default());
    let intermediates = svid.chain.get(1..).unwrap_or_default();
    webpki::EndEntityCert::try_from(svid.leaf())
        .and_then(|leaf| {
            leaf.verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                intermediates,
                time,
                webpki::KeyUsage::client_auth(),
                None,
                None,
            )
            .map(|_| ())
        })
        .map_err(AnswerError::Untrusted)
}
