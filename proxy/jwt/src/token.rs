//! A token, taken apart.

use serde_json::Value;

use crate::{Algorithm, JwtError, Object, base64url, json};

/// One token. Nothing of it is verified.
#[derive(Debug)]
pub struct Token<'t> {
    pub header: Object,
    pub payload: Object,
    /// The payload as it stands in the token.
    pub encoded_payload: &'t str,
    pub(crate) algorithm: Algorithm,
    pub(crate) signed: &'t str,
    pub(crate) signature: Vec<u8>,
    not_before: Option<u64>,
    expires: Option<u64>,
}

impl<'t> Token<'t> {
    /// Reads the compact form.
    pub fn parse(text: &'t str) -> Result<Self, JwtError> {
        let (header, encoded_payload, signature) = sections(text).ok_or(JwtError::BadFormat)?;
        let signed = &text[..text.len() - signature.len() - 1];
        let header = base64url(header).ok_or(JwtError::HeaderBadBase64)?;
        let header = json::object(&header).ok_or(JwtError::HeaderBadJson)?;
        let algorithm = match header.get("alg") {
            Some(Value::String(name)) => Algorithm::named(name),
            _ => return Err(JwtError::HeaderBadAlg),
        };
        let algorithm = algorithm.ok_or(JwtError::HeaderNotImplementedAlg)?;
        // What a reader must understand, it must refuse if it does not (RFC 7515, section 4.1.11).
        if header.contains_key("crit") {
            return Err(JwtError::VerificationFail);
        }
        text_of(&header, "kid").map_err(|()| JwtError::HeaderBadKid)?;
        let payload = base64url(encoded_payload).ok_or(JwtError::PayloadBadBase64)?;
        let payload = json::object(&payload).ok_or(JwtError::PayloadBadJson)?;
        let times = claims(&payload)?;
        let signature = base64url(signature).ok_or(JwtError::SignatureBadBase64)?;
        Ok(Self {
            header,
            payload,
            encoded_payload,
            algorithm,
            signed,
            signature,
            not_before: times.not_before,
            expires: times.expires,
        })
    }

    /// `iss`; empty if there is none.
    pub fn issuer(&self) -> &str {
        string(&self.payload, "iss")
    }

    /// `sub`; empty if there is none.
    pub fn subject(&self) -> &str {
        string(&self.payload, "sub")
    }

    /// `aud`, one or a list.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        let list = match self.payload.get("aud") {
            Some(Value::Array(list)) => list.as_slice(),
            Some(one) => std::slice::from_ref(one),
            None => &[],
        };
        list.iter().filter_map(Value::as_str)
    }

    /// `exp`, in seconds since the epoch.
    pub fn expires(&self) -> Option<u64> {
        self.expires
    }

    /// Whether `now` is within its time, give or take `skew`; all in seconds since the epoch.
    pub fn is_timely(&self, now: u64, skew: u64) -> Result<(), JwtError> {
        if self
            .not_before
            .is_some_and(|it| now.saturating_add(skew) < it)
        {
            return Err(JwtError::NotYetValid);
        }
        if self.expires.is_some_and(|it| now > it.saturating_add(skew)) {
            return Err(JwtError::Expired);
        }
        Ok(())
    }

    /// `kid`; empty if there is none.
    pub(crate) fn key_id(&self) -> &str {
        string(&self.header, "kid")
    }
}

/// Three of them, none empty.
fn sections(text: &str) -> Option<(&str, &str, &str)> {
    let mut parts = text.split('.');
    let three = (parts.next()?, parts.next()?, parts.next()?);
    let has_empty = three.0.is_empty() || three.1.is_empty() || three.2.is_empty();
    (parts.next().is_none() && !has_empty).then_some(three)
}

struct Times {
    not_before: Option<u64>,
    expires: Option<u64>,
}

/// Checks the kinds of the registered claims.
fn claims(payload: &Object) -> Result<Times, JwtError> {
    let text = |name, error| text_of(payload, name).map_err(|()| error);
    text("iss", JwtError::IssNotString)?;
    text("sub", JwtError::SubNotString)?;
    let time = |name, not_integer, out_of_range| match payload.get(name) {
        None => Ok(None),
        Some(value) => {
            let number = value.as_f64().ok_or(not_integer)?;
            seconds(number).ok_or(out_of_range).map(Some)
        }
    };
    time("iat", JwtError::IatNotInteger, JwtError::IatOutOfRange)?;
    let not_before = time("nbf", JwtError::NbfNotInteger, JwtError::NbfOutOfRange)?;
    let expires = time("exp", JwtError::ExpNotInteger, JwtError::ExpOutOfRange)?;
    text("jti", JwtError::JtiNotString)?;
    match payload.get("aud") {
        None | Some(Value::String(_)) => {}
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => {}
        Some(_) => return Err(JwtError::AudNotString),
    }
    Ok(Times {
        not_before,
        expires,
    })
}

/// Whole seconds; a fraction counts for nothing.
fn seconds(number: f64) -> Option<u64> {
    const LIMIT: f64 = 18_446_744_073_709_551_616.0;
    // In this range the conversion only takes the fraction away.
    (0.0..LIMIT).contains(&number).then_some(number as u64)
}

fn text_of<'o>(object: &'o Object, name: &str) -> Result<Option<&'o str>, ()> {
    match object.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(()),
    }
}

fn string<'o>(object: &'o Object, name: &str) -> &'o str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}
