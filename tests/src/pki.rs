//! Certificates for tests that speak TLS without an authority: roots, and SVIDs that they sign.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, string::Ia5String,
};

/// A root with the SPIFFE ID of its trust domain.
pub struct Ca {
    /// Of the root.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A leaf and its key.
pub struct Svid {
    pub certificate: rcgen::Certificate,
    pub key: KeyPair,
}

impl Ca {
    pub fn new(trust_domain: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = parameters(&format!("spiffe://{trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).expect("a root");
        Self {
            pem: root.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// An X.509-SVID for both roles.
    pub fn svid(&self, id: &str) -> Svid {
        self.leaf(parameters(id))
    }

    /// A server's certificate, such as istiod's, that has a host name only.
    pub fn server(&self, host: &str) -> Svid {
        let params = CertificateParams::new([host.to_owned()]);
        let mut params = params.expect("host names are ascii");
        // A leaf by the issuer's own name would count as self-signed.
        params.distinguished_name = DistinguishedName::new();
        self.leaf(params)
    }

    fn leaf(&self, mut params: CertificateParams) -> Svid {
        let key = KeyPair::generate().expect("a key");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer).expect("a leaf");
        Svid { certificate, key }
    }
}

fn parameters(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let id = Ia5String::try_from(id).expect("ids are ascii");
    params.subject_alt_names = vec![SanType::URI(id)];
    params
}
