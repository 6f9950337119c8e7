//! `/certs`: what each TLS context presents and trusts, without any key.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{
    AdminState,
    contexts::{self, Context},
};

/// What a certificate comes from that no file holds.
const INLINE: &str = "<inline>";

/// One entry for each TLS context that has something: every root, and the whole chains, leaves first.
pub(super) fn certs(state: &AdminState) -> Value {
    let mut certificates = Vec::new();
    contexts::each(state, |context| {
        let Context {
            identities,
            validation,
        } = context;
        let chain: Vec<_> = identities
            .iter()
            .flat_map(|identity| {
                let path = path(identity.file.as_ref());
                identity.chain().iter().map(move |der| (path.clone(), der))
            })
            .filter_map(|(path, der)| details(&path, der))
            .collect();
        let roots: Vec<_> = validation
            .iter()
            .flat_map(|validation| validation.roots())
            .flat_map(|(domain, roots)| {
                let path = match domain {
                    // As Envoy's SPIFFE validator names its bundles.
                    Some(domain) => format!("{domain}: {}", path(roots.file())),
                    None => path(roots.file()),
                };
                roots
                    .certificates()
                    .iter()
                    .map(move |der| (path.clone(), der))
            })
            .filter_map(|(path, der)| details(&path, der))
            .collect();
        if !chain.is_empty() || !roots.is_empty() {
            certificates.push(json!({"ca_cert": roots, "cert_chain": chain}));
        }
    });
    json!({ "certificates": certificates })
}

fn path(file: Option<&Arc<str>>) -> String {
    file.map_or(INLINE, |file| file).to_owned()
}

/// `envoy.admin.v3.CertificateDetails`.
fn details(path: &str, der: &CertificateDer<'_>) -> Option<Value> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let left = validity.not_after.timestamp() - i64::try_from(now).ok()?;
    let sans = certificate.subject_alternative_name().ok().flatten();
    let sans: Vec<_> = sans
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(json!({ "uri": uri })),
            GeneralName::DNSName(dns) => Some(json!({ "dns": dns })),
            GeneralName::IPAddress(ip) => Some(json!({"ip_address": address(ip)?})),
            _ => None,
        })
        .collect();
    Some(json!({
        "path": path,
        "serial_number": ithildin_tls::certificate::serial_number(&certificate),
        "subject_alt_names": sans,
        // Whole days, as Envoy; an expired certificate has none left.
        "days_until_expiration": (left.max(0) / 86_400).to_string(),
        "valid_from": rfc3339(validity.not_before.timestamp())?,
        "expiration_time": rfc3339(validity.not_after.timestamp())?,
    }))
}

fn address(octets: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    let v6 = <[u8; 16]>::try_from(octets).ok()?;
    Some(std::net::Ipv6Addr::from(v6).to_string())
}

fn rfc3339(seconds: i64) -> Option<String> {
    Some(jiff::Timestamp::from_second(seconds).ok()?.to_string())
}
