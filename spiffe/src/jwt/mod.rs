//! JWT-SVIDs and their bundles (JWT-SVID.md).

mod bundle;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{
    Algorithm, Header, Validation, dangerous::insecure_decode, decode, decode_header,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

pub use bundle::{JwksError, JwtBundle, JwtBundles};

use crate::{IdError, SpiffeId, TrustDomain};

/// The algorithms that JWT-SVID.md, section 2.1 admits.
const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// Why a token is not a JWT-SVID, or not one for us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    #[error("is not a JWT: {0}")]
    Malformed(String),
    #[error("has the algorithm {0:?}; a JWT-SVID is signed with RS, ES or PS")]
    Algorithm(Algorithm),
    #[error("has the type {0:?}; it must be absent, JWT or JOSE")]
    Type(String),
    #[error("has no key id (kid)")]
    NoKeyId,
    #[error("has the subject {subject:?}, which {source}")]
    Subject { subject: String, source: IdError },
    #[error("has no audience")]
    NoAudience,
    #[error("has the audience {found:?}, not {wanted:?}")]
    Audience { found: Vec<String>, wanted: String },
    #[error("expired")]
    Expired,
    #[error("there is no JWT bundle for trust domain {0}")]
    NoBundle(TrustDomain),
    #[error("the JWT bundle of trust domain {trust_domain} has no key {key_id:?}")]
    UnknownKey {
        trust_domain: TrustDomain,
        key_id: String,
    },
    #[error("is not signed by the key {0:?} of its trust domain")]
    Signature(String),
}

/// A JWT-SVID. Its token is a bearer secret: zeroised on drop and never printed.
#[derive(Clone)]
pub struct JwtSvid {
    pub id: SpiffeId,
    pub audience: Vec<String>,
    pub expires_at: SystemTime,
    pub hint: Option<String>,
    /// All claims, as in the token.
    pub claims: Map<String, Value>,
    token: Arc<Zeroizing<String>>,
}

impl JwtSvid {
    /// Reads a token that comes from one's own Workload API. The signature is not checked.
    pub fn parse_unverified(token: String, hint: String) -> Result<Self, JwtError> {
        let token = Zeroizing::new(token);
        check_header(&header(&token)?)?;
        let claims = insecure_decode::<Map<String, Value>>(token.as_bytes())
            .map_err(|error| JwtError::Malformed(error.to_string()))?
            .claims;
        Self::from_claims(token, claims, hint)
    }

    /// Checks a token that a peer sent: its form, signature, expiry and audience.
    pub fn validate(token: &str, audience: &str, bundles: &JwtBundles) -> Result<Self, JwtError> {
        let header = header(token)?;
        let key_id = check_header(&header)?;
        let unverified = Self::parse_unverified(token.to_owned(), String::new())?;
        let trust_domain = unverified.id.trust_domain();
        let bundle = bundles
            .get(&trust_domain)
            .ok_or_else(|| JwtError::NoBundle(trust_domain.clone()))?;
        let key = bundle.key(key_id).ok_or_else(|| JwtError::UnknownKey {
            trust_domain,
            key_id: key_id.to_owned(),
        })?;
        decode::<Map<String, Value>>(token, key, &signature_only(header.alg))
            .map_err(|_| JwtError::Signature(key_id.to_owned()))?;
        if unverified.expires_at < SystemTime::now() {
            return Err(JwtError::Expired);
        }
        if !unverified.audience.iter().any(|found| found == audience) {
            return Err(JwtError::Audience {
                found: unverified.audience,
                wanted: audience.to_owned(),
            });
        }
        Ok(unverified)
    }

    /// The compact form, to be sent as a bearer token.
    pub fn token(&self) -> &str {
        &self.token
    }

    fn from_claims(
        token: Zeroizing<String>,
        claims: Map<String, Value>,
        hint: String,
    ) -> Result<Self, JwtError> {
        let known: Claims = serde_json::from_value(Value::Object(claims.clone()))
            .map_err(|error| JwtError::Malformed(error.to_string()))?;
        let id = SpiffeId::parse(&known.sub).map_err(|source| JwtError::Subject {
            subject: known.sub.clone(),
            source,
        })?;
        let audience = known.aud.into_vec();
        if audience.is_empty() {
            return Err(JwtError::NoAudience);
        }
        let expires_at = Duration::try_from_secs_f64(known.exp)
            .ok()
            .and_then(|after| UNIX_EPOCH.checked_add(after))
            .ok_or_else(|| JwtError::Malformed("exp is out of range".into()))?;
        Ok(Self {
            id,
            audience,
            expires_at,
            hint: Some(hint).filter(|hint| !hint.is_empty()),
            claims,
            token: Arc::new(token),
        })
    }
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid")
            .field("id", &self.id)
            .field("audience", &self.audience)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    aud: Audience,
    exp: f64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(audience) => vec![audience],
            Self::Several(audiences) => audiences,
        }
    }
}

fn header(token: &str) -> Result<Header, JwtError> {
    decode_header(token).map_err(|error| JwtError::Malformed(error.to_string()))
}

/// Checks the header's rules and returns the key id.
fn check_header(header: &Header) -> Result<&str, JwtError> {
    if !ALGORITHMS.contains(&header.alg) {
        return Err(JwtError::Algorithm(header.alg));
    }
    match header.typ.as_deref() {
        None | Some("JWT" | "JOSE") => {}
        Some(other) => return Err(JwtError::Type(other.to_owned())),
    }
    header.kid.as_deref().ok_or(JwtError::NoKeyId)
}

/// Expiry and audience are checked by ourselves, so that each failure has its own error.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    validation
}
