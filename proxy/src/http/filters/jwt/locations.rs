//! Where the tokens of a request stand.

use bytes::Bytes;
use http::HeaderName;
use smallvec::SmallVec;

use crate::{
    config::jwt::{Issuers, Locations},
    http::{
        query::{decoded, pair, parameter},
        request::Request,
    },
};

/// A token, and where it was.
pub(super) struct Found<'l> {
    pub(super) text: String,
    pub(super) issuers: &'l Issuers,
    pub(super) place: Place<'l>,
}

#[derive(Clone, Copy)]
pub(super) enum Place<'l> {
    Header(&'l HeaderName),
    Parameter(&'l str),
    Cookie,
}

/// Most requests have one.
pub(super) type Tokens<'l> = SmallVec<[Found<'l>; 1]>;

/// All tokens at these places.
pub(super) fn tokens<'l>(locations: &'l Locations, request: &Request) -> Tokens<'l> {
    let mut tokens = Tokens::new();
    for location in &locations.headers {
        let Some(value) = request.headers.joined(location.header.as_str()) else {
            continue;
        };
        if let Some(token) = behind_prefix(&value, &location.prefix) {
            tokens.push(Found {
                text: String::from_utf8_lossy(token).into_owned(),
                issuers: &location.issuers,
                place: Place::Header(&location.header),
            });
        }
    }
    for location in &locations.parameters {
        if let Some(text) = parameter(request, &location.name) {
            tokens.push(Found {
                text,
                issuers: &location.issuers,
                place: Place::Parameter(&location.name),
            });
        }
    }
    for location in &locations.cookies {
        if let Some(text) = cookie(request, &location.name) {
            tokens.push(Found {
                text,
                issuers: &location.issuers,
                place: Place::Cookie,
            });
        }
    }
    tokens
}

/// What is behind the first `prefix`, from the first byte that may be of a token on.
fn behind_prefix<'v>(value: &'v [u8], prefix: &str) -> Option<&'v [u8]> {
    if prefix.is_empty() {
        return Some(value);
    }
    let start = memchr::memmem::find(value, prefix.as_bytes())? + prefix.len();
    let rest = &value[start..];
    let is_of_token = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
    let skipped = rest.iter().position(is_of_token);
    Some(skipped.map_or(value, |skipped| &rest[skipped..]))
}

/// The request's path without the parameters of that name; `None` if it has none.
pub(super) fn without_parameter(request: &Request, name: &str) -> Option<Bytes> {
    let query = request.query()?;
    let pairs = query.split(|b| *b == b'&');
    let others = pairs.filter(|it| *decoded(pair(it).0) != *name.as_bytes());
    let others: Vec<_> = others.collect();
    let mut path = request.path_only().to_vec();
    if !others.is_empty() {
        path.push(b'?');
        path.extend(others.join(&b'&'));
    }
    Some(path.into())
}

/// The first of that name.
fn cookie(request: &Request, name: &str) -> Option<String> {
    let fields = request.headers.iter();
    let fields = fields.filter(|it| it.name.as_bytes().eq_ignore_ascii_case(b"cookie"));
    let mut cookies = fields.flat_map(|field| field.value.split(|b| *b == b';'));
    let value = cookies.find_map(|it| {
        let (key, value) = pair(it.trim_ascii());
        (*key.trim_ascii() == *name.as_bytes()).then_some(value)
    })?;
    let quoted = value
        .strip_prefix(b"\"")
        .and_then(|it| it.strip_suffix(b"\""));
    Some(String::from_utf8_lossy(quoted.unwrap_or(value)).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_behind_their_prefix() {
        let behind = |value: &'static str| {
            let token = behind_prefix(value.as_bytes(), "Bearer ")?;
            Some(String::from_utf8_lossy(token).into_owned())
        };
        for (value, expected) in [
            ("Bearer a.b.c", Some("a.b.c")),
            ("Bearer  =,a.b.c", Some("a.b.c")),
            ("x Bearer a.b.c, d", Some("a.b.c, d")),
            ("Bearer ===", Some("Bearer ===")),
            ("Bearer", None),
            ("bearer a.b.c", None),
            ("Basic a.b.c", None),
        ] {
            assert_eq!(behind(value).as_deref(), expected, "{value}");
        }
        assert_eq!(behind_prefix(b"any", ""), Some(&b"any"[..]));
    }

    #[test]
    fn parameters_are_found_and_taken_away() {
        let mut request = Request::unreadable();
        for (path, value, without) in [
            ("/", None, None),
            ("/?", None, Some("/?")),
            ("/p?t=a.b", Some("a.b"), Some("/p")),
            ("/p?x=%20&%74=a%2eb&y", Some("a.b"), Some("/p?x=%20&y")),
            ("/p?t=a&t=b", Some("a"), Some("/p")),
            ("/p?t", Some(""), Some("/p")),
            ("/p?t=%zz%4", Some("%zz%4"), Some("/p")),
        ] {
            request.path = Bytes::from_static(path.as_bytes());
            assert_eq!(parameter(&request, "t").as_deref(), value, "{path}");
            let found = without_parameter(&request, "t");
            let expected = without.map(|it| Bytes::from_static(it.as_bytes()));
            assert_eq!(found, expected, "{path}");
        }
    }
}
