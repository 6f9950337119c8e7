//! Which subject alternative names a peer must have (`SubjectAltNameMatcher`).

use crate::certificate::Sans;

/// Which SAN, and what it must be.
#[derive(Clone, Debug)]
pub struct SanMatcher {
    /// `None`: any type (the deprecated `match_subject_alt_names`).
    pub san: Option<SanType>,
    pub pattern: SanPattern,
    /// Of ASCII letters. A regular expression says so itself, with `(?i)`.
    pub ignore_case: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SanType {
    Dns,
    Uri,
    Email,
    Ip,
}

#[derive(Clone, Debug)]
pub enum SanPattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    /// Must match the whole name: build it with [`SanPattern::regex`].
    Regex(regex::Regex),
}

impl SanPattern {
    /// A regular expression that must match the whole name, as in Envoy.
    ///
    /// # Errors
    /// When it does not compile.
    pub fn regex(pattern: &str) -> Result<Self, regex::Error> {
        // On its own first, so that `a)(b` is an error and not two groups of ours.
        regex::Regex::new(pattern)?;
        regex::Regex::new(&format!(r"\A(?:{pattern})\z")).map(Self::Regex)
    }
}

impl SanMatcher {
    /// Whether any of the names matches.
    pub(crate) fn matches(&self, sans: &Sans<'_>) -> bool {
        let of = |san: SanType| self.san.is_none_or(|wanted| wanted == san);
        self.matches_uri(sans)
            || (of(SanType::Dns) && plain(&sans.dns).any(|name| self.matches_dns(name)))
            || (of(SanType::Email) && plain(&sans.emails).any(|email| self.matches_text(email)))
            || (of(SanType::Ip) && sans.ips.iter().any(|ip| self.matches_text(&ip.to_string())))
    }

    /// Whether the URI matches. In a trust domain nothing else does: its CA vouches for the SPIFFE ID
    /// alone, and a foreign one could write into a DNS name whom it likes to be taken for.
    pub(crate) fn matches_uri(&self, sans: &Sans<'_>) -> bool {
        self.san.is_none_or(|wanted| wanted == SanType::Uri)
            && sans.uris.iter().any(|uri| self.matches_text(uri))
    }

    /// An exact DNS matcher honours a wildcard in the certificate, and DNS names have no case.
    fn matches_dns(&self, presented: &str) -> bool {
        match &self.pattern {
            SanPattern::Exact(wanted) => dns_name_matches(presented, wanted),
            _ => self.matches_text(presented),
        }
    }

    fn matches_text(&self, text: &str) -> bool {
        let (text, fold) = (text.as_bytes(), self.ignore_case);
        let same = |a: &[u8], b: &str| {
            if fold {
                a.eq_ignore_ascii_case(b.as_bytes())
            } else {
                a == b.as_bytes()
            }
        };
        match &self.pattern {
            SanPattern::Exact(exact) => same(text, exact),
            SanPattern::Prefix(prefix) => text
                .get(..prefix.len())
                .is_some_and(|start| same(start, prefix)),
            SanPattern::Suffix(suffix) => text
                .len()
                .checked_sub(suffix.len())
                .is_some_and(|start| same(&text[start..], suffix)),
            SanPattern::Contains(part) => {
                part.is_empty() || text.windows(part.len()).any(|window| same(window, part))
            }
            SanPattern::Regex(regex) => str::from_utf8(text).is_ok_and(|text| regex.is_match(text)),
        }
    }
}

/// Those of the DNS names and mail addresses that do not pose as something with a scheme or a path.
fn plain<'s>(names: &'s [&'s str]) -> impl Iterator<Item = &'s str> {
    names.iter().copied().filter(|name| is_plain(name))
}

/// Whether a DNS name or a mail address has neither a scheme nor a path, as the names that policies
/// know workloads by do.
pub fn is_plain(name: &str) -> bool {
    !name.contains([':', '/'])
}

/// Whether the DNS name `presented` by a certificate covers `wanted`: the same name, or `*` for its
/// whole first label (RFC 6125, section 6.4.3).
pub(crate) fn dns_name_matches(presented: &str, wanted: &str) -> bool {
    if presented.eq_ignore_ascii_case(wanted) {
        return true;
    }
    let Some(parent) = presented.strip_prefix("*.") else {
        return false;
    };
    // A wildcard over a public suffix such as `*.com` is never asked for by an honest name.
    let Some((label, rest)) = wanted.split_once('.') else {
        return false;
    };
    !label.is_empty() && parent.contains('.') && rest.eq_ignore_ascii_case(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sans() -> Sans<'static> {
        Sans {
            uris: vec!["spiffe://example.org/ns/a/sa/b"],
            dns: vec!["*.example.org", "web.test"],
            emails: vec!["ops@example.org"],
            ips: vec![[10, 0, 0, 1].into()],
        }
    }

    fn matches(san: Option<SanType>, pattern: SanPattern, ignore_case: bool) -> bool {
        let matcher = SanMatcher {
            san,
            pattern,
            ignore_case,
        };
        matcher.matches(&sans())
    }

    #[test]
    fn each_pattern_on_a_uri() {
        use SanPattern::{Contains, Exact, Prefix, Suffix};
        let uri = Some(SanType::Uri);
        let id = "spiffe://example.org/ns/a/sa/b";
        for (pattern, expected) in [
            (Exact(id.into()), true),
            (Exact("spiffe://example.org/ns/a/sa".into()), false),
            (Exact(format!("{id}c")), false),
            (Prefix("spiffe://example.org/".into()), true),
            (Prefix("spiffe://example.org.evil/".into()), false),
            (Prefix(format!("{id}/longer")), false),
            (Suffix("/sa/b".into()), true),
            (Suffix("/sa/c".into()), false),
            (Contains("/ns/a/".into()), true),
            (Contains("/ns/b/".into()), false),
            (SanPattern::regex("spiffe://[^/]+/ns/a/.*").unwrap(), true),
            (SanPattern::regex("spiffe://example").unwrap(), false),
            (SanPattern::regex("ns|spiffe://.*").unwrap(), true),
        ] {
            assert_eq!(
                matches(uri, pattern.clone(), false),
                expected,
                "{pattern:?}"
            );
        }
    }

    #[test]
    fn case_counts_unless_told() {
        let pattern = SanPattern::Prefix("SPIFFE://EXAMPLE.org/".into());
        assert!(!matches(Some(SanType::Uri), pattern.clone(), false));
        assert!(matches(Some(SanType::Uri), pattern, true));
    }

    #[test]
    fn types_are_kept_apart() {
        let email = SanPattern::Exact("ops@example.org".into());
        assert!(matches(Some(SanType::Email), email.clone(), false));
        assert!(!matches(Some(SanType::Uri), email.clone(), false));
        assert!(matches(None, email, false));
        assert!(matches(
            Some(SanType::Ip),
            SanPattern::Exact("10.0.0.1".into()),
            false
        ));
        assert!(!matches(
            Some(SanType::Dns),
            SanPattern::Exact("10.0.0.1".into()),
            false
        ));
    }

    #[test]
    fn exact_dns_names_honour_wildcards() {
        for (wanted, expected) in [
            ("a.example.org", true),
            ("A.EXAMPLE.ORG", true),
            ("a.b.example.org", false),
            ("example.org", false),
            (".example.org", false),
            ("web.test", true),
            ("other.test", false),
        ] {
            let pattern = SanPattern::Exact(wanted.into());
            assert_eq!(
                matches(Some(SanType::Dns), pattern, false),
                expected,
                "{wanted}"
            );
        }
        assert!(!dns_name_matches("*.org", "example.org"));
    }

    #[test]
    fn a_dns_name_does_not_pose_as_an_id() {
        let id = "spiffe://example.org/ns/a/sa/b";
        for posing in [id, "x/ns/a/sa/b"] {
            let sans = Sans {
                dns: vec![posing],
                emails: vec![posing],
                ..Sans::default()
            };
            for pattern in [
                SanPattern::Exact(id.into()),
                SanPattern::Prefix("spiffe://example.org/".into()),
                SanPattern::Suffix("/ns/a/sa/b".into()),
                SanPattern::Contains("/ns/a/".into()),
                SanPattern::regex(".*/ns/a/.*").unwrap(),
            ] {
                let matcher = SanMatcher {
                    san: None,
                    pattern,
                    ignore_case: false,
                };
                assert!(!matcher.matches(&sans), "{posing} {matcher:?}");
            }
        }
    }

    #[test]
    fn a_regex_cannot_break_out_of_its_anchors() {
        assert!(SanPattern::regex("a)(b").is_err());
    }
}
