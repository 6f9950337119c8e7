//! The peer's leaf certificate, and the rules on it alone.

use std::time::SystemTime;

use ithildin_spiffe::{SpiffeId, x509};
use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, public_key::PublicKey};

use crate::{
    Refusal,
    certificate::{self, Sans, time_text},
    roots,
    verify::FAIL_ERROR,
};

/// The peer's leaf, parsed.
pub(crate) struct Leaf<'a> {
    pub(crate) der: &'a CertificateDer<'a>,
    certificate: X509Certificate<'a>,
    pub(crate) sans: Sans<'a>,
}

impl<'a> Leaf<'a> {
    pub(crate) fn parse(der: &'a CertificateDer<'a>) -> Result<Self, Refusal> {
        let parsed = certificate::parse(der)
            .and_then(|certificate| Ok((Sans::of(&certificate)?, certificate)));
        let (sans, certificate) = parsed.map_err(|error| {
            let reason = format!("the peer's certificate cannot be read: {error}");
            Refusal::without_peer(FAIL_ERROR, "malformed_certificate", &reason)
        })?;
        Ok(Self {
            der,
            certificate,
            sans,
        })
    }

    /// The rules on the leaf alone, and those of the X.509-SVID standard where it claims to be one
    /// or `must_be_svid`. Yields the SPIFFE ID that it states.
    pub(crate) fn check(&self, must_be_svid: bool) -> Result<Option<SpiffeId>, Refusal> {
        if self.sans.uris.len() > 1 {
            let count = self.sans.uris.len();
            let reason = format!("its certificate has {count} URI SANs; only one can be its name");
            return Err(self.refusal("several_uri_sans", reason));
        }
        let claims_spiffe = self.sans.uris.iter().any(|uri| roots::is_spiffe(uri));
        if claims_spiffe || must_be_svid {
            return match x509::check_leaf(self.der) {
                Ok(id) => Ok(Some(id)),
                Err(error) => Err(self.refusal(error.rule(), format!("its certificate {error}"))),
            };
        }
        if let Ok(PublicKey::RSA(key)) = self.certificate.public_key().parsed() {
            let bits = key.key_size();
            if bits < x509::MIN_RSA_BITS {
                let reason = format!(
                    "its certificate has an RSA key of {bits} bits; {} are the least",
                    x509::MIN_RSA_BITS
                );
                return Err(self.refusal("rsa_key_size", reason));
            }
        }
        Ok(None)
    }

    /// The latest start among the certificates: the chain was whole then, if it ever was.
    pub(crate) fn youngest_start(&self, intermediates: &[CertificateDer<'_>]) -> SystemTime {
        intermediates
            .iter()
            .filter_map(|der| Some(certificate::not_before(&certificate::parse(der).ok()?)))
            .fold(certificate::not_before(&self.certificate), SystemTime::max)
    }

    /// The SubjectPublicKeyInfo as DER.
    pub(crate) fn public_key(&self) -> &[u8] {
        self.certificate.public_key().raw
    }

    pub(crate) fn not_after(&self) -> SystemTime {
        certificate::not_after(&self.certificate)
    }

    pub(crate) fn check_validity(&self, now: SystemTime) -> Result<(), Refusal> {
        let not_before = certificate::not_before(&self.certificate);
        if now < not_before {
            let since = time_text(not_before);
            let reason = format!("its certificate is valid from {since} on only");
            return Err(self.refusal("not_yet_valid", reason));
        }
        if now > self.not_after() {
            let since = time_text(self.not_after());
            return Err(self.refusal("expired", format!("its certificate expired at {since}")));
        }
        Ok(())
    }

    /// All names, for log lines.
    pub(crate) fn names(&self) -> String {
        let text = [&self.sans.uris, &self.sans.dns, &self.sans.emails];
        let text = text.into_iter().flatten().map(ToString::to_string);
        let ips = self.sans.ips.iter().map(ToString::to_string);
        let names: Vec<_> = text.chain(ips).collect();
        if names.is_empty() {
            "it has none".to_owned()
        } else {
            names.join(", ")
        }
    }

    /// A refusal of this peer. `reason` goes on after the peer's name: `its certificate ...`.
    pub(crate) fn refusal(&self, rule: &'static str, reason: String) -> Refusal {
        let peer = (!self.sans.uris.is_empty()).then(|| self.sans.uris.join(", "));
        let subject = || match self.sans.dns.first() {
            Some(name) => (*name).to_owned(),
            None => certificate::rfc2253(self.certificate.subject()),
        };
        let name = peer.clone().unwrap_or_else(subject);
        Refusal {
            peer,
            bundle: None,
            counter: FAIL_ERROR,
            rule,
            reason: format!("{name} is refused: {reason}"),
        }
    }
}
