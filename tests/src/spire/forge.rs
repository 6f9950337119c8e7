//! Certificates that must be refused, signed by a CA that SPIRE has from disk.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::authority::Files;

/// A leaf for `id` that is wrong as `forgery` says, by the root in `dir` ([`super::disk_root`]); with the
/// names of `authority ctl forge`. `None` for one that this CA cannot make.
pub(super) fn forge(root: &Path, into: &Path, id: &str, forgery: &str) -> Option<Files> {
    let read = |name: &str| fs::read_to_string(root.join(name)).expect("the root is on disk");
    let key = KeyPair::from_pem(&read("root.key")).expect("openssl writes keys");
    let issuer = Issuer::from_ca_cert_pem(&read("root.pem"), key).expect("openssl writes roots");
    let now = OffsetDateTime::now_utc();
    let uri = |text: &str| SanType::URI(text.try_into().expect("an ID is ASCII"));
    let mut leaf = CertificateParams::default();
    leaf.distinguished_name
        .push(DnType::OrganizationName, "SPIRE");
    leaf.subject_alt_names = vec![uri(id)];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.not_before = now - Duration::minutes(1);
    leaf.not_after = now + Duration::hours(1);
    leaf.custom_extensions = Vec::<CustomExtension>::new();
    match forgery {
        "foreign-id" => {}
        "two-uri-sans" => leaf.subject_alt_names.push(uri(&format!("{id}-too"))),
        "ca-as-leaf" => leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        "expired" => {
            leaf.not_before = now - Duration::hours(2);
            leaf.not_after = now - Duration::hours(1);
        }
        _ => return None,
    }
    let key = KeyPair::generate().expect("a key can be made");
    let leaf = leaf.signed_by(&key, &issuer).expect("a leaf can be signed");
    let dir = tempfile::TempDir::new_in(into).expect("the scratch folder is writable");
    let files = Files::in_dir(dir.keep());
    fs::write(&files.chain, leaf.pem()).expect("the scratch folder is writable");
    fs::write(&files.key, key.serialize_pem()).expect("the scratch folder is writable");
    Some(files)
}
