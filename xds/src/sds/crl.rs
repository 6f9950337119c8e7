//! Which trust domain a CRL speaks for.
//!
//! The Workload API sends CRLs without saying so. It matters: a CRL in Envoy's store makes it demand
//! one from every authority of that trust domain.

use ithildin_spiffe::{IdentitySnapshot, X509Bundle};
use rustls_pki_types::CertificateRevocationListDer;
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList,
};

/// The CRLs of `bundle`'s trust domain: those that one of its roots issued, and those that no root of
/// any domain did, which are an intermediate's, where the domain's roots issue CRLs at all. If no
/// domain's do, an intermediate is taken to be of the own domain: to check too much is the safe side.
pub(super) fn for_bundle(
    snapshot: &IdentitySnapshot,
    bundle: &X509Bundle,
) -> Vec<CertificateRevocationListDer<'static>> {
    let crls = &snapshot.crls;
    let by_root = |crl: &&CertificateRevocationListDer<'static>| issued_by_root(crl, bundle);
    let own = bundle.trust_domain == snapshot.trust_domain;
    let domain_has_crls = crls.iter().any(|crl| by_root(&crl));
    let anyone = |crl: &CertificateRevocationListDer<'_>| {
        snapshot
            .bundles
            .values()
            .any(|bundle| issued_by_root(crl, bundle))
    };
    let takes_orphans = domain_has_crls || (own && !crls.iter().any(&anyone));
    crls.iter()
        .filter(|crl| by_root(crl) || (takes_orphans && !anyone(crl)))
        .cloned()
        .collect()
}

fn issued_by_root(crl: &CertificateRevocationListDer<'_>, bundle: &X509Bundle) -> bool {
    let Ok((_, crl)) = CertificateRevocationList::from_der(crl) else {
        return false;
    };
    bundle.roots.iter().any(|root| {
        X509Certificate::from_der(root)
            .is_ok_and(|(_, root)| root.subject().as_raw() == crl.issuer().as_raw())
    })
}
