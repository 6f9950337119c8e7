//! JWT bundles: the keys of a trust domain, as a JWKS document (RFC 7517).

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use jsonwebtoken::{DecodingKey, jwk::Jwk};
use serde::Deserialize;
use serde_json::Value;

use crate::TrustDomain;

/// The JWT bundles of several trust domains.
pub type JwtBundles = BTreeMap<TrustDomain, Arc<JwtBundle>>;

/// Why a text is not a JWKS document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a JWKS document: {0}")]
pub struct JwksError(String);

/// The public keys that sign a trust domain's JWT-SVIDs.
#[derive(Clone)]
pub struct JwtBundle {
    keys: HashMap<String, DecodingKey>,
    jwks: Vec<u8>,
}

impl JwtBundle {
    /// Reads a JWKS document. Keys of unknown types, for X.509, or without a key id are passed over, as
    /// SPIFFE_Trust_Domain_and_Bundle.md asks.
    pub fn from_jwks(jwks: &[u8]) -> Result<Self, JwksError> {
        let document: Document =
            serde_json::from_slice(jwks).map_err(|error| JwksError(error.to_string()))?;
        let keys = document.keys.into_iter().filter_map(signing_key).collect();
        Ok(Self {
            keys,
            jwks: jwks.to_vec(),
        })
    }

    /// The document as it was read.
    pub fn jwks(&self) -> &[u8] {
        &self.jwks
    }

    /// The ids of the keys.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    pub(super) fn key(&self, id: &str) -> Option<&DecodingKey> {
        self.keys.get(id)
    }
}

impl PartialEq for JwtBundle {
    fn eq(&self, other: &Self) -> bool {
        self.jwks == other.jwks
    }
}

impl Eq for JwtBundle {}

impl fmt::Debug for JwtBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.key_ids()).finish()
    }
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

fn signing_key(value: Value) -> Option<(String, DecodingKey)> {
    let usage = value.get("use").and_then(Value::as_str);
    if !matches!(usage, None | Some("jwt-svid" | "sig")) {
        return None;
    }
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let id = jwk.common.key_id.clone()?;
    Some((id, DecodingKey::from_jwk(&jwk).ok()?))
}
