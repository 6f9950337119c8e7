//! `CertificateValidationContext`: who is trusted.
//!
//! Invariant: trust in anybody takes the configuration's own words for it. A context that names no
//! roots trusts nobody, except where it stands in the configuration without any demand on the peer,
//! which is how Envoy says that the peer is not verified.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use ithildin_proto::pb::envoy::{
    config::core::v3::{DataSource, TypedExtensionConfig},
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, SpiffeCertValidatorConfig, SubjectAltNameMatcher,
        certificate_validation_context::TrustChainVerification, spiffe_cert_validator_config,
        subject_alt_name_matcher::SanType as SanTypeProto,
    },
    r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
};
use ithildin_spiffe::TrustDomain;
use ithildin_tls::{Roots, SanMatcher, SanPattern, SanType, Trust, Validation};

use crate::control::{
    any, data_source,
    report::{At, no_effect, refuse},
};

/// Length of a SHA-256 digest in bytes.
const SHA256_LEN: usize = 32;

/// Where a context comes from, which decides what the lack of roots means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum Origin {
    /// It stands in the configuration: without roots and without demands, nobody is verified.
    Configured,
    /// It was served: without roots it is broken, and refused.
    Served,
}

impl Origin {
    /// What `/certs` names as the path: of what SDS serves Envoy keeps the content alone.
    fn file(self, source: &DataSource) -> Option<Arc<str>> {
        match self {
            Self::Configured => data_source::file(source),
            Self::Served => None,
        }
    }
}

/// Reads a whole context.
pub(in crate::control) fn validation(
    context: &CertificateValidationContext,
    origin: Origin,
    match_server_name: bool,
    at: &At<'_>,
) -> Option<Validation> {
    let trust = trust(context, origin, at);
    let rules = rules(context, match_server_name, at);
    let (trust, rules) = (trust?, rules?);
    if matches!(trust, Trust::AcceptUntrusted) && !accepts_untrusted(context) && rules.demands() {
        at.error(
            "names or hashes are demanded of the peer without trusted_ca: anybody could present \
             them; set trusted_ca or custom_validator_config",
        );
        return None;
    }
    Some(rules.with(trust))
}

/// What a context demands besides a chain to a root.
#[derive(Clone, Debug, Default)]
pub(in crate::control) struct Rules {
    sans: Vec<SanMatcher>,
    match_server_name: bool,
    certificate_hashes: Vec<[u8; SHA256_LEN]>,
    spki_hashes: Vec<[u8; SHA256_LEN]>,
    allow_expired: bool,
}

impl Rules {
    fn demands(&self) -> bool {
        !(self.sans.is_empty() && self.certificate_hashes.is_empty() && self.spki_hashes.is_empty())
    }

    pub(in crate::control) fn with(&self, trust: Trust) -> Validation {
        let rules = self.clone();
        let mut validation = Validation::new(trust);
        validation.sans = rules.sans;
        validation.match_server_name = rules.match_server_name;
        validation.certificate_hashes = rules.certificate_hashes;
        validation.spki_hashes = rules.spki_hashes;
        validation.allow_expired = rules.allow_expired;
        validation
    }
}

/// The part of a context that holds no roots. Fields that hold roots are read by [`trust`].
#[allow(deprecated)]
pub(in crate::control) fn rules(
    context: &CertificateValidationContext,
    match_server_name: bool,
    at: &At<'_>,
) -> Option<Rules> {
    let CertificateValidationContext {
        trusted_ca,
        ca_certificate_provider_instance,
        system_root_certs,
        watched_directory,
        verify_certificate_spki,
        verify_certificate_hash,
        match_typed_subject_alt_names,
        match_subject_alt_names,
        require_signed_certificate_timestamp,
        crl,
        allow_expired_certificate,
        trust_chain_verification,
        custom_validator_config,
        only_verify_leaf_cert_crl,
        max_verify_depth,
        suppress_client_ca_list,
    } = context;
    no_effect!(
        trusted_ca,
        crl,
        custom_validator_config,
        trust_chain_verification
    );
    // Clients choose their certificate without the list, and it is a hint only.
    no_effect!(suppress_client_ca_list);
    let errors = at.errors();
    refuse!(
        at;
        ca_certificate_provider_instance, system_root_certs, watched_directory,
        require_signed_certificate_timestamp, only_verify_leaf_cert_crl, max_verify_depth,
    );
    if !match_typed_subject_alt_names.is_empty() && !match_subject_alt_names.is_empty() {
        at.field("match_subject_alt_names")
            .error("match_typed_subject_alt_names is set too; use only that one");
    }
    let typed = match_typed_subject_alt_names.iter().enumerate();
    let untyped = match_subject_alt_names.iter().enumerate();
    let sans =
        typed
            .filter_map(|(i, matcher)| {
                typed_san(matcher, &at.index("match_typed_subject_alt_names", i))
            })
            .chain(untyped.filter_map(|(i, matcher)| {
                san(None, matcher, &at.index("match_subject_alt_names", i))
            }))
            .collect();
    let rules = Rules {
        sans,
        match_server_name,
        certificate_hashes: hashes(
            "verify_certificate_hash",
            verify_certificate_hash,
            hex_digest,
            at,
        ),
        spki_hashes: hashes(
            "verify_certificate_spki",
            verify_certificate_spki,
            base64_digest,
            at,
        ),
        allow_expired: *allow_expired_certificate,
    };
    (at.errors() == errors).then_some(rules)
}

/// The roots of a context.
pub(in crate::control) fn trust(
    context: &CertificateValidationContext,
    origin: Origin,
    at: &At<'_>,
) -> Option<Trust> {
    let verification: TrustChainVerification =
        at.enumeration("trust_chain_verification", context.trust_chain_verification)?;
    if let Some(custom) = &context.custom_validator_config {
        if verification == TrustChainVerification::AcceptUntrusted {
            at.field("trust_chain_verification")
                .error("ACCEPT_UNTRUSTED cannot be combined with custom_validator_config");
            return None;
        }
        if context.crl.is_some() {
            at.field("crl").error(
                "has no effect with the SPIFFE validator; put the CRL into the trust bundle",
            );
        }
        return spiffe(custom, origin, &at.field("custom_validator_config"));
    }
    if verification == TrustChainVerification::AcceptUntrusted {
        at.warn("trust_chain_verification is ACCEPT_UNTRUSTED: anybody's certificate is accepted");
        return Some(Trust::AcceptUntrusted);
    }
    let Some(trusted_ca) = &context.trusted_ca else {
        if origin == Origin::Served {
            at.error("has neither trusted_ca nor custom_validator_config: it trusts nobody");
            return None;
        }
        if context.crl.is_some() {
            at.field("crl").error("needs trusted_ca");
        }
        at.warn("has no trusted_ca: the peer's certificate is not verified");
        return Some(Trust::AcceptUntrusted);
    };
    let ca = data_source::read(trusted_ca, &at.field("trusted_ca"))?;
    let crl = match &context.crl {
        Some(crl) => data_source::read(crl, &at.field("crl"))?,
        None => Vec::new(),
    };
    let roots = at.field("trusted_ca").check(Roots::from_pem(&ca, &crl))?;
    let roots = roots.from_file(origin.file(trusted_ca));
    Some(Trust::Ca(Arc::new(roots)))
}

/// Whether the context says in Envoy's words that anybody is accepted.
pub(in crate::control) fn accepts_untrusted(context: &CertificateValidationContext) -> bool {
    context.trust_chain_verification == TrustChainVerification::AcceptUntrusted as i32
}

fn spiffe(custom: &TypedExtensionConfig, origin: Origin, at: &At<'_>) -> Option<Trust> {
    let Some(config) = &custom.typed_config else {
        at.field("typed_config").error("is required");
        return None;
    };
    if !any::is::<SpiffeCertValidatorConfig>(config) {
        any::unsupported(config, at);
        return None;
    }
    let at = at.field("typed_config");
    let SpiffeCertValidatorConfig {
        trust_domains,
        trust_bundles,
    } = any::read(config, &at)?;
    at.unset("trust_bundles", &trust_bundles);
    if trust_domains.is_empty() {
        at.field("trust_domains")
            .error("is empty: it trusts nobody");
    }
    let errors = at.errors();
    let mut domains = BTreeMap::new();
    for (i, domain) in trust_domains.iter().enumerate() {
        let at = at.index("trust_domains", i);
        if let Some((name, roots)) = trust_domain(domain, origin, &at)
            && domains.insert(name, roots).is_some()
        {
            at.field("name").error(format_args!(
                "trust domain {:?} is there twice",
                domain.name
            ));
        }
    }
    (at.errors() == errors && !domains.is_empty()).then_some(Trust::Spiffe(domains))
}

fn trust_domain(
    domain: &spiffe_cert_validator_config::TrustDomain,
    origin: Origin,
    at: &At<'_>,
) -> Option<(TrustDomain, Arc<Roots>)> {
    let spiffe_cert_validator_config::TrustDomain {
        name,
        trust_bundle,
        workload_trust_domain,
    } = domain;
    refuse!(at; workload_trust_domain);
    let parsed = TrustDomain::parse(name);
    if let Err(error) = &parsed {
        at.field("name").error(format_args!("{name:?} {error}"));
    }
    let at = at.field("trust_bundle");
    let Some(bundle) = trust_bundle else {
        at.error("is required");
        return None;
    };
    let pem = data_source::read(bundle, &at)?;
    let roots = at.check(Roots::from_pem(&pem, &[]))?;
    Some((parsed.ok()?, Arc::new(roots.from_file(origin.file(bundle)))))
}

fn typed_san(matcher: &SubjectAltNameMatcher, at: &At<'_>) -> Option<SanMatcher> {
    let SubjectAltNameMatcher {
        san_type,
        matcher,
        oid,
    } = matcher;
    refuse!(at; oid);
    let kind = match at.enumeration("san_type", *san_type)? {
        SanTypeProto::Email => SanType::Email,
        SanTypeProto::Dns => SanType::Dns,
        SanTypeProto::Uri => SanType::Uri,
        SanTypeProto::IpAddress => SanType::Ip,
        SanTypeProto::Unspecified => {
            at.field("san_type").error("is required");
            return None;
        }
        SanTypeProto::OtherName => {
            at.field("san_type").error("OTHER_NAME is not supported");
            return None;
        }
    };
    let at = at.field("matcher");
    let Some(matcher) = matcher else {
        at.error("is required");
        return None;
    };
    san(Some(kind), matcher, &at)
}

fn san(kind: Option<SanType>, matcher: &StringMatcher, at: &At<'_>) -> Option<SanMatcher> {
    let StringMatcher {
        ignore_case,
        match_pattern,
    } = matcher;
    let (name, pattern) = match match_pattern {
        Some(MatchPattern::Exact(text)) => ("exact", Ok(SanPattern::Exact(text.clone()))),
        Some(MatchPattern::Prefix(text)) => ("prefix", Ok(SanPattern::Prefix(text.clone()))),
        Some(MatchPattern::Suffix(text)) => ("suffix", Ok(SanPattern::Suffix(text.clone()))),
        Some(MatchPattern::Contains(text)) => ("contains", Ok(SanPattern::Contains(text.clone()))),
        Some(MatchPattern::SafeRegex(regex)) => ("safe_regex", SanPattern::regex(&regex.regex)),
        Some(MatchPattern::Custom(_)) => {
            at.field("custom").error("is not supported");
            return None;
        }
        None => {
            at.error("one of exact, prefix, suffix, contains and safe_regex is required");
            return None;
        }
    };
    let at = at.field(name);
    let empty = match match_pattern {
        Some(MatchPattern::SafeRegex(regex)) => regex.regex.is_empty(),
        Some(
            MatchPattern::Exact(text)
            | MatchPattern::Prefix(text)
            | MatchPattern::Suffix(text)
            | MatchPattern::Contains(text),
        ) => text.is_empty(),
        _ => false,
    };
    if empty {
        at.error("is empty");
        return None;
    }
    Some(SanMatcher {
        san: kind,
        pattern: at.check(pattern)?,
        ignore_case: *ignore_case,
    })
}

fn hashes(
    name: &str,
    texts: &[String],
    decode: fn(&str) -> Option<Vec<u8>>,
    at: &At<'_>,
) -> Vec<[u8; SHA256_LEN]> {
    let texts = texts.iter().enumerate();
    texts
        .filter_map(|(i, text)| {
            let digest = decode(text).and_then(|bytes| bytes.try_into().ok());
            if digest.is_none() {
                at.index(name, i)
                    .error(format_args!("{text:?} is not a SHA-256 digest"));
            }
            digest
        })
        .collect()
}

/// Hexadecimal, with or without a colon between bytes, as OpenSSL prints fingerprints.
fn hex_digest(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let byte = |pair: &[u8; 2]| {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        u8::try_from(high * 16 + low).ok()
    };
    pairs.iter().map(byte).collect()
}

fn base64_digest(text: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(text).ok()
}
