//! JSON Web Tokens (RFC 7519) as bearers show them: signed in the compact form (RFC 7515), with
//! keys from a JSON Web Key Set (RFC 7517).
//!
//! Invariants: what a token says counts for nothing before [`KeySet::verify`]; a key verifies only
//! the algorithms of its own kind, whatever a token asks for, so `none` and a public key taken for
//! a secret are refused; each token has one spelling only (base64url without padding or stray bits,
//! JSON without repeated names), so that no two readers can differ about it. Nothing here panics on
//! what a peer sent.

mod algorithm;
mod error;
mod json;
mod jwks;
#[cfg(test)]
mod tests;
mod token;

pub use algorithm::Algorithm;
pub use error::JwtError;
pub use jwks::{JwksError, KeySet};
pub use serde_json::{Map, Value};
pub use token::Token;

/// A JSON object.
pub type Object = Map<String, Value>;

/// Base64url without padding (RFC 7515, section 2).
fn base64url(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(text)
        .ok()
}
