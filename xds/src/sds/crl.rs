//! Which trust domain a CRL speaks for.
//!
//! The Workload API sends CRLs without saying so. It matters: a CRL in Envoy's store makes it demand
//! one from every authority of that trust domain.

use ithildin_spiffe::{IdentitySnapshot, X509Bundle};
use rustls_pki_types::CertificateRevocationListDer;
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList,
};

/// The CRLs of a snapshot, each parsed once for all bundles.
pub(super) struct Crls<'a> {
    snapshot: &'a IdentitySnapshot,
    crls: Vec<Crl<'a>>,
}

struct Crl<'a> {
    der: &'a CertificateRevocationListDer<'static>,
    /// Its issuer's name as DER.
    issuer: Vec<u8>,
    /// Whether a root of any domain issued it; else an intermediate did.
    by_root: bool,
}

impl<'a> Crls<'a> {
    pub(super) fn of(snapshot: &'a IdentitySnapshot) -> Self {
        let parse = |der: &'a CertificateRevocationListDer<'static>| {
            let (_, crl) = CertificateRevocationList::from_der(der).ok()?;
            let issuer = crl.issuer().as_raw().to_vec();
            let mut bundles = snapshot.bundles.values();
            Some(Crl {
                der,
                by_root: bundles.any(|bundle| has_root(bundle, &issuer)),
                issuer,
            })
        };
        Self {
            crls: snapshot.crls.iter().filter_map(parse).collect(),
            snapshot,
        }
    }

    /// Those of `bundle`'s trust domain: those that one of its roots issued, and those that no root of
    /// any domain did, which are an intermediate's, where the domain's roots issue CRLs at all. If no
    /// domain's do, an intermediate is taken to be of the own domain: to check too much is the safe
    /// side.
    pub(super) fn for_bundle(
        &self,
        bundle: &X509Bundle,
    ) -> Vec<CertificateRevocationListDer<'static>> {
        let issued = |crl: &Crl<'_>| crl.by_root && has_root(bundle, &crl.issuer);
        let own = bundle.trust_domain == self.snapshot.trust_domain;
        let takes_orphans =
            self.crls.iter().any(issued) || (own && !self.crls.iter().any(|crl| crl.by_root));
        let crls = self.crls.iter();
        crls.filter(|crl| issued(crl) || (takes_orphans && !crl.by_root))
            .map(|crl| crl.der.clone())
            .collect()
    }
}

fn has_root(bundle: &X509Bundle, issuer: &[u8]) -> bool {
    bundle.roots.iter().any(|root| {
        X509Certificate::from_der(root).is_ok_and(|(_, root)| root.subject().as_raw() == issuer)
    })
}
