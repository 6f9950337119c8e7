//! Messages of the Workload API read into checked types. A message is taken whole or refused whole;
//! the error names the field.

use std::{collections::BTreeMap, sync::Arc};

use ithildin_panics::contained;
use ithildin_proto::workload::{
    JwtBundlesResponse, JwtsvidResponse, X509BundlesResponse, X509svid, X509svidResponse,
};
use rustls_pki_types::CertificateRevocationListDer;
use zeroize::Zeroize;

use super::CallError;
use crate::{
    IdentitySnapshot, SnapshotError, SpiffeId, TrustDomain, X509Bundle, X509Svid,
    jwt::{JwtBundle, JwtBundles, JwtSvid},
    x509::{PrivateKey, split_certificates},
};

/// The most SVIDs of one message; more is a fault and not a workload.
pub(super) const MAX_SVIDS: usize = 256;
/// The most bundles of one message; as many small ones fit into the largest message.
pub(super) const MAX_BUNDLES: usize = 32 * 1024;
/// The longest hint, in bytes (SPIFFE_Workload_API.md, section 5.2.1).
const MAX_HINT: usize = 1024;
/// How much is told of a field and of what is wrong with it, in bytes each: they quote the message, of which
/// one name may be nearly all.
const MAX_TOLD: usize = 1024;

/// What is wrong with which field of a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct MessageError {
    pub field: String,
    pub reason: String,
}

impl MessageError {
    fn new(field: impl Into<String>, reason: impl ToString) -> Self {
        Self {
            field: told(field.into()),
            reason: told(reason.to_string()),
        }
    }
}

fn told(mut text: String) -> String {
    let end = text.floor_char_boundary(MAX_TOLD);
    if end < text.len() {
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// A message that makes a parser panic is refused like any other: the server would send it again.
pub(super) fn without_panics<T>(
    decode: impl FnOnce() -> Result<T, MessageError>,
) -> Result<T, MessageError> {
    contained(decode).unwrap_or_else(|panic| Err(MessageError::new("message", panic)))
}

/// Reads the answer of `FetchX509SVID`. What `previous` holds already is shared and not repeated.
pub(super) fn identities(
    mut message: X509svidResponse,
    previous: Option<&IdentitySnapshot>,
) -> Result<IdentitySnapshot, MessageError> {
    let snapshot = snapshot(&mut message, previous);
    for svid in &mut message.svids {
        svid.x509_svid_key.zeroize();
    }
    snapshot
}

fn snapshot(
    message: &mut X509svidResponse,
    previous: Option<&IdentitySnapshot>,
) -> Result<IdentitySnapshot, MessageError> {
    if message.svids.is_empty() {
        return Err(MessageError::new("svids", "is empty"));
    }
    check_count("svids", message.svids.len(), MAX_SVIDS)?;
    check_count(
        "federated_bundles",
        message.federated_bundles.len(),
        MAX_BUNDLES,
    )?;
    let mut bundles = BTreeMap::new();
    for (key, der) in &message.federated_bundles {
        let bundle = federated_bundle("federated_bundles", key, der)?;
        check_new("federated_bundles", &bundles, &bundle.trust_domain)?;
        insert(&mut bundles, bundle, previous);
    }
    let mut svids = Vec::with_capacity(message.svids.len());
    let mut own = BTreeMap::new();
    for (index, message) in message.svids.iter_mut().enumerate() {
        let field = format!("svids[{index}]");
        let bundle = own_bundle(&field, message)?;
        let svid = svid(&field, message)?;
        if let Some(other) = own.insert(bundle.trust_domain.clone(), bundle.clone())
            && other != bundle
        {
            let reason = "differs from that of another SVID of the same trust domain";
            return Err(MessageError::new(format!("{field}.bundle"), reason));
        }
        insert(&mut bundles, bundle, previous);
        svids.push(shared(svid, previous));
    }
    let crls = message.crl.drain(..);
    let crls = crls.map(CertificateRevocationListDer::from).collect();
    IdentitySnapshot::new(svids, bundles, crls).map_err(|error| match error {
        SnapshotError::Crl { index, source } => MessageError::new(format!("crl[{index}]"), source),
        error => MessageError::new("svids", error),
    })
}

/// Reads the answer of `FetchX509Bundles`.
pub(super) fn x509_bundles(
    message: &X509BundlesResponse,
) -> Result<BTreeMap<TrustDomain, Arc<X509Bundle>>, MessageError> {
    if message.bundles.is_empty() {
        return Err(MessageError::new("bundles", "is empty"));
    }
    check_count("bundles", message.bundles.len(), MAX_BUNDLES)?;
    let mut bundles = BTreeMap::new();
    for (key, der) in &message.bundles {
        let bundle = federated_bundle("bundles", key, der)?;
        check_new("bundles", &bundles, &bundle.trust_domain)?;
        bundles.insert(bundle.trust_domain.clone(), Arc::new(bundle));
    }
    Ok(bundles)
}

/// Reads the answer of `FetchJWTBundles`.
pub(super) fn jwt_bundles(message: &JwtBundlesResponse) -> Result<JwtBundles, MessageError> {
    check_count("bundles", message.bundles.len(), MAX_BUNDLES)?;
    let mut bundles = JwtBundles::new();
    for (key, jwks) in &message.bundles {
        let field = format!("bundles[{key:?}]");
        let trust_domain = TrustDomain::parse(key).map_err(|e| MessageError::new(&field, e))?;
        check_new("bundles", &bundles, &trust_domain)?;
        let bundle = JwtBundle::from_jwks(jwks).map_err(|e| MessageError::new(&field, e))?;
        bundles.insert(trust_domain, Arc::new(bundle));
    }
    Ok(bundles)
}

/// Reads the answer of `FetchJWTSVID`.
pub(super) fn jwt_svids(message: JwtsvidResponse) -> Result<Vec<JwtSvid>, CallError> {
    if message.svids.is_empty() {
        return Err(MessageError::new("svids", "is empty").into());
    }
    let mut svids = Vec::with_capacity(message.svids.len());
    for (index, message) in message.svids.into_iter().enumerate() {
        let field = format!("svids[{index}].spiffe_id");
        let id = spiffe_id(&field, &message.spiffe_id)?;
        let svid = JwtSvid::parse_unverified(message.svid, message.hint)
            .map_err(|source| CallError::Jwt { index, source })?;
        if svid.id != id {
            let reason = format!("is {id}, but the token's subject is {}", svid.id);
            return Err(MessageError::new(field, reason).into());
        }
        svids.push(svid);
    }
    Ok(svids)
}

/// Reads a SPIFFE ID.
pub(super) fn spiffe_id(field: &str, text: &str) -> Result<SpiffeId, MessageError> {
    SpiffeId::parse(text).map_err(|error| MessageError::new(field, format!("{text:?} {error}")))
}

fn svid(field: &str, message: &mut X509svid) -> Result<X509Svid, MessageError> {
    let id_field = format!("{field}.spiffe_id");
    let id = spiffe_id(&id_field, &message.spiffe_id)?;
    if message.hint.len() > MAX_HINT {
        let reason = format!("is longer than {MAX_HINT} bytes");
        return Err(MessageError::new(format!("{field}.hint"), reason));
    }
    if message.x509_svid_key.is_empty() {
        return Err(MessageError::new(
            format!("{field}.x509_svid_key"),
            "is empty",
        ));
    }
    let key = PrivateKey::from_pkcs8(std::mem::take(&mut message.x509_svid_key));
    let chain_field = format!("{field}.x509_svid");
    let chain = split_certificates(&message.x509_svid)
        .map_err(|error| MessageError::new(&chain_field, error))?;
    let svid = X509Svid::new(chain, key, Some(std::mem::take(&mut message.hint)))
        .map_err(|error| MessageError::new(&chain_field, error))?;
    if svid.id != id {
        let reason = format!("is {id}, but the leaf carries {}", svid.id);
        return Err(MessageError::new(id_field, reason));
    }
    Ok(svid)
}

fn own_bundle(field: &str, message: &X509svid) -> Result<X509Bundle, MessageError> {
    let id = spiffe_id(&format!("{field}.spiffe_id"), &message.spiffe_id)?;
    let field = format!("{field}.bundle");
    if message.bundle.is_empty() {
        return Err(MessageError::new(field, "is empty"));
    }
    X509Bundle::from_der(id.trust_domain(), &message.bundle)
        .map_err(|error| MessageError::new(field, error))
}

/// An empty one is taken: the federated domain has revoked its roots, and our own SVIDs must still
/// rotate. It is trusted for nothing.
fn federated_bundle(field: &str, key: &str, der: &[u8]) -> Result<X509Bundle, MessageError> {
    let field = format!("{field}[{key:?}]");
    let trust_domain = TrustDomain::parse(key)
        .map_err(|error| MessageError::new(&field, format!("the key {error}")))?;
    X509Bundle::from_der(trust_domain, der).map_err(|error| MessageError::new(field, error))
}

/// A key may be written in two ways, with and without the scheme. Of two bundles of one trust domain
/// chance would choose, since the entries of a map have no order.
fn check_new<T>(
    field: &str,
    bundles: &BTreeMap<TrustDomain, T>,
    trust_domain: &TrustDomain,
) -> Result<(), MessageError> {
    if bundles.contains_key(trust_domain) {
        let field = format!("{field}[{:?}]", trust_domain.as_str());
        return Err(MessageError::new(
            field,
            "is there twice, also with spiffe://",
        ));
    }
    Ok(())
}

fn check_count(field: &str, count: usize, max: usize) -> Result<(), MessageError> {
    if count > max {
        let reason = format!("has {count} entries; at most {max} are accepted");
        return Err(MessageError::new(field, reason));
    }
    Ok(())
}

/// An SVID's own bundle comes last and so replaces a federated one that claims its trust domain.
fn insert(
    bundles: &mut BTreeMap<TrustDomain, Arc<X509Bundle>>,
    bundle: X509Bundle,
    previous: Option<&IdentitySnapshot>,
) {
    let known = previous.and_then(|previous| previous.bundles.get(&bundle.trust_domain));
    let bundle = match known {
        Some(known) if **known == bundle => Arc::clone(known),
        _ => Arc::new(bundle),
    };
    bundles.insert(bundle.trust_domain.clone(), bundle);
}

fn shared(svid: X509Svid, previous: Option<&IdentitySnapshot>) -> Arc<X509Svid> {
    let known = previous
        .into_iter()
        .flat_map(|previous| &previous.svids)
        .find(|known| known.chain == svid.chain && known.hint == svid.hint);
    known.map_or_else(|| Arc::new(svid), Arc::clone)
}
