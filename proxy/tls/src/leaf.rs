//! The peer's leaf certificate, and the rules on it alone.

use std::{borrow::Cow, time::SystemTime};

use ithildin_spiffe::{SpiffeId, x509};
use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, public_key::PublicKey};

use crate::{
    Refusal,
    certificate::{self, Sans, time_text},
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
        let claims_spiffe = self.sans.uris.iter().any(|uri| x509::claims_spiffe(uri));
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
        let text = text.into_iter().flatten().copied().map(Cow::Borrowed);
        let ips = self.sans.ips.iter().map(|ip| Cow::Owned(ip.to_string()));
        let names: Vec<_> = text.chain(ips).collect();
        if names.is_empty() {
            "it has none".to_owned()
        } else {
            shown(&names)
        }
    }

    /// A refusal of this peer. `reason` goes on after the peer's name: `its certificate ...`.
    pub(crate) fn refusal(&self, rule: &'static str, reason: String) -> Refusal {
        let peer = (!self.sans.uris.is_empty()).then(|| shown(&self.sans.uris));
        let subject = || match self.sans.dns.first() {
            Some(name) => shown(&[name]),
            None => shown(&[certificate::rfc2253(self.certificate.subject())]),
        };
        let name = peer.clone().unwrap_or_else(subject);
        Refusal {
            peer,
            bundle: None,
            counter: FAIL_ERROR,
            rule,
            reason: format!("{name} is refused: {}", printable(&reason, MAX_REASON)),
        }
    }
}

/// The most names of a peer in one text.
const MAX_NAMES: usize = 5;
/// The longest name in a text, in characters: that of a SPIFFE ID.
const MAX_NAME: usize = ithildin_spiffe::id::MAX_ID_LEN;
/// The longest reason, in characters. It may hold the names.
const MAX_REASON: usize = (MAX_NAMES + 1) * MAX_NAME;

/// A list of names that strangers chose, fit for one log line.
fn shown(names: &[impl AsRef<str>]) -> String {
    let mut shown: Vec<_> = names
        .iter()
        .take(MAX_NAMES)
        .map(|name| printable(name.as_ref(), MAX_NAME))
        .collect();
    if let more @ 1.. = names.len().saturating_sub(MAX_NAMES) {
        shown.push(format!("{more} more"));
    }
    shown.join(", ")
}

/// The start of `text`, with control characters escaped: a line of our log is not for others to end.
fn printable(text: &str, most: usize) -> String {
    let mut printable = String::with_capacity(text.len().min(most));
    for (index, character) in text.chars().enumerate() {
        if index == most {
            printable.push_str("...");
            break;
        }
        if character.is_control() {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}
