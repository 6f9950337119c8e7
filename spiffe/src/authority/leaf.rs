//! Leaf certificates in the shape that SPIRE issues.

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;

use super::{
    AuthorityError,
    ca::{CertificateAuthority, KeyType, NOT_BEFORE_CUSHION, Serial, subject, uri},
};
use crate::{PrivateKey, SpiffeId, X509Svid};

/// What a leaf is to be.
pub(super) struct LeafRequest<'a> {
    pub(super) id: &'a SpiffeId,
    pub(super) dns: &'a [String],
    pub(super) hint: Option<&'a str>,
    pub(super) ttl: Duration,
}

/// A signing CA, with the certificates that follow the leaf in a chain.
pub(super) struct Signer<'a> {
    pub(super) ca: &'a CertificateAuthority,
    pub(super) intermediates: Vec<CertificateDer<'static>>,
}

/// An SVID with what only its issuer knows.
pub(super) struct Issued {
    pub(super) svid: X509Svid,
    pub(super) serial: Serial,
    pub(super) issued: SystemTime,
}

/// Issues an SVID. It ends with its CA at the latest.
pub(super) fn issue(
    signer: &Signer<'_>,
    request: &LeafRequest<'_>,
) -> Result<Issued, AuthorityError> {
    let now = SystemTime::now();
    let (mut params, serial) = leaf_params(request, now)?;
    // Certificates count whole seconds: a life of "2s" must not end after one.
    let not_after = now + request.ttl + Duration::from_millis(999);
    params.not_after = not_after.min(signer.ca.not_after).into();
    let key = KeyType::EcP256.generate()?;
    let (chain, key) = sign(signer, &params, &key)?;
    let hint = request.hint.map(str::to_owned);
    let svid = X509Svid::new(chain, key, hint)?;
    Ok(Issued {
        svid,
        serial,
        issued: now,
    })
}

/// Subject `C=US, O=SPIRE`, the first DNS name as common name, NotBefore ten seconds ago, the key
/// usages digitalSignature, keyEncipherment and keyAgreement, both extended ones.
pub(super) fn leaf_params(
    request: &LeafRequest<'_>,
    now: SystemTime,
) -> Result<(CertificateParams, Serial), rcgen::Error> {
    let serial = Serial::random();
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("SPIRE");
    if let Some(name) = request.dns.first() {
        params
            .distinguished_name
            .push(DnType::CommonName, name.as_str());
    }
    params.subject_alt_names = vec![uri(request.id.as_str())?];
    for name in request.dns {
        let name = SanType::DnsName(name.clone().try_into()?);
        params.subject_alt_names.push(name);
    }
    params.serial_number = Some(serial.number());
    params.not_before = (now - NOT_BEFORE_CUSHION).into();
    params.not_after = (now + request.ttl).into();
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
    params.use_authority_key_identifier_extension = true;
    Ok((params, serial))
}

/// Signs `params` for `key`; the chain is complete, leaf first.
pub(super) fn sign(
    signer: &Signer<'_>,
    params: &CertificateParams,
    key: &KeyPair,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKey), rcgen::Error> {
    let leaf = params.signed_by(key, &signer.ca.issuer)?;
    let mut chain = vec![leaf.into()];
    chain.extend(signer.intermediates.iter().cloned());
    Ok((chain, PrivateKey::from_pkcs8(key.serialize_der())))
}
