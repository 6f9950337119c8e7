//! From a leaf to a root: path building by webpki, and our own rules on each path that it finds.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ithildin_spiffe::TrustDomain;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage, VerifiedPath};

use crate::{
    Roots,
    certificate::{self, time_text},
    crl::{Crls, Revocation},
    leaf::Leaf,
    provider,
    roots::{Anchors, SignerDomain, signer_domain},
    verify::Role,
};

/// One chain to verify.
pub(crate) struct Request<'a> {
    pub(crate) leaf: &'a Leaf<'a>,
    pub(crate) intermediates: &'a [CertificateDer<'a>],
    /// Of the leaf's SPIFFE ID; no signer may name another.
    pub(crate) domain: Option<&'a TrustDomain>,
    pub(crate) role: Role,
    pub(crate) at: SystemTime,
}

/// Why there is no path to a root.
pub(crate) struct Failure {
    pub(crate) rule: &'static str,
    pub(crate) reason: String,
}

/// Verifies the chain; yields when the path that was found runs out.
pub(crate) fn verify(roots: &Roots, request: &Request<'_>) -> Result<SystemTime, Failure> {
    let mut failure = None;
    for anchors in roots.anchors_for(request.domain) {
        match verify_with(anchors, &roots.crls, request) {
            Ok(until) => return Ok(until),
            Err(next) => {
                // The more telling one: some path was found, and something was wrong with it.
                failure = failure
                    .filter(|first: &Failure| first.rule != UNKNOWN_ISSUER)
                    .or(Some(next));
            }
        }
    }
    Err(failure.unwrap_or_else(|| no_anchor(request)))
}

/// The trust domain, other than the peer's own, whose root signed the chain: for a log line.
pub(crate) fn foreign_signer(roots: &Roots, request: &Request<'_>) -> Option<TrustDomain> {
    let foreign = roots.foreign_anchors(request.domain);
    signer(
        foreign.map(|(domain, anchors)| (domain, anchors, &roots.crls)),
        request,
    )
}

/// The same among bundles.
pub(crate) fn foreign_signer_of_bundles(
    bundles: &BTreeMap<TrustDomain, Arc<Roots>>,
    request: &Request<'_>,
) -> Option<TrustDomain> {
    let foreign = bundles
        .iter()
        .filter(|(domain, _)| Some(*domain) != request.domain)
        .flat_map(|(domain, roots)| {
            let anchors = roots.anchors_for(Some(domain));
            anchors.map(move |anchors| (domain, anchors, &roots.crls))
        });
    signer(foreign, request)
}

/// How many foreign roots are tried for the sake of a log line: a forger must not keep us busy.
const MAX_FOREIGN_TRIED: usize = 8;

fn signer<'r>(
    foreign: impl Iterator<Item = (&'r TrustDomain, &'r Anchors, &'r Crls)>,
    request: &Request<'_>,
) -> Option<TrustDomain> {
    let names = issuer_names(request);
    let named = |anchors: &Anchors| names.iter().any(|name| anchors.any_named(name));
    foreign
        .filter(|(_, anchors, _)| named(anchors))
        .take(MAX_FOREIGN_TRIED)
        .find(|(domain, anchors, crls)| {
            // As if the peer were of that domain, so that only the signatures decide.
            let request = Request {
                domain: Some(domain),
                ..*request
            };
            verify_with(anchors, crls, &request).is_ok()
        })
        .map(|(domain, ..)| domain.clone())
}

/// The names of all issuers in the presented chain, as DER without the outer header.
fn issuer_names<'a>(request: &Request<'a>) -> Vec<Vec<u8>> {
    let presented = std::iter::once(request.leaf.der).chain(request.intermediates);
    presented
        .filter_map(|der: &CertificateDer<'a>| {
            Some(EndEntityCert::try_from(der).ok()?.issuer().to_vec())
        })
        .collect()
}

const UNKNOWN_ISSUER: &str = "unknown_issuer";

fn verify_with(
    anchors: &Anchors,
    crls: &Crls,
    request: &Request<'_>,
) -> Result<SystemTime, Failure> {
    let leaf =
        EndEntityCert::try_from(request.leaf.der).map_err(|error| failure(&error, request))?;
    let usage = match request.role {
        Role::Client => KeyUsage::client_auth(),
        Role::Server => KeyUsage::server_auth(),
    };
    let since_epoch = request.at.duration_since(SystemTime::UNIX_EPOCH);
    let broken: Cell<Option<Failure>> = Cell::new(None);
    let until = Cell::new(request.at);
    let inspect = |path: &VerifiedPath<'_>| {
        broken.set(None);
        match inspect(path, anchors, crls, request) {
            Ok(runs_out) => {
                until.set(runs_out);
                Ok(())
            }
            Err(failure) => {
                broken.set(Some(failure));
                Err(Error::UnknownIssuer)
            }
        }
    };
    let found = leaf.verify_for_usage(
        provider::default_provider()
            .signature_verification_algorithms
            .all,
        anchors.unexpired(request.at),
        request.intermediates,
        UnixTime::since_unix_epoch(since_epoch.unwrap_or(Duration::ZERO)),
        usage,
        None,
        Some(&inspect),
    );
    match found {
        Ok(_) => Ok(until.get()),
        Err(error) => Err(match broken.take() {
            Some(failure) => failure,
            None if matches!(error, Error::UnknownIssuer) => unknown_issuer(anchors, request),
            None => failure(&error, request),
        }),
    }
}

/// Our own rules on a path whose signatures, times and constraints webpki has checked.
fn inspect(
    path: &VerifiedPath<'_>,
    anchors: &Anchors,
    crls: &Crls,
    request: &Request<'_>,
) -> Result<SystemTime, Failure> {
    let broken = |rule, reason: String| Failure { rule, reason };
    let malformed = |error| {
        broken(
            "malformed_certificate",
            format!("a signing certificate cannot be read: {error}"),
        )
    };
    let Some(root) = anchors.meta(path.anchor()) else {
        return Err(broken(UNKNOWN_ISSUER, "its root is not ours".to_owned()));
    };
    if request.at < root.not_before {
        let since = time_text(root.not_before);
        return Err(broken(
            "not_yet_valid",
            format!("its root is valid from {since} on only"),
        ));
    }
    if root
        .path_len
        .is_some_and(|most| path.intermediate_certificates().count() > most)
    {
        return Err(failure(&Error::PathLenConstraintViolated, request));
    }
    let mut until = root.not_after;
    // From the leaf upwards: each certificate with the one that signed it.
    let mut signed: &webpki::Cert<'_> = path.end_entity();
    let signers: Vec<CertificateDer<'_>> = path
        .intermediate_certificates()
        .map(webpki::Cert::der)
        .collect();
    let below: Vec<_> = path.intermediate_certificates().collect();
    for (index, der) in signers.iter().chain([&root.der]).enumerate() {
        let signer = certificate::parse(der).map_err(malformed)?;
        match signer_domain(&signer).map_err(malformed)? {
            SignerDomain::None => {}
            SignerDomain::Domain(domain) if Some(&domain) == request.domain => {}
            SignerDomain::Domain(domain) => {
                let reason = format!("a CA of the trust domain {domain} signed its certificate");
                return Err(broken("foreign_signer", reason));
            }
            SignerDomain::Malformed => {
                let reason = "a CA that signed its certificate has a malformed SPIFFE ID, or one with a path";
                return Err(broken("signer_spiffe_id", reason.to_owned()));
            }
        }
        until = until.min(certificate::not_after(&signer));
        if !crls.is_empty() {
            let cleared = crls.check(signed, &signer, request.at);
            let cleared = cleared.map_err(|why| revoked(why, index))?;
            until = cleared.map_or(until, |next_update| until.min(next_update));
        }
        if let Some(next) = below.get(index) {
            signed = next;
        }
    }
    Ok(until.min(request.leaf.not_after()))
}

fn revoked(why: Revocation, index: usize) -> Failure {
    let which = if index == 0 {
        "its certificate"
    } else {
        "a CA that signed its certificate"
    };
    match why {
        Revocation::Revoked => Failure {
            rule: "revoked",
            reason: format!("{which} was revoked by its issuer's CRL"),
        },
        Revocation::Stale(since) => Failure {
            rule: "crl_expired",
            reason: format!(
                "the CRL that speaks for {which} is out of date since {}",
                time_text(since)
            ),
        },
    }
}

fn no_anchor(request: &Request<'_>) -> Failure {
    Failure {
        rule: UNKNOWN_ISSUER,
        reason: match request.domain {
            Some(domain) => format!("no root that is trusted speaks for its trust domain {domain}"),
            None => "it has no SPIFFE ID, and each root that is trusted speaks for one trust domain only".to_owned(),
        },
    }
}

fn unknown_issuer(anchors: &Anchors, request: &Request<'_>) -> Failure {
    let whose = match request.domain {
        Some(domain) => format!("the bundle of {domain}"),
        None => "trusted_ca".to_owned(),
    };
    let names = issuer_names(request);
    if let Some(expired) = anchors.newest_expired_named(&names, request.at) {
        return Failure {
            rule: "expired_root",
            reason: format!(
                "the root in {whose} that signed its certificate expired at {}",
                time_text(expired)
            ),
        };
    }
    Failure {
        rule: UNKNOWN_ISSUER,
        reason: format!("its certificate chain leads to no root in {whose}"),
    }
}

/// webpki's verdict in our words.
fn failure(error: &Error, request: &Request<'_>) -> Failure {
    let (rule, reason): (_, String) = match error {
        Error::CertExpired { not_after, .. } => {
            let since = time_text(SystemTime::UNIX_EPOCH + Duration::from_secs(not_after.as_secs()));
            ("expired", format!("a CA that signed its certificate expired at {since}"))
        }
        Error::CertNotValidYet { not_before, .. } => {
            let since = time_text(SystemTime::UNIX_EPOCH + Duration::from_secs(not_before.as_secs()));
            ("not_yet_valid", format!("a CA that signed its certificate is valid from {since} on only"))
        }
        Error::CaUsedAsEndEntity => ("ca_as_leaf", "it shows a CA certificate as its own".into()),
        Error::EndEntityUsedAsCa => ("issuer_not_ca", "its certificate was signed by one that is no CA".into()),
        Error::PathLenConstraintViolated => ("path_length", "there are more CAs in its chain than one of them allows".into()),
        Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => {
            let usage = match request.role {
                Role::Client => "clientAuth",
                Role::Server => "serverAuth",
            };
            ("extended_key_usage", format!("a certificate in its chain has an extended key usage without {usage}"))
        }
        Error::InvalidSignatureForPublicKey => (
            "bad_signature",
            "a signature in its chain is not by the CA that is named: a forgery, or a CA that changed its key".into(),
        ),
        Error::NameConstraintViolation => ("name_constraints", "a CA in its chain is not allowed to sign its names".into()),
        Error::UnsupportedCriticalExtension => ("critical_extension", "its chain has a critical extension that is not understood".into()),
        Error::MaximumPathBuildCallsExceeded
        | Error::MaximumPathDepthExceeded
        | Error::MaximumSignatureChecksExceeded
        | Error::MaximumNameConstraintComparisonsExceeded => {
            ("chain_too_complex", "its chain is too long or too tangled".into())
        }
        Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | Error::SignatureAlgorithmMismatch => (
            "signature_algorithm",
            "a certificate in its chain is signed with an algorithm, or a key, that is too weak or not known".into(),
        ),
        other => ("chain", format!("its certificate chain is not valid: {other}")),
    };
    Failure { rule, reason }
}
