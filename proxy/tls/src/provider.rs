//! The crypto provider, and its names as OpenSSL and BoringSSL (hence Envoy) write them.

use std::sync::{Arc, LazyLock};

use rustls::{
    CipherSuite, NamedGroup, ProtocolVersion, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{
        CryptoProvider, SupportedKxGroup,
        aws_lc_rs::{self, cipher_suite as suite, kx_group as group},
    },
};

use crate::{MaterialError, TlsVersion};

/// TLS 1.2 suites in our order of preference, by OpenSSL's names. AES-128 comes first: it is as
/// safe here, and a third cheaper per byte.
const TLS12_SUITES: [(&str, SupportedCipherSuite); 6] = [
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// All suites of TLS 1.2 that we have.
pub(crate) fn tls12_suites() -> impl Iterator<Item = SupportedCipherSuite> {
    TLS12_SUITES.iter().map(|(_, suite)| *suite)
}

/// TLS 1.3 suites; as with BoringSSL they are not configurable.
const TLS13_SUITES: [(&str, SupportedCipherSuite); 3] = [
    ("TLS_AES_128_GCM_SHA256", suite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", suite::TLS13_AES_256_GCM_SHA384),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        suite::TLS13_CHACHA20_POLY1305_SHA256,
    ),
];

/// Groups in our order of preference: the post-quantum hybrid first.
const GROUPS: [(&str, &dyn SupportedKxGroup); 4] = [
    ("X25519MLKEM768", group::X25519MLKEM768),
    ("X25519", group::X25519),
    ("P-256", group::SECP256R1),
    ("P-384", group::SECP384R1),
];

/// Names that people write for some of [`GROUPS`].
const GROUP_ALIASES: [(&str, &str); 5] = [
    ("x25519", "X25519"),
    ("prime256v1", "P-256"),
    ("secp256r1", "P-256"),
    ("P256", "P-256"),
    ("secp384r1", "P-384"),
];

/// Everything that we speak.
pub(crate) fn default_provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let suites = TLS13_SUITES.iter().chain(&TLS12_SUITES);
        Arc::new(CryptoProvider {
            cipher_suites: suites.map(|(_, suite)| *suite).collect(),
            kx_groups: GROUPS.iter().map(|(_, group)| *group).collect(),
            ..aws_lc_rs::default_provider()
        })
    });
    &PROVIDER
}

/// The provider narrowed to the suites and groups that a configuration names, in its order.
///
/// Each entry may be a name or a list with colons, and suites may stand in BoringSSL's groups of
/// equal preference, `[A|B]`. Unknown names are dropped.
///
/// # Errors
/// When names were given and none is known.
pub(crate) fn provider(
    cipher_suites: &[String],
    curves: &[String],
) -> Result<Arc<CryptoProvider>, MaterialError> {
    if cipher_suites.is_empty() && curves.is_empty() {
        return Ok(default_provider().clone());
    }
    let mut provider = CryptoProvider::clone(default_provider());
    if !cipher_suites.is_empty() {
        provider.cipher_suites = suites_named(cipher_suites)?;
    }
    if !curves.is_empty() {
        provider.kx_groups = groups_named(curves)?;
    }
    Ok(Arc::new(provider))
}

/// The versions from `min` to `max`.
///
/// # Errors
/// When `min` is above `max`.
pub(crate) fn versions(
    (min, max): (TlsVersion, TlsVersion),
) -> Result<Vec<&'static SupportedProtocolVersion>, MaterialError> {
    let all = [
        (TlsVersion::Tls12, &rustls::version::TLS12),
        (TlsVersion::Tls13, &rustls::version::TLS13),
    ];
    let chosen: Vec<_> = all
        .into_iter()
        .filter(|(version, _)| (min..=max).contains(version))
        .map(|(_, version)| version)
        .collect();
    if chosen.is_empty() {
        return Err(MaterialError::NoVersion);
    }
    Ok(chosen)
}

/// Envoy's name of a version, as in `ssl.versions.TLSv1.3`.
pub(crate) fn version_name(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "",
    }
}

/// OpenSSL's name of a suite, as in `ssl.ciphers.TLS_AES_128_GCM_SHA256`.
pub(crate) fn suite_name(negotiated: Option<SupportedCipherSuite>) -> &'static str {
    let wanted: Option<CipherSuite> = negotiated.map(|suite| suite.suite());
    TLS13_SUITES
        .iter()
        .chain(&TLS12_SUITES)
        .find(|(_, suite)| Some(suite.suite()) == wanted)
        .map_or("", |(name, _)| name)
}

/// BoringSSL's name of a group, as in `ssl.curves.X25519`.
pub(crate) fn group_name(negotiated: Option<&dyn SupportedKxGroup>) -> &'static str {
    let wanted: Option<NamedGroup> = negotiated.map(SupportedKxGroup::name);
    GROUPS
        .iter()
        .find(|(_, group)| Some(group.name()) == wanted)
        .map_or("", |(name, _)| name)
}

fn suites_named(lists: &[String]) -> Result<Vec<SupportedCipherSuite>, MaterialError> {
    let mut suites: Vec<_> = TLS13_SUITES.iter().map(|(_, suite)| *suite).collect();
    let mut known = false;
    for name in names(lists, &[':', ',', '|', '[', ']']) {
        if TLS13_SUITES.iter().any(|(tls13, _)| *tls13 == name) {
            known = true;
        } else if let Some((_, suite)) = TLS12_SUITES.iter().find(|(tls12, _)| *tls12 == name) {
            known = true;
            if !suites.contains(suite) {
                suites.push(*suite);
            }
        } else {
            tracing::debug!(
                cipher_suite = name,
                "cipher suite is not supported; dropped"
            );
        }
    }
    if known {
        Ok(suites)
    } else {
        Err(none_known("cipher_suites", lists))
    }
}

fn groups_named(lists: &[String]) -> Result<Vec<&'static dyn SupportedKxGroup>, MaterialError> {
    let mut groups: Vec<&'static dyn SupportedKxGroup> = Vec::new();
    for name in names(lists, &[':', ',']) {
        let alias = GROUP_ALIASES.iter().find(|(alias, _)| *alias == name);
        let canonical = alias.map_or(name, |(_, canonical)| canonical);
        let Some((_, group)) = GROUPS.iter().find(|(known, _)| *known == canonical) else {
            tracing::debug!(curve = name, "curve is not supported; dropped");
            continue;
        };
        if !groups.iter().any(|known| known.name() == group.name()) {
            groups.push(*group);
        }
    }
    if groups.is_empty() {
        return Err(none_known("ecdh_curves", lists));
    }
    Ok(groups)
}

fn names<'a>(lists: &'a [String], separators: &'a [char]) -> impl Iterator<Item = &'a str> {
    lists
        .iter()
        .flat_map(move |list| list.split(separators))
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

fn none_known(field: &'static str, lists: &[String]) -> MaterialError {
    MaterialError::NoneKnown {
        field,
        names: lists.join(":"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn suite_names(provider: &CryptoProvider) -> Vec<&'static str> {
        let suites = provider.cipher_suites.iter();
        suites.map(|suite| suite_name(Some(*suite))).collect()
    }

    fn group_names(provider: &CryptoProvider) -> Vec<&'static str> {
        let groups = provider.kx_groups.iter();
        groups.map(|group| group_name(Some(*group))).collect()
    }

    #[test]
    fn post_quantum_is_offered_first() {
        let names = group_names(default_provider());
        assert_eq!(names, ["X25519MLKEM768", "X25519", "P-256", "P-384"]);
        assert_eq!(default_provider().cipher_suites.len(), 9);
    }

    #[test]
    fn istio_s_suites_keep_their_order_and_lose_rsa_key_exchange() {
        let istio = strings(&[
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-RSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-RSA-AES128-GCM-SHA256",
            "AES256-GCM-SHA384",
            "AES128-GCM-SHA256",
        ]);
        let provider = provider(&istio, &[]).unwrap();
        assert_eq!(suite_names(&provider)[3..], istio[..4]);
        assert!(suite_names(&provider)[0].starts_with("TLS_"));
    }

    #[test]
    fn lists_with_colons_and_groups_of_equal_preference() {
        let suites = strings(&[
            "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]:ECDHE-RSA-AES128-GCM-SHA256",
        ]);
        let curves = strings(&["X25519:P-256:secp521r1", "P-256"]);
        let provider = provider(&suites, &curves).unwrap();
        assert_eq!(suite_names(&provider).len(), 3 + 3);
        assert_eq!(group_names(&provider), ["X25519", "P-256"]);
    }

    #[test]
    fn nothing_known_is_an_error_that_names_the_field() {
        let error = provider(&strings(&["AES128-SHA:DES-CBC3-SHA"]), &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cipher_suites: none of \"AES128-SHA:DES-CBC3-SHA\" is supported"
        );
        let error = provider(&[], &strings(&["P-521"])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "ecdh_curves: none of \"P-521\" is supported"
        );
    }

    #[test]
    fn versions_from_min_to_max() {
        use TlsVersion::{Tls12, Tls13};
        assert_eq!(versions((Tls12, Tls13)).unwrap().len(), 2);
        assert_eq!(versions((Tls13, Tls13)).unwrap().len(), 1);
        let error = versions((Tls13, Tls12)).unwrap_err();
        assert!(
            error.to_string().contains("tls_minimum_protocol_version"),
            "{error}"
        );
    }
}
