//! One CA certificate with its key, and the CRL that it signs.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use serde::{Deserialize, Serialize};

use crate::TrustDomain;

/// How far NotBefore lies in the past, against skewed clocks; SPIRE's value.
pub(super) const NOT_BEFORE_CUSHION: Duration = Duration::from_secs(10);
/// X.520 `serialNumber`: makes the subjects of CAs unique, as in SPIRE.
const DN_SERIAL_NUMBER: [u64; 4] = [2, 5, 4, 5];

/// The keys that a CA may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyType {
    #[default]
    EcP256,
    EcP384,
    #[serde(rename = "rsa-2048")]
    Rsa2048,
}

impl KeyType {
    pub(super) fn generate(self) -> Result<KeyPair, rcgen::Error> {
        KeyPair::generate_for(match self {
            Self::EcP256 => &PKCS_ECDSA_P256_SHA256,
            Self::EcP384 => &PKCS_ECDSA_P384_SHA384,
            Self::Rsa2048 => &PKCS_RSA_SHA256,
        })
    }
}

/// A certificate's serial number; written in hexadecimal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// Length in bytes; RFC 5280 allows 20.
    const LENGTH: usize = 16;

    pub(super) fn random() -> Self {
        let mut bytes = [0; Self::LENGTH];
        rand::fill(&mut bytes).expect("the system's random numbers are available");
        // Positive, and of one length.
        bytes[0] = bytes[0] & 0x3f | 0x40;
        Self(bytes.to_vec())
    }

    /// From a certificate's bytes, without leading zeros.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self(bytes[zeros..].to_vec())
    }

    pub(super) fn number(&self) -> SerialNumber {
        SerialNumber::from_slice(&self.0)
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a serial number in hexadecimal")]
pub struct SerialError;

impl FromStr for Serial {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Self, SerialError> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        if digits.is_empty() || digits.len() % 2 == 1 || !digits.is_ascii() {
            return Err(SerialError);
        }
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| SerialError);
        let bytes: Vec<u8> = (0..digits.len())
            .step_by(2)
            .map(byte)
            .collect::<Result<_, _>>()?;
        Ok(Self::from_bytes(&bytes))
    }
}

/// A CA certificate, its key, and what it revoked.
pub(super) struct CertificateAuthority {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) serial: Serial,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    revoked: Vec<(Serial, SystemTime)>,
    crl_number: u64,
    crl: Option<CertificateRevocationListDer<'static>>,
}

impl CertificateAuthority {
    /// A self-signed root. One that several authorities share carries no trust domain.
    pub(super) fn root(
        trust_domain: Option<&TrustDomain>,
        key: KeyType,
        ttl: Duration,
    ) -> Result<Self, rcgen::Error> {
        let now = SystemTime::now();
        let (params, serial) = ca_params(trust_domain, None, now, now + ttl)?;
        let key = key.generate()?;
        let certificate = params.self_signed(&key)?.into();
        Ok(Self::new(certificate, params, key, serial, now, now + ttl))
    }

    /// An intermediate as a nested SPIRE server has it, `OU=DOWNSTREAM-1`.
    pub(super) fn intermediate(
        root: &Self,
        trust_domain: &TrustDomain,
        key: KeyType,
        ttl: Duration,
    ) -> Result<Self, rcgen::Error> {
        let now = SystemTime::now();
        let not_after = (now + ttl).min(root.not_after);
        let (params, serial) = ca_params(Some(trust_domain), Some("DOWNSTREAM-1"), now, not_after)?;
        let key = key.generate()?;
        let certificate = params.signed_by(&key, &root.issuer)?.into();
        Ok(Self::new(certificate, params, key, serial, now, not_after))
    }

    fn new(
        certificate: CertificateDer<'static>,
        params: CertificateParams,
        key: KeyPair,
        serial: Serial,
        not_before: SystemTime,
        not_after: SystemTime,
    ) -> Self {
        Self {
            certificate,
            issuer: Issuer::new(params, key),
            serial,
            not_before,
            not_after,
            revoked: Vec::new(),
            crl_number: 0,
            crl: None,
        }
    }

    /// Whether this share of its life is over.
    pub(super) fn lived(&self, share: f64, now: SystemTime) -> bool {
        now >= self.lived_at(share)
    }

    /// When that share of its life will be over.
    pub(super) fn lived_at(&self, share: f64) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before);
        self.not_before + life.unwrap_or(Duration::ZERO).mul_f64(share)
    }

    pub(super) fn revoke(&mut self, serial: Serial) {
        if !self.revoked.iter().any(|(revoked, _)| *revoked == serial) {
            self.revoked.push((serial, SystemTime::now()));
            self.crl = None;
        }
    }

    pub(super) fn has_revoked(&self) -> bool {
        !self.revoked.is_empty()
    }

    /// The CRL, signed when it changed.
    pub(super) fn crl(&mut self) -> Result<CertificateRevocationListDer<'static>, rcgen::Error> {
        if let Some(crl) = &self.crl {
            return Ok(crl.clone());
        }
        self.crl_number += 1;
        let revoked = self.revoked.iter().map(|(serial, at)| RevokedCertParams {
            serial_number: serial.number(),
            revocation_time: (*at).into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: (SystemTime::now() - NOT_BEFORE_CUSHION).into(),
            next_update: self.not_after.into(),
            crl_number: SerialNumber::from(self.crl_number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let crl: CertificateRevocationListDer<'static> = params.signed_by(&self.issuer)?.into();
        self.crl = Some(crl.clone());
        Ok(crl)
    }
}

/// A subject as SPIRE writes it: `C=US`, this organization.
pub(super) fn subject(organization: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CountryName, "US");
    name.push(DnType::OrganizationName, organization);
    name
}

/// The SAN of a SPIFFE ID, valid or not.
pub(super) fn uri(text: &str) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(text.to_owned().try_into()?))
}

fn ca_params(
    trust_domain: Option<&TrustDomain>,
    unit: Option<&str>,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<(CertificateParams, Serial), rcgen::Error> {
    let serial = Serial::random();
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("SPIFFE");
    if let Some(unit) = unit {
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, unit);
    }
    params.distinguished_name.push(
        DnType::CustomDnType(DN_SERIAL_NUMBER.to_vec()),
        serial.to_string(),
    );
    if let Some(trust_domain) = trust_domain {
        params.subject_alt_names = vec![uri(&trust_domain.id())?];
    }
    params.serial_number = Some(serial.number());
    params.not_before = (now - NOT_BEFORE_CUSHION).into();
    params.not_after = not_after.into();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok((params, serial))
}
