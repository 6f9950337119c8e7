//! Roots, and for whom each of them speaks.
//!
//! Invariant: a root that carries a SPIFFE ID is an anchor for that trust domain only. One without
//! may anchor any name; which chains reach it, [`crate::Trust`] decides. A root that is no CA, or
//! whose SPIFFE ID is malformed, anchors nothing.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use ithildin_spiffe::{TrustDomain, x509};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, TrustAnchor, pem::PemObject,
};
use x509_parser::{certificate::X509Certificate, x509::X509Version};

use crate::{
    MaterialError,
    certificate::{self, Sans},
    crl::Crls,
    material::{certificates_from_pem, malformed},
};

/// Roots and CRLs, parsed once.
#[derive(Debug, Default)]
pub struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    /// By the trust domain for which they speak; `None`: anybody.
    anchors: HashMap<Option<TrustDomain>, Anchors>,
    pub(crate) crls: Crls,
    file: Option<Arc<str>>,
}

const TRUSTED_CA: &str = "trusted_ca";

impl Roots {
    /// PEM certificates, and PEM CRLs among them or in `crl`. Expired roots are taken, since SPIRE
    /// keeps them for a day, and trusted for nothing.
    ///
    /// # Errors
    /// When there is no certificate, or when one or a CRL cannot be read.
    pub fn from_pem(roots: &[u8], crl: &[u8]) -> Result<Self, MaterialError> {
        let certificates = certificates_from_pem(TRUSTED_CA, roots)?;
        let read = |pem| {
            CertificateRevocationListDer::pem_slice_iter(pem)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| malformed("crl", &error))
        };
        let given = read(crl)?;
        // Rubbish taken for an empty list would let in whom it was to revoke.
        if given.is_empty() && !crl.trim_ascii().is_empty() {
            return Err(malformed("crl", &"there is no CRL in it"));
        }
        Self::from_der(certificates, &[read(roots)?, given].concat())
    }

    /// The same from DER.
    ///
    /// # Errors
    /// As [`Roots::from_pem`].
    pub fn from_der(
        certificates: Vec<CertificateDer<'static>>,
        crls: &[CertificateRevocationListDer<'_>],
    ) -> Result<Self, MaterialError> {
        if certificates.is_empty() {
            return Err(MaterialError::NoCertificate { what: TRUSTED_CA });
        }
        let mut by_domain: HashMap<_, Vec<Anchor>> = HashMap::new();
        for (index, der) in certificates.iter().enumerate() {
            let reason = |reason| format!("certificate {}: {reason}", index + 1);
            let (speaks, anchor) =
                anchor(der).map_err(|error| malformed(TRUSTED_CA, &reason(error)))?;
            let domain = match speaks {
                Speaks::ForAnybody => None,
                Speaks::For(domain) => Some(domain),
                Speaks::ForNobody => continue,
            };
            let anchors = by_domain.entry(domain).or_default();
            if !anchors.iter().any(|known| known.der == anchor.der) {
                anchors.push(anchor);
            }
        }
        Ok(Self {
            anchors: by_domain
                .into_iter()
                .map(|(domain, anchors)| (domain, Anchors::new(anchors)))
                .collect(),
            crls: Crls::from_der(crls.iter().map(AsRef::as_ref))?,
            certificates,
            file: None,
        })
    }

    /// Says which file they are from, for admin.
    #[must_use]
    pub fn from_file(self, file: Option<Arc<str>>) -> Self {
        Self { file, ..self }
    }

    /// The file that they are from, where the configuration names one.
    pub fn file(&self) -> Option<&Arc<str>> {
        self.file.as_ref()
    }

    /// The certificates in the order given, for `/certs`.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The anchors that speak for `domain` (`None`: for a peer without a SPIFFE ID): the domain's
    /// own first, then those that speak for anybody.
    pub(crate) fn anchors_for(
        &self,
        domain: Option<&TrustDomain>,
    ) -> impl Iterator<Item = &Anchors> {
        let own = domain.and_then(|domain| self.anchors.get(&Some(domain.clone())));
        own.into_iter().chain(self.anchors.get(&None))
    }

    /// The anchors that speak for one trust domain only, of all but `domain`.
    pub(crate) fn foreign_anchors(
        &self,
        domain: Option<&TrustDomain>,
    ) -> impl Iterator<Item = (&TrustDomain, &Anchors)> {
        self.anchors.iter().filter_map(move |(speaks, anchors)| {
            let speaks = speaks.as_ref()?;
            (Some(speaks) != domain).then_some((speaks, anchors))
        })
    }
}

/// Anchors that speak for the same peers, those that last longest first. Parallel vectors, because
/// webpki takes the anchors as one slice.
#[derive(Debug)]
pub(crate) struct Anchors {
    anchors: Vec<TrustAnchor<'static>>,
    meta: Vec<AnchorMeta>,
}

#[derive(Debug)]
pub(crate) struct AnchorMeta {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// How many intermediates may stand below it; webpki leaves this aside for an anchor.
    pub(crate) path_len: Option<usize>,
}

impl Anchors {
    fn new(mut anchors: Vec<Anchor>) -> Self {
        anchors.sort_by_key(|anchor| std::cmp::Reverse(anchor.meta.not_after));
        let (anchors, meta) = anchors
            .into_iter()
            .map(|Anchor { anchor, meta }| (anchor, meta))
            .unzip();
        Self { anchors, meta }
    }

    /// Those that have not expired at `now`. A bundle may hold hundreds that have, often all with
    /// one name, and webpki gives up after a hundred signatures.
    pub(crate) fn unexpired(&self, now: SystemTime) -> &[TrustAnchor<'static>] {
        let count = self.meta.partition_point(|meta| meta.not_after >= now);
        &self.anchors[..count]
    }

    /// What belongs to an anchor that [`Anchors::unexpired`] lent.
    pub(crate) fn meta(&self, anchor: &TrustAnchor<'_>) -> Option<&AnchorMeta> {
        let same = |own: &TrustAnchor<'_>| std::ptr::eq(std::ptr::from_ref(own).cast(), anchor);
        let index = self.anchors.iter().position(same)?;
        self.meta.get(index)
    }

    /// When the latest of the anchors with one of these subjects expired, if that is past.
    pub(crate) fn newest_expired_named(
        &self,
        names: &[Vec<u8>],
        now: SystemTime,
    ) -> Option<SystemTime> {
        let named =
            |anchor: &TrustAnchor<'_>| names.iter().any(|name| anchor.subject.as_ref() == name);
        let index = self.anchors.iter().position(named)?;
        let not_after = self.meta.get(index)?.not_after;
        (not_after < now).then_some(not_after)
    }

    /// Whether any of them has the subject `name`, a DER name without its outer header.
    pub(crate) fn any_named(&self, name: &[u8]) -> bool {
        self.anchors
            .iter()
            .any(|anchor| anchor.subject.as_ref() == name)
    }
}

struct Anchor {
    anchor: TrustAnchor<'static>,
    meta: AnchorMeta,
}

impl std::ops::Deref for Anchor {
    type Target = AnchorMeta;

    fn deref(&self) -> &AnchorMeta {
        &self.meta
    }
}

enum Speaks {
    ForAnybody,
    For(TrustDomain),
    ForNobody,
}

fn anchor(der: &CertificateDer<'static>) -> Result<(Speaks, Anchor), String> {
    let certificate = certificate::parse(der)?;
    let anchor = webpki::anchor_from_trusted_cert(der).map_err(|error| format!("{error:?}"))?;
    let meta = AnchorMeta {
        der: der.clone(),
        not_before: certificate::not_before(&certificate),
        not_after: certificate::not_after(&certificate),
        path_len: path_len(&certificate),
    };
    let anchor = Anchor {
        anchor: anchor.to_owned(),
        meta,
    };
    Ok((speaks(&certificate)?, anchor))
}

fn speaks(certificate: &X509Certificate<'_>) -> Result<Speaks, String> {
    if !is_ca(certificate) {
        return Ok(Speaks::ForNobody);
    }
    Ok(match signer_domain(certificate)? {
        SignerDomain::None => Speaks::ForAnybody,
        SignerDomain::Domain(domain) => Speaks::For(domain),
        SignerDomain::Malformed => Speaks::ForNobody,
    })
}

fn path_len(certificate: &X509Certificate<'_>) -> Option<usize> {
    let constraints = certificate.basic_constraints().ok()??;
    let most = constraints.value.path_len_constraint?;
    Some(usize::try_from(most).unwrap_or(usize::MAX))
}

/// Version 1 certificates, some web roots, have no extension to say so.
fn is_ca(certificate: &X509Certificate<'_>) -> bool {
    if certificate.version() == X509Version::V1 {
        return true;
    }
    let signs = match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Ok(None) => true,
        Err(_) => false,
    };
    signs && certificate.is_ca()
}

/// The trust domain that a signing certificate's SPIFFE ID names, if it has one.
pub(crate) enum SignerDomain {
    None,
    Domain(TrustDomain),
    /// Several, or not a SPIFFE ID, or with a path: X509-SVID.md, section 2, allows none of these.
    Malformed,
}

pub(crate) fn signer_domain(certificate: &X509Certificate<'_>) -> Result<SignerDomain, String> {
    let uris = Sans::of(certificate)?.uris;
    Ok(match x509::signing_trust_domain_of(uris) {
        Ok(None) => SignerDomain::None,
        Ok(Some(domain)) => SignerDomain::Domain(domain),
        Err(_) => SignerDomain::Malformed,
    })
}
