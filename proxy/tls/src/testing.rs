//! Authorities, certificates and contexts for tests.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ithildin_spiffe::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;

use crate::{
    ClientAuth, ClientContext, ClientParams, Identity, Roots, ServerContext, ServerParams, Slot,
    TlsVersion, Trust, Validation,
};

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

/// A signing certificate and its key.
pub(crate) struct Ca {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

/// The signing certificate of `name`, which is its SPIFFE ID if it is one.
pub(crate) fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, name);
    if name.contains("://") {
        params.subject_alt_names = vec![uri(name)];
    }
    validity(&mut params, -1, 10);
    params
}

pub(crate) fn root(params: CertificateParams) -> Ca {
    let key = KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap().der().clone();
    let issuer = Issuer::new(params, key);
    Ca { der, issuer }
}

/// The root of a trust domain, as SPIRE makes it.
pub(crate) fn spiffe_root(domain: &str) -> Ca {
    root(ca_params(&format!("spiffe://{domain}")))
}

/// What SPIRE issues to a workload.
pub(crate) fn svid_params(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyAgreement,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "US");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "SPIRE");
    params.subject_alt_names = vec![uri(id)];
    validity(&mut params, 0, 1);
    params.not_before -= time::Duration::seconds(10);
    params
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// Days from now.
pub(crate) fn validity(params: &mut CertificateParams, from: i64, to: i64) {
    params.not_before = OffsetDateTime::now_utc() + time::Duration::days(from);
    params.not_after = OffsetDateTime::now_utc() + time::Duration::days(to);
}

impl Ca {
    pub(crate) fn intermediate(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        Self { der, issuer }
    }

    pub(crate) fn sign(&self, params: &CertificateParams) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        (der, key)
    }

    pub(crate) fn svid(&self, id: &str) -> Arc<Identity> {
        self.identity(&svid_params(id))
    }

    pub(crate) fn identity(&self, params: &CertificateParams) -> Arc<Identity> {
        let (der, key) = self.sign(params);
        identity(vec![der], &key)
    }
}

pub(crate) fn identity(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Arc<Identity> {
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Arc::new(Identity::from_der(chain, key).unwrap())
}

pub(crate) fn roots(ders: &[&Ca]) -> Arc<Roots> {
    let ders = ders.iter().map(|ca| ca.der.clone()).collect();
    Arc::new(Roots::from_der(ders, &[]).unwrap())
}

/// Each domain bound to its root.
pub(crate) fn bundles(of: &[(&str, &Ca)]) -> Trust {
    let bundles: BTreeMap<_, _> = of
        .iter()
        .map(|(name, ca)| (domain(name), roots(&[ca])))
        .collect();
    Trust::Spiffe(bundles)
}

pub(crate) fn validation(trust: Trust) -> Arc<Validation> {
    Arc::new(Validation::new(trust))
}

pub(crate) fn server_params(identity: Arc<Identity>, trust: Arc<Validation>) -> ServerParams {
    ServerParams {
        name: "listener".into(),
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        versions: (TlsVersion::Tls12, TlsVersion::Tls13),
        cipher_suites: Vec::new(),
        curves: Vec::new(),
        client_auth: ClientAuth::Required,
        identity: Slot::new(Some(identity)),
        alternatives: Vec::new(),
        full_scan: false,
        validation: Some(Slot::new(Some(trust))),
    }
}

pub(crate) fn client_params(identity: Arc<Identity>, trust: Arc<Validation>) -> ClientParams {
    ClientParams {
        name: "cluster".into(),
        alpn: vec![b"h2".to_vec()],
        versions: (TlsVersion::Tls12, TlsVersion::Tls13),
        cipher_suites: Vec::new(),
        curves: Vec::new(),
        identity: Some(Slot::new(Some(identity))),
        validation: Slot::new(Some(trust)),
    }
}

/// Two contexts of one trust domain that trust each other.
pub(crate) fn pair() -> (ServerContext, ClientContext) {
    let ca = spiffe_root("example.org");
    let trust = || validation(bundles(&[("example.org", &ca)]));
    let server = server_params(ca.svid("spiffe://example.org/server"), trust());
    let client = client_params(ca.svid("spiffe://example.org/client"), trust());
    (
        ServerContext::new(server).unwrap(),
        ClientContext::new(client).unwrap(),
    )
}
