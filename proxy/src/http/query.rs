//! Parameters of a query.

use std::borrow::Cow;

use super::request::Request;

/// The first of that name in the query.
pub(super) fn parameter(request: &Request, name: &str) -> Option<String> {
    let pairs = request.query()?.split(|b| *b == b'&');
    let mut pairs = pairs.map(pair);
    let (_, value) = pairs.find(|(key, _)| *decoded(key) == *name.as_bytes())?;
    Some(String::from_utf8_lossy(&decoded(value)).into_owned())
}

pub(super) fn pair(text: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'=', text) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &[]),
    }
}

/// Percent-encoding taken away; what is no encoding stays.
pub(super) fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'%', text).is_none() {
        return Cow::Borrowed(text);
    }
    let digit = |at: usize| char::from(*text.get(at)?).to_digit(16);
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                // Two digits of four bits.
                out.push((high << 4 | low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    Cow::Owned(out)
}
