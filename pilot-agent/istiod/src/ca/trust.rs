//! Whom istiod's roots vouch for.
//!
//! istiod hands out PEM and does not say of which trust domain a root is. A root that carries a SPIFFE
//! ID (SPIRE's do) says so itself, and vouches for that domain only. Where no root does, all of them
//! vouch for whatever the configuration lets in, as istiod means it: a mesh with `trustDomainAliases`
//! has one root for several domains. Where some do, those that do not are taken for our own domain's.

use std::{collections::BTreeMap, sync::Arc};

use ithildin_spiffe::{TrustDomain, X509Bundle, x509::signing_trust_domain};
use rustls_pki_types::CertificateDer;

/// Bundles by trust domain, and the roots that nobody knows the domain of.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Trust {
    pub(super) bundles: BTreeMap<TrustDomain, Arc<X509Bundle>>,
    pub(super) unbound: Vec<CertificateDer<'static>>,
}

/// Sorts `own`, the roots that came with our certificate, and `extra`, those of the mesh's other CAs.
/// A root that cannot be read vouches for nobody.
pub(super) fn sort<'a>(
    own_domain: &TrustDomain,
    own: &'a [CertificateDer<'static>],
    extra: &'a [CertificateDer<'static>],
) -> Trust {
    let mut roots: Vec<&CertificateDer<'static>> = own.iter().chain(extra).collect();
    roots.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
    roots.dedup();
    let mut by_domain: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>> = BTreeMap::new();
    let mut nameless = Vec::new();
    for root in roots {
        match signing_trust_domain(root) {
            Ok(Some(domain)) => by_domain.entry(domain).or_default().push(root.clone()),
            Ok(None) => nameless.push(root.clone()),
            Err(_) => {}
        }
    }
    let nobody_says = by_domain.is_empty();
    let ours = by_domain.entry(own_domain.clone()).or_default();
    ours.extend(nameless.iter().cloned());
    let bundle = |(trust_domain, roots): (TrustDomain, _)| {
        let bundle = X509Bundle {
            trust_domain: trust_domain.clone(),
            roots,
        };
        (trust_domain, Arc::new(bundle))
    };
    Trust {
        bundles: by_domain.into_iter().map(bundle).collect(),
        unbound: match nobody_says {
            true => nameless,
            false => Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};

    use super::*;

    fn root(id: Option<&str>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let uri = id.map(|id| SanType::URI(id.try_into().unwrap()));
        params.subject_alt_names = uri.into_iter().collect();
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::parse(name).unwrap()
    }

    #[test]
    fn roots_that_say_nothing_vouch_for_whatever_is_let_in() {
        let (one, two) = (root(None), root(None));
        let own = [one.clone()];
        let trust = sort(&domain("own.test"), &own, &[two.clone(), one.clone()]);
        assert_eq!(trust.unbound.len(), 2, "each once");
        assert_eq!(trust.bundles.len(), 1);
        assert_eq!(trust.bundles["own.test"].roots.len(), 2);
        let again = sort(&domain("own.test"), &[two], &own);
        assert_eq!(again, trust, "the order does not depend on the source");
    }

    #[test]
    fn a_root_with_a_spiffe_id_vouches_for_its_own_domain_only() {
        let (nameless, foreign) = (root(None), root(Some("spiffe://other.test")));
        let ours = root(Some("spiffe://own.test"));
        let extra = [foreign.clone(), ours.clone()];
        let trust = sort(&domain("own.test"), std::slice::from_ref(&nameless), &extra);
        assert!(trust.unbound.is_empty());
        assert_eq!(trust.bundles["other.test"].roots, [foreign]);
        let own = &trust.bundles["own.test"].roots;
        assert!(own.contains(&ours) && own.contains(&nameless) && own.len() == 2);
    }

    #[test]
    fn what_cannot_be_read_vouches_for_nobody() {
        let garbage = CertificateDer::from(b"garbage".to_vec());
        let path = root(Some("spiffe://other.test/workload"));
        let trust = sort(&domain("own.test"), &[root(None)], &[garbage, path]);
        assert_eq!((trust.bundles.len(), trust.unbound.len()), (1, 1));
    }
}
