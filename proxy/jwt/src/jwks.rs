//! The keys of an issuer.

use std::fmt;

use aws_lc_rs::{
    hmac,
    signature::{self, ParsedPublicKey, RsaPublicKeyComponents},
};
use serde_json::Value;

use crate::{Algorithm, JwtError, Object, Token, base64url, json};

/// A key set. Keys that cannot verify anything are left out, each with its reason.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
    left_out: Vec<String>,
}

/// Why there is no key set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    #[error("is not a JSON object in which every name stands once")]
    NotJson,
    #[error("has no list \"keys\"")]
    NoKeys,
    #[error("has no key that can be used{0}")]
    NoneUsable(String),
}

struct Key {
    /// Empty: that of any token.
    id: Box<str>,
    /// `alg`: what it is for, and nothing else.
    only: Option<Algorithm>,
    /// Each algorithm that this key may verify, with what does it.
    verifiers: Vec<(Algorithm, Verifier)>,
}

enum Verifier {
    Public(ParsedPublicKey),
    Secret(Box<hmac::Key>),
}

impl KeySet {
    /// Reads a JSON Web Key Set.
    pub fn parse(text: &[u8]) -> Result<Self, JwksError> {
        let set = json::object(text).ok_or(JwksError::NotJson)?;
        let Some(Value::Array(list)) = set.get("keys") else {
            return Err(JwksError::NoKeys);
        };
        let (mut keys, mut left_out) = (Vec::new(), Vec::new());
        for (index, key) in list.iter().enumerate() {
            match Key::read(key) {
                Ok(key) => keys.push(key),
                Err(reason) => left_out.push(format!("keys[{index}]: {reason}")),
            }
        }
        if keys.is_empty() {
            let reasons = left_out.iter().map(|it| format!("; {it}"));
            return Err(JwksError::NoneUsable(reasons.collect()));
        }
        Ok(Self { keys, left_out })
    }

    /// Which keys were left out, and why.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Whether one of the keys made this token's signature.
    pub fn verify(&self, token: &Token<'_>) -> Result<(), JwtError> {
        let wanted = token.key_id();
        let mut error = JwtError::NoKey;
        for key in &self.keys {
            if !wanted.is_empty() && !key.id.is_empty() && *key.id != *wanted {
                continue;
            }
            match key.verify(token) {
                Ok(()) => return Ok(()),
                Err(JwtError::NoKey) => {}
                Err(other) => error = other,
            }
        }
        Err(error)
    }
}

impl Key {
    fn read(key: &Value) -> Result<Self, &'static str> {
        let key = key.as_object().ok_or("is not an object")?;
        let named = |name: &str| match key.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err("a field is not a string"),
        };
        if named("use")?.is_some_and(|it| it != "sig") {
            return Err("use is not sig");
        }
        let operations = key.get("key_ops").and_then(Value::as_array);
        if operations.is_some_and(|list| !list.iter().any(|it| it == "verify")) {
            return Err("key_ops has no verify");
        }
        let mut verifiers = match named("kty")? {
            Some("RSA") => rsa(key)?,
            Some("EC") => elliptic(key)?,
            Some("OKP") => edwards(key)?,
            Some("oct") => symmetric(key)?,
            Some(_) => return Err("kty is none of RSA, EC, OKP and oct"),
            None => return Err("has no kty"),
        };
        let only = match named("alg")? {
            Some(name) => Some(Algorithm::named(name).ok_or("alg is not supported")?),
            None => None,
        };
        verifiers.retain(|(algorithm, _)| only.is_none_or(|only| *algorithm == only));
        if verifiers.is_empty() {
            return Err("alg does not fit the key");
        }
        let id = named("kid")?.unwrap_or_default().into();
        Ok(Self {
            id,
            only,
            verifiers,
        })
    }

    /// [`JwtError::NoKey`] if the key is for another algorithm by its own word.
    fn verify(&self, token: &Token<'_>) -> Result<(), JwtError> {
        if self.only.is_some_and(|only| only != token.algorithm) {
            return Err(JwtError::NoKey);
        }
        let mut verifiers = self.verifiers.iter();
        let verifier = verifiers.find(|(algorithm, _)| *algorithm == token.algorithm);
        let (_, verifier) = verifier.ok_or(JwtError::VerificationFail)?;
        let (message, signature) = (token.signed.as_bytes(), &*token.signature);
        let verified = match verifier {
            Verifier::Public(key) => key.verify_sig(message, signature),
            Verifier::Secret(key) => hmac::verify(key, message, signature),
        };
        verified.map_err(|_| JwtError::VerificationFail)
    }
}

/// Secrets stay out of what is printed.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithms = self.verifiers.iter().map(|(algorithm, _)| algorithm);
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithms", &algorithms.collect::<Vec<_>>())
            .finish()
    }
}

type Verifiers = Result<Vec<(Algorithm, Verifier)>, &'static str>;

/// Shortest modulus in bytes (RFC 7518, section 3.3).
const MIN_MODULUS: usize = 256;
/// Longest one: what a key costs to use grows with its square.
const MAX_MODULUS: usize = 1024;

fn rsa(key: &Object) -> Verifiers {
    let modulus = number(key, "n").ok_or("n is not a number in base64url")?;
    let exponent = number(key, "e").ok_or("e is not a number in base64url")?;
    if !(MIN_MODULUS..=MAX_MODULUS).contains(&modulus.len()) {
        return Err("n is not of 2048 to 8192 bits");
    }
    let components = RsaPublicKeyComponents {
        n: &modulus,
        e: &exponent,
    };
    let one = |algorithm: Algorithm| {
        let parameters = algorithm.rsa()?;
        let key = components.to_parsed_public_key(parameters).ok()?;
        Some((algorithm, Verifier::Public(key)))
    };
    let all: Option<Vec<_>> = Algorithm::RSA.into_iter().map(one).collect();
    all.ok_or("n and e are no RSA key")
}

/// The bytes of a number without zeros before it.
fn number(key: &Object, name: &str) -> Option<Vec<u8>> {
    let bytes = octets(key, name)?;
    let start = bytes.iter().position(|byte| *byte != 0)?;
    Some(bytes[start..].to_vec())
}

fn elliptic(key: &Object) -> Verifiers {
    let (algorithm, verification, length): (_, &'static signature::EcdsaVerificationAlgorithm, _) =
        match key.get("crv").and_then(Value::as_str) {
            Some("P-256") => (Algorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED, 32),
            Some("P-384") => (Algorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED, 48),
            Some("P-521") => (Algorithm::Es512, &signature::ECDSA_P521_SHA512_FIXED, 66),
            _ => return Err("crv is none of P-256, P-384 and P-521"),
        };
    // Uncompressed (SEC 1, section 2.3.3).
    let mut point = vec![4];
    for name in ["x", "y"] {
        let coordinate = octets(key, name).filter(|it| it.len() == length);
        point.extend(coordinate.ok_or("x or y is not a coordinate of its curve in base64url")?);
    }
    let key = ParsedPublicKey::new(verification, &point).map_err(|_| "x and y are no EC key")?;
    Ok(vec![(algorithm, Verifier::Public(key))])
}

fn edwards(key: &Object) -> Verifiers {
    if key.get("crv").and_then(Value::as_str) != Some("Ed25519") {
        return Err("crv is not Ed25519");
    }
    let bytes = octets(key, "x").ok_or("x is not base64url")?;
    let key = ParsedPublicKey::new(&signature::ED25519, &bytes);
    let key = key.map_err(|_| "x is no Ed25519 key")?;
    Ok(vec![(Algorithm::EdDsa, Verifier::Public(key))])
}

fn symmetric(key: &Object) -> Verifiers {
    let secret = octets(key, "k").filter(|secret| !secret.is_empty());
    let secret = secret.ok_or("k is not base64url, or empty")?;
    let one = |algorithm: Algorithm| {
        let key = hmac::Key::new(algorithm.hmac()?, &secret);
        Some((algorithm, Verifier::Secret(Box::new(key))))
    };
    Ok(Algorithm::HMAC.into_iter().filter_map(one).collect())
}

/// Some issuers pad; the bytes are the same.
fn octets(key: &Object, name: &str) -> Option<Vec<u8>> {
    base64url(key.get(name)?.as_str()?.trim_end_matches('='))
}
