//! Host names and wildcards, as Istio compares them.

/// Longest DNS name.
const MAX_NAME: usize = 253;
/// Longest part of a DNS name.
const MAX_LABEL: usize = 63;

/// Whether `name` is a DNS name or an address, `*.` before a DNS name, or `*`.
pub(crate) fn is_valid(name: &str) -> bool {
    name == "*" || is_fqdn(name.strip_prefix("*.").unwrap_or(name)) || is_address(name)
}

/// Whether `name` is a DNS name without a wildcard.
pub(crate) fn is_fqdn(name: &str) -> bool {
    name.len() <= MAX_NAME && name.trim_end_matches('.').split('.').all(is_label)
}

/// Whether `label` is one part of a DNS name.
pub(crate) fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= MAX_LABEL
        && !bytes.starts_with(b"-")
        && !bytes.ends_with(b"-")
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-' || *byte == b'_')
}

pub(crate) fn is_address(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
}

pub(crate) fn is_wildcard(name: &str) -> bool {
    name.starts_with('*')
}

/// The full name that `name` means in `namespace`: names without a dot are services there.
pub(crate) fn resolve(name: &str, namespace: &str, cluster_domain: &str) -> String {
    if name.contains(['.', '*', ':']) {
        name.to_ascii_lowercase()
    } else {
        format!(
            "{}.{namespace}.svc.{cluster_domain}",
            name.to_ascii_lowercase()
        )
    }
}

/// Whether every name that `inner` stands for is one that `outer` stands for.
pub(crate) fn covers(outer: &str, inner: &str) -> bool {
    match outer.strip_prefix('*') {
        None => outer == inner,
        Some("") => true,
        Some(suffix) => {
            let inner = inner.strip_prefix('*').unwrap_or(inner);
            inner.ends_with(suffix)
        }
    }
}

/// The narrower of two names, if one covers the other.
pub(crate) fn intersection<'a>(a: &'a str, b: &'a str) -> Option<&'a str> {
    if covers(a, b) {
        Some(b)
    } else if covers(b, a) {
        Some(a)
    } else {
        None
    }
}

/// Which of `patterns` is the most specific one that stands for `name`: the name itself, else the
/// longest wildcard.
pub(crate) fn most_specific<'a>(
    name: &str,
    patterns: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    patterns
        .filter(|pattern| covers(pattern, name))
        .max_by_key(|pattern| (!is_wildcard(pattern), pattern.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_names_below_them() {
        for (outer, inner, expected) in [
            ("*", "a.com", true),
            ("*", "*.a.com", true),
            ("*", "*", true),
            ("*.a.com", "b.a.com", true),
            ("*.a.com", "c.b.a.com", true),
            ("*.a.com", "*.b.a.com", true),
            ("*.a.com", "*.a.com", true),
            ("*.a.com", "a.com", false),
            ("*.a.com", "ba.com", false),
            ("*.a.com", "*", false),
            ("a.com", "a.com", true),
            ("a.com", "*.a.com", false),
        ] {
            assert_eq!(covers(outer, inner), expected, "{outer} covers {inner}");
        }
    }

    #[test]
    fn the_most_specific_pattern_wins() {
        let patterns = ["*", "*.com", "*.a.com", "b.a.com"];
        let of = |name| most_specific(name, patterns.into_iter());
        assert_eq!(of("b.a.com"), Some("b.a.com"));
        assert_eq!(of("c.a.com"), Some("*.a.com"));
        assert_eq!(of("a.com"), Some("*.com"));
        assert_eq!(of("a.org"), Some("*"));
        assert_eq!(most_specific("a.org", ["*.com"].into_iter()), None);
    }

    #[test]
    fn short_names_are_services_of_the_namespace() {
        assert_eq!(
            resolve("httpbin", "foo", "cluster.local"),
            "httpbin.foo.svc.cluster.local"
        );
        assert_eq!(
            resolve("App.example.org", "foo", "cluster.local"),
            "app.example.org"
        );
        assert_eq!(resolve("*", "foo", "cluster.local"), "*");
    }
}
