//! Material that nobody trusts, to replace what was withdrawn.
//!
//! Envoy keeps a secret until it gets another one of the same name: an absent resource, a removal
//! and a refused one all leave the old one in force, and an empty `trusted_ca` would switch
//! verification off. So a withdrawn bundle is overwritten by the certificate of a throw-away
//! authority whose key is gone, and a withdrawn certificate by a self-signed one without a SPIFFE ID.

use std::sync::OnceLock;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

/// Stands where a trust domain must be named and none is known (RFC 2606).
pub(super) const NOBODY: &str = "withdrawn.invalid";

/// What `/certs` and a packet capture show.
const COMMON_NAME: &str = "withdrawn, trusts and proves nothing";
/// Long enough to raise no alarm about its expiry.
const LIFETIME: Duration = Duration::days(3650);

/// A PEM pair for the place of a withdrawn certificate.
pub(super) struct Leaf {
    pub(super) chain: String,
    pub(super) key: Zeroizing<String>,
}

/// The authority that signed nothing and never will, as PEM. One per process, so that it is pushed once.
pub(super) fn authority() -> &'static str {
    static AUTHORITY: OnceLock<String> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let mut params = params();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        self_signed(&params).0
    })
}

/// The certificate that proves nothing. One per process, so that it is pushed once.
pub(super) fn leaf() -> &'static Leaf {
    static LEAF: OnceLock<Leaf> = OnceLock::new();
    LEAF.get_or_init(|| {
        let mut params = params();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let (chain, key) = self_signed(&params);
        Leaf {
            chain,
            key: Zeroizing::new(key.serialize_pem()),
        }
    })
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, COMMON_NAME);
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + LIFETIME;
    params
}

fn self_signed(params: &CertificateParams) -> (String, KeyPair) {
    let key = KeyPair::generate().expect("the provider makes P-256 keys");
    let certificate = params
        .self_signed(&key)
        .expect("the parameters are constant and valid");
    (certificate.pem(), key)
}
