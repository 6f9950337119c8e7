//! Certificates that must be refused, each for one reason: for tests and for demonstrations.
//!
//! Nothing here is reachable but by [`Authority::forge`](super::Authority::forge).

use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};

use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, PKCS_RSA_SHA256, PublicKeyData, SanType, SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};

use super::{
    ca::{CertificateAuthority, KeyType, Serial, uri},
    leaf::{LeafRequest, Signer, leaf_params, sign},
};
use crate::{PrivateKey, SpiffeId};

/// What is wrong with the certificate. Everything else is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forgery {
    /// The ID is signed by this authority whatever its trust domain: give one of another domain.
    ForeignId,
    /// Signed by a CA that says it is this trust domain's and is in no bundle.
    UnknownCa,
    SelfSigned,
    TwoUriSans,
    /// Only a DNS name.
    NoUriSan,
    NoSan,
    /// `https://` in place of `spiffe://`.
    NotSpiffe,
    /// The path gets a `..` segment.
    DotSegment,
    /// The trust domain's own ID.
    NoPath,
    TrailingSlash,
    /// An empty subject beside a SAN extension that is not critical.
    SanNotCritical,
    CaAsLeaf,
    KeyCertSign,
    CrlSign,
    NoKeyUsage,
    KeyUsageNotCritical,
    NoDigitalSignature,
    ServerOnlyEku,
    ClientOnlyEku,
    #[serde(rename = "rsa-1024")]
    Rsa1024,
    Expired,
    NotYetValid,
    /// In order in all but that its serial number is revoked.
    Revoked,
}

impl Forgery {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::ForeignId,
        Self::UnknownCa,
        Self::SelfSigned,
        Self::TwoUriSans,
        Self::NoUriSan,
        Self::NoSan,
        Self::NotSpiffe,
        Self::DotSegment,
        Self::NoPath,
        Self::TrailingSlash,
        Self::SanNotCritical,
        Self::CaAsLeaf,
        Self::KeyCertSign,
        Self::CrlSign,
        Self::NoKeyUsage,
        Self::KeyUsageNotCritical,
        Self::NoDigitalSignature,
        Self::ServerOnlyEku,
        Self::ClientOnlyEku,
        Self::Rsa1024,
        Self::Expired,
        Self::NotYetValid,
        Self::Revoked,
    ];

    /// Its name in requests, such as `two-uri-sans`.
    pub fn name(self) -> String {
        let name = serde_json::to_value(self).expect("a plain enum has a JSON form");
        name.as_str().unwrap_or_default().to_owned()
    }
}

impl FromStr for Forgery {
    type Err = UnknownForgery;

    fn from_str(text: &str) -> Result<Self, UnknownForgery> {
        let found = Self::ALL.into_iter().find(|forgery| forgery.name() == text);
        found.ok_or_else(|| UnknownForgery(text.to_owned()))
    }
}

/// A text that names no forgery.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no forgery {0:?}; there are {known}", known = Forgery::ALL.map(Forgery::name).join(", "))]
pub struct UnknownForgery(String);

/// A forged certificate: its chain, leaf first, and its key.
#[derive(Clone, Debug)]
pub struct Forged {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKey,
    pub serial: Serial,
}

/// How long ago a certificate expired, and how far ahead one begins.
const OFF: Duration = Duration::from_secs(3600);

/// Object identifiers of the extensions that are written by hand (RFC 5280, section 4.2.1).
const OID_KEY_USAGE: [u64; 4] = [2, 5, 29, 15];
const OID_SUBJECT_ALT_NAME: [u64; 4] = [2, 5, 29, 17];
/// A key usage of digitalSignature alone: BIT STRING, one byte, seven unused bits.
const DIGITAL_SIGNATURE: [u8; 4] = [0x03, 0x02, 0x07, 0x80];

pub(super) fn forge(
    signer: &Signer<'_>,
    id: &SpiffeId,
    ttl: Duration,
    forgery: Forgery,
) -> Result<Forged, rcgen::Error> {
    let now = SystemTime::now();
    let request = LeafRequest {
        id,
        dns: &[],
        hint: None,
        ttl,
    };
    let (mut params, serial) = leaf_params(&request, now)?;
    spoil(&mut params, id, now, forgery)?;
    let (chain, key) = match forgery {
        Forgery::Rsa1024 => sign_rsa_1024(signer, &params)?,
        Forgery::SelfSigned => {
            let key = KeyType::EcP256.generate()?;
            let chain = vec![params.self_signed(&key)?.into()];
            (chain, PrivateKey::from_pkcs8(key.serialize_der()))
        }
        Forgery::UnknownCa => {
            let trust_domain = id.trust_domain();
            let ca = CertificateAuthority::root(Some(&trust_domain), KeyType::EcP256, OFF)?;
            let unknown = Signer {
                ca: &ca,
                intermediates: vec![ca.certificate.clone()],
            };
            sign(&unknown, &params, &KeyType::EcP256.generate()?)?
        }
        _ => sign(signer, &params, &KeyType::EcP256.generate()?)?,
    };
    Ok(Forged { chain, key, serial })
}

fn spoil(
    params: &mut CertificateParams,
    id: &SpiffeId,
    now: SystemTime,
    forgery: Forgery,
) -> Result<(), rcgen::Error> {
    match forgery {
        Forgery::ForeignId
        | Forgery::UnknownCa
        | Forgery::SelfSigned
        | Forgery::Rsa1024
        | Forgery::Revoked => {}
        Forgery::TwoUriSans => params.subject_alt_names.push(uri(&format!("{id}-too"))?),
        Forgery::NoUriSan => {
            let name = SanType::DnsName("workload.test".to_owned().try_into()?);
            params.subject_alt_names = vec![name];
        }
        Forgery::NoSan => params.subject_alt_names.clear(),
        Forgery::NotSpiffe => {
            let rest = id.as_str().strip_prefix("spiffe").unwrap_or_default();
            params.subject_alt_names = vec![uri(&format!("https{rest}"))?];
        }
        Forgery::DotSegment => {
            let (domain, path) = (id.trust_domain().id(), id.path());
            params.subject_alt_names = vec![uri(&format!("{domain}/x/..{path}"))?];
        }
        Forgery::NoPath => params.subject_alt_names = vec![uri(&id.trust_domain().id())?],
        Forgery::TrailingSlash => params.subject_alt_names = vec![uri(&format!("{id}/"))?],
        Forgery::SanNotCritical => {
            params.subject_alt_names.clear();
            params.distinguished_name = DistinguishedName::new();
            params.custom_extensions.push(san_not_critical(id));
        }
        Forgery::CaAsLeaf => params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained),
        Forgery::KeyCertSign => params.key_usages.push(KeyUsagePurpose::KeyCertSign),
        Forgery::CrlSign => params.key_usages.push(KeyUsagePurpose::CrlSign),
        Forgery::NoKeyUsage => params.key_usages.clear(),
        Forgery::KeyUsageNotCritical => {
            params.key_usages.clear();
            let usage = DIGITAL_SIGNATURE.to_vec();
            let extension = CustomExtension::from_oid_content(&OID_KEY_USAGE, usage);
            params.custom_extensions.push(extension);
        }
        Forgery::NoDigitalSignature => params.key_usages = vec![KeyUsagePurpose::KeyEncipherment],
        Forgery::ServerOnlyEku => {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }
        Forgery::ClientOnlyEku => {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
        Forgery::Expired => {
            params.not_before = (now - 2 * OFF).into();
            params.not_after = (now - OFF).into();
        }
        Forgery::NotYetValid => {
            params.not_before = (now + OFF).into();
            params.not_after = (now + 2 * OFF).into();
        }
    }
    Ok(())
}

/// `SEQUENCE { [6] id }`, not critical.
fn san_not_critical(id: &SpiffeId) -> CustomExtension {
    let uri = tlv(0x86, id.as_str().as_bytes());
    CustomExtension::from_oid_content(&OID_SUBJECT_ALT_NAME, tlv(0x30, &uri))
}

/// A DER element of less than 64 KiB.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = (content.len() as u16).to_be_bytes();
    let mut element = vec![tag, 0x82, high, low];
    if content.len() < 0x80 {
        element = vec![tag, low];
    } else if high == 0 {
        element = vec![tag, 0x81, low];
    }
    element.extend_from_slice(content);
    element
}

fn sign_rsa_1024(
    signer: &Signer<'_>,
    params: &CertificateParams,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKey), rcgen::Error> {
    let leaf = params.signed_by(&Rsa1024, &signer.ca.issuer)?;
    let mut chain = vec![leaf.into()];
    chain.extend(signer.intermediates.iter().cloned());
    let key = PrivatePkcs8KeyDer::from_pem_slice(RSA_1024_KEY.as_bytes());
    let key = key.expect("the constant is a key");
    Ok((
        chain,
        PrivateKey::from_pkcs8(key.secret_pkcs8_der().to_vec()),
    ))
}

/// The public half of [`RSA_1024_KEY`]. The library refuses to make so weak a key.
struct Rsa1024;

impl PublicKeyData for Rsa1024 {
    fn der_bytes(&self) -> &[u8] {
        &RSA_1024_PUBLIC
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

/// A fixed weak key that secures nothing, for [`Forgery::Rsa1024`].
const RSA_1024_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIICdgIBADANBgkqhkiG9w0BAQEFAASCAmAwggJcAgEAAoGBANJiSQq8+7ZLJjG9
39AoLnTzbry3bXEYBqusDEN5CLyvYX46juVxSypFMHjLn3MpnYdUACdxmvVGqlh8
Zsq6+JoaXg0DYsT3a7ghvmF0UFYOMGRQ052OXRITYPcnallRmPljUYrC3danArth
IutstT85474gkFhGmoXmK+KG5wcHAgMBAAECgYAQK2erwJykBSCZYBuMlxoC+RbA
wGRT9eHFXgLPSMUoI16d4ghLkCqTxB+WmSfXJRKrbQRaA7xCL7018dHAsSAcLE/k
fMpQLyFfMAsxrVxSxUxS2qd1nqbivjQt2p+vtEG/g1Mf3vvYfPDhUV+kTwbkXmGa
n8WFk914Yt5tnldtWQJBAOnX+tD6luqKm7ZBcNDa9Pzs4k9GWSsJZt6WqNQomZhL
Us1JHv0UWMqI/CDdmXKjEd2C9diloThsrMImxfjBDH0CQQDmUUZ1wj27e2Vuxa7l
H3rnvFv9rFuB2Kek3GV1yiTDwAQmMBrA+SP276U3YO8KHwP57vzDT1Qh5XZSYXwQ
qWzTAkEAzruttyFDWLkPrlIufcaFfjGiZblozX5zXmfNfDskhxpYarqxVcauNOhk
Fl4y8cEu4ymLVWwgmvSgyshij2eENQJAJpc1rCOIvnI1k7Lx1BhLOqr36vBHQOFx
bZE0OuFM+bOhvlhPE0hre0O6NiY6x0JdIzKlDYCsQyW0hqco543L2wJACZFe45Q8
BemIx7saMwCI0IosZLdcmIn76ZcbX1JyzhVEJYpmq/STXLmLtK7Sh9vuiOkZm9m/
KH1hIYz4HXtP3Q==
-----END PRIVATE KEY-----
";

/// PKCS#1 `RSAPublicKey` of [`RSA_1024_KEY`].
#[rustfmt::skip]
const RSA_1024_PUBLIC: [u8; 140] = [
    0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00, 0xd2, 0x62, 0x49, 0x0a, 0xbc, 0xfb, 0xb6, 0x4b, 0x26,
    0x31, 0xbd, 0xdf, 0xd0, 0x28, 0x2e, 0x74, 0xf3, 0x6e, 0xbc, 0xb7, 0x6d, 0x71, 0x18, 0x06, 0xab,
    0xac, 0x0c, 0x43, 0x79, 0x08, 0xbc, 0xaf, 0x61, 0x7e, 0x3a, 0x8e, 0xe5, 0x71, 0x4b, 0x2a, 0x45,
    0x30, 0x78, 0xcb, 0x9f, 0x73, 0x29, 0x9d, 0x87, 0x54, 0x00, 0x27, 0x71, 0x9a, 0xf5, 0x46, 0xaa,
    0x58, 0x7c, 0x66, 0xca, 0xba, 0xf8, 0x9a, 0x1a, 0x5e, 0x0d, 0x03, 0x62, 0xc4, 0xf7, 0x6b, 0xb8,
    0x21, 0xbe, 0x61, 0x74, 0x50, 0x56, 0x0e, 0x30, 0x64, 0x50, 0xd3, 0x9d, 0x8e, 0x5d, 0x12, 0x13,
    0x60, 0xf7, 0x27, 0x6a, 0x59, 0x51, 0x98, 0xf9, 0x63, 0x51, 0x8a, 0xc2, 0xdd, 0xd6, 0xa7, 0x02,
    0xbb, 0x61, 0x22, 0xeb, 0x6c, 0xb5, 0x3f, 0x39, 0xe3, 0xbe, 0x20, 0x90, 0x58, 0x46, 0x9a, 0x85,
    0xe6, 0x2b, 0xe2, 0x86, 0xe7, 0x07, 0x07, 0x02, 0x03, 0x01, 0x00, 0x01,
];
