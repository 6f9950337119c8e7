//! Signs JWT-SVIDs (ES256) and publishes the key as JWKS.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use super::{
    AuthorityError,
    ca::{KeyType, Serial},
};
use crate::{JwtBundle, JwtSvid, SpiffeId};

/// One signing key with its public half.
pub(super) struct JwtAuthority {
    key_id: String,
    key: EncodingKey,
    bundle: Arc<JwtBundle>,
}

impl JwtAuthority {
    pub(super) fn new() -> Result<Self, AuthorityError> {
        let key = KeyType::EcP256.generate()?;
        let key_id = Serial::random().to_string();
        // An uncompressed point: 4, x, y.
        let (x, y) = key.public_key_raw()[1..].split_at(32);
        let jwks = json!({
            "keys": [{
                "use": "jwt-svid",
                "kty": "EC",
                "crv": "P-256",
                "kid": key_id,
                "x": URL_SAFE_NO_PAD.encode(x),
                "y": URL_SAFE_NO_PAD.encode(y),
            }],
        });
        let bundle = JwtBundle::from_jwks(jwks.to_string().as_bytes());
        Ok(Self {
            key: EncodingKey::from_ec_der(&key.serialize_der()),
            key_id,
            bundle: Arc::new(bundle.expect("our own JWKS document is one")),
        })
    }

    pub(super) fn bundle(&self) -> Arc<JwtBundle> {
        Arc::clone(&self.bundle)
    }

    /// `None` if the clock is before 1970.
    pub(super) fn mint(
        &self,
        id: &SpiffeId,
        hint: Option<&str>,
        audience: &[String],
        ttl: Duration,
    ) -> Option<JwtSvid> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let claims = json!({
            "sub": id,
            "aud": audience,
            "iat": now.as_secs(),
            "exp": (now + ttl).as_secs(),
        });
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        let token = encode(&header, &claims, &self.key).ok()?;
        JwtSvid::parse_unverified(token, hint.unwrap_or_default().to_owned()).ok()
    }
}
