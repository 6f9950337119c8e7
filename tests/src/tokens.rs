//! JSON Web Tokens, by an issuer of the tests.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

const KEY_ID: &str = "tests";
/// Far enough away for any test.
pub const IN_2099: u64 = 4_070_908_800;

/// Who signs tokens, with a key of its own.
pub struct Signer(EcdsaKeyPair);

impl Signer {
    #[allow(clippy::new_without_default, reason = "no two are the same")]
    pub fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Self(key.expect("a key"))
    }

    /// The key that verifies its tokens, as a set.
    pub fn jwks(&self) -> String {
        let point = self.0.public_key().as_ref();
        // SEC 1: an octet that says that both coordinates follow.
        let (x, y) = point[1..].split_at(point.len() / 2);
        let text = |bytes| URL_SAFE_NO_PAD.encode(bytes);
        let key = json!({"kty": "EC", "crv": "P-256", "kid": KEY_ID, "x": text(x), "y": text(y)});
        json!({"keys": [key]}).to_string()
    }

    /// A token with `claims`, which expires in 2099 if they do not say when.
    pub fn token(&self, mut claims: Value) -> String {
        if claims["exp"].is_null() {
            claims["exp"] = IN_2099.into();
        }
        let head = json!({"alg": "ES256", "typ": "JWT", "kid": KEY_ID});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&head), part(&claims));
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(signature.expect("it signs"));
        format!("{signed}.{signature}")
    }
}
