//! SPIFFE IDs and trust domains, parsed by the standard's own rules and not as URLs.
//!
//! Invariant: a value of these types is valid; two values are equal exactly when their bytes are.
//! Source: SPIFFE-ID.md, section 2.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Longest SPIFFE ID, in bytes (SPIFFE-ID.md, section 2.3).
pub const MAX_ID_LEN: usize = 2048;
/// Longest trust domain name, in bytes.
pub const MAX_TRUST_DOMAIN_LEN: usize = 255;

const SCHEME: &str = "spiffe://";

/// Why a string is not a SPIFFE ID or not a trust domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("does not start with spiffe://")]
    Scheme,
    #[error("has no trust domain")]
    NoTrustDomain,
    #[error("trust domain has the character {0:?}; only a-z, 0-9, '.', '-' and '_' may be in it")]
    TrustDomainCharacter(char),
    #[error("trust domain is longer than {MAX_TRUST_DOMAIN_LEN} bytes")]
    TrustDomainLength,
    #[error(
        "path has the character {0:?}; only a-z, A-Z, 0-9, '.', '-' and '_' may be in a segment"
    )]
    PathCharacter(char),
    #[error("path has an empty segment")]
    EmptySegment,
    #[error("path has a '.' or '..' segment")]
    DotSegment,
    #[error("path ends with a slash")]
    TrailingSlash,
    #[error("is longer than {MAX_ID_LEN} bytes")]
    Length,
}

/// A trust domain name such as `example.org`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a bare name, or a trust domain's SPIFFE ID (`spiffe://example.org`).
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let name = text.strip_prefix(SCHEME).unwrap_or(text);
        check_trust_domain(name)?;
        Ok(Self(name.into()))
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain's own SPIFFE ID, `spiffe://<name>`.
    pub fn id(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A SPIFFE ID such as `spiffe://example.org/ns/default/sa/web`. It may have no path, as a signing
/// certificate's has none; [`SpiffeId::is_workload`] tells.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path starts in `text`; its length if there is none.
    path: usize,
}

impl SpiffeId {
    /// Parses the whole of `text`.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let rest = text.strip_prefix(SCHEME).ok_or(IdError::Scheme)?;
        if text.len() > MAX_ID_LEN {
            return Err(IdError::Length);
        }
        let slash = rest.find('/').unwrap_or(rest.len());
        check_trust_domain(&rest[..slash])?;
        check_path(&rest[slash..])?;
        Ok(Self {
            text: text.into(),
            path: SCHEME.len() + slash,
        })
    }

    /// The trust domain's bare name.
    pub fn trust_domain_name(&self) -> &str {
        &self.text[SCHEME.len()..self.path]
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.trust_domain_name().into())
    }

    /// The path with its leading slash; empty if there is none.
    pub fn path(&self) -> &str {
        &self.text[self.path..]
    }

    /// Whether the ID has a path, and so can name a workload.
    pub fn is_workload(&self) -> bool {
        self.path < self.text.len()
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_id(deserializer, Self::parse)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_id(deserializer, Self::parse)
    }
}

fn parse_id<'de, D: Deserializer<'de>, T, E: fmt::Display>(
    deserializer: D,
    parse: fn(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(|error| D::Error::custom(format!("{text:?} {error}")))
}

fn check_trust_domain(name: &str) -> Result<(), IdError> {
    if name.is_empty() {
        return Err(IdError::NoTrustDomain);
    }
    if name.len() > MAX_TRUST_DOMAIN_LEN {
        return Err(IdError::TrustDomainLength);
    }
    match name
        .chars()
        .find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_'))
    {
        Some(c) => Err(IdError::TrustDomainCharacter(c)),
        None => Ok(()),
    }
}

fn check_path(path: &str) -> Result<(), IdError> {
    if path.is_empty() {
        return Ok(());
    }
    if path.ends_with('/') {
        return Err(IdError::TrailingSlash);
    }
    for segment in path[1..].split('/') {
        match segment {
            "" => return Err(IdError::EmptySegment),
            "." | ".." => return Err(IdError::DotSegment),
            _ => {}
        }
        let bad = |c: &char| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_');
        if let Some(c) = segment.chars().find(bad) {
            return Err(IdError::PathCharacter(c));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn valid_ids_are_read() {
        for (text, trust_domain, path) in [
            ("spiffe://example.org", "example.org", ""),
            ("spiffe://example.org/a", "example.org", "/a"),
            (
                "spiffe://a-b_c.9/ns/x/sa/Y.z-_0",
                "a-b_c.9",
                "/ns/x/sa/Y.z-_0",
            ),
            ("spiffe://1.2.3.4/...", "1.2.3.4", "/..."),
            ("spiffe://td/.a/a./..b", "td", "/.a/a./..b"),
        ] {
            let id = SpiffeId::parse(text).unwrap();
            assert_eq!(id.trust_domain().as_str(), trust_domain);
            assert_eq!(id.path(), path);
            assert_eq!(id.is_workload(), !path.is_empty());
            assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn invalid_ids_are_refused_with_their_reason() {
        for (text, error) in [
            ("", IdError::Scheme),
            ("spiffe:/td/a", IdError::Scheme),
            ("SPIFFE://td/a", IdError::Scheme),
            ("https://td/a", IdError::Scheme),
            (" spiffe://td/a", IdError::Scheme),
            ("spiffe://", IdError::NoTrustDomain),
            ("spiffe:///a", IdError::NoTrustDomain),
            ("spiffe://Td/a", IdError::TrustDomainCharacter('T')),
            ("spiffe://td:80/a", IdError::TrustDomainCharacter(':')),
            ("spiffe://u@td/a", IdError::TrustDomainCharacter('@')),
            ("spiffe://t%64/a", IdError::TrustDomainCharacter('%')),
            ("spiffe://td?q", IdError::TrustDomainCharacter('?')),
            ("spiffe://td#f", IdError::TrustDomainCharacter('#')),
            ("spiffe://[::1]/a", IdError::TrustDomainCharacter('[')),
            ("spiffe://tд/a", IdError::TrustDomainCharacter('д')),
            ("spiffe://td\\a", IdError::TrustDomainCharacter('\\')),
            ("spiffe://td/", IdError::TrailingSlash),
            ("spiffe://td/a/", IdError::TrailingSlash),
            ("spiffe://td//a", IdError::EmptySegment),
            ("spiffe://td/a//b", IdError::EmptySegment),
            ("spiffe://td/./a", IdError::DotSegment),
            ("spiffe://td/a/..", IdError::DotSegment),
            ("spiffe://td/a b", IdError::PathCharacter(' ')),
            ("spiffe://td/a%2fb", IdError::PathCharacter('%')),
            ("spiffe://td/a?b", IdError::PathCharacter('?')),
            ("spiffe://td/a#b", IdError::PathCharacter('#')),
            ("spiffe://td/a\0", IdError::PathCharacter('\0')),
            ("spiffe://td/a\n", IdError::PathCharacter('\n')),
            ("spiffe://td/ä", IdError::PathCharacter('ä')),
        ] {
            assert_eq!(SpiffeId::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn lengths_are_limited() {
        let longest = "a".repeat(MAX_TRUST_DOMAIN_LEN);
        assert!(TrustDomain::parse(&longest).is_ok());
        let error = TrustDomain::parse(&format!("{longest}a")).unwrap_err();
        assert_eq!(error, IdError::TrustDomainLength);
        let longest = format!("spiffe://td/{}", "a".repeat(MAX_ID_LEN - 12));
        assert_eq!(
            SpiffeId::parse(&longest).unwrap().as_str().len(),
            MAX_ID_LEN
        );
        let error = SpiffeId::parse(&format!("{longest}a")).unwrap_err();
        assert_eq!(error, IdError::Length);
    }

    #[test]
    fn a_trust_domain_is_read_bare_or_as_an_id() {
        let bare = TrustDomain::parse("example.org").unwrap();
        assert_eq!(TrustDomain::parse("spiffe://example.org").unwrap(), bare);
        assert_eq!(bare.id(), "spiffe://example.org");
        assert!(TrustDomain::parse("spiffe://example.org/path").is_err());
        assert!(TrustDomain::parse("spiffe://spiffe://example.org").is_err());
    }

    proptest! {
        #[test]
        fn what_parses_prints_the_same(text in "spiffe://[a-z./A-Z0-9%_-]{0,40}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(id.as_str(), text.as_str());
                prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
                prop_assert!(!id.path().split('/').any(|s| s == "." || s == ".."));
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = SpiffeId::parse(&text);
            let _ = SpiffeId::parse(&format!("spiffe://{text}"));
            let _ = TrustDomain::parse(&text);
        }

        #[test]
        fn each_well_formed_id_parses(
            trust_domain in "[a-z0-9._-]{1,40}",
            segments in proptest::collection::vec("[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,9}", 0..6),
        ) {
            let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
            let id = SpiffeId::parse(&format!("spiffe://{trust_domain}{path}")).unwrap();
            prop_assert_eq!(id.trust_domain_name(), trust_domain);
            prop_assert_eq!(id.path(), path);
        }
    }
}
