//! Certificates for tests that speak TLS without an authority: roots, and SVIDs that they sign.

use std::{fs, path::PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, string::Ia5String,
};
use time::{Duration, OffsetDateTime};

use crate::authority::Files;

/// A root, and what it signs.
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
    /// A root with the SPIFFE ID of its trust domain.
    pub fn new(trust_domain: &str) -> Self {
        Self::of(parameters(&format!("spiffe://{trust_domain}")))
    }

    /// A root of the web's kind, which knows nothing of SPIFFE.
    pub fn plain(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        Self::of(params)
    }

    fn of(mut params: CertificateParams) -> Self {
        let key = KeyPair::generate().expect("a key");
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

    /// A list, in PEM, of what is no longer valid.
    pub fn revoke(&self, revoked: &[&Svid]) -> String {
        let now = OffsetDateTime::now_utc();
        let revoked = revoked.iter().map(|leaf| RevokedCertParams {
            serial_number: leaf.serial(),
            revocation_time: now - Duration::HOUR,
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: now - Duration::HOUR,
            next_update: now + Duration::DAY,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("a list");
        list.pem().expect("it is DER")
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

impl Svid {
    /// As PEM files in a folder, beside what `ca` vouches for.
    pub fn write(&self, folder: PathBuf, ca: &Ca) -> Files {
        fs::create_dir_all(&folder).expect("the scratch folder is writable");
        let files = Files::in_dir(folder);
        for (path, text) in [
            (&files.chain, self.certificate.pem()),
            (&files.key, self.key.serialize_pem()),
            (&files.bundle, ca.pem.clone()),
        ] {
            fs::write(path, text).expect("the scratch folder is writable");
        }
        files
    }

    fn serial(&self) -> SerialNumber {
        let der = self.certificate.der();
        let (_, parsed) = x509_parser::parse_x509_certificate(der).expect("it has just been made");
        SerialNumber::from_slice(parsed.raw_serial())
    }
}

fn parameters(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let id = Ia5String::try_from(id).expect("ids are ascii");
    params.subject_alt_names = vec![SanType::URI(id)];
    params
}
