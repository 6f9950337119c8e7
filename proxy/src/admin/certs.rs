//! `/certs`: what each TLS context presents and trusts, without any key.

use std::time::{SystemTime, UNIX_EPOCH};

use ithildin_tls::{Identity, Slot, Validation};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::AdminState;
use crate::config::cluster::Transport;

/// One entry for each TLS context of a listener or cluster.
pub(super) fn certs(state: &AdminState) -> Value {
    let snapshot = state.published.current.load_full();
    let mut certificates = Vec::new();
    for listener in &snapshot.listeners {
        for chain in listener.chains.iter() {
            if let Some(tls) = &chain.tls {
                let params = tls.params();
                let validation = params.validation.as_deref();
                certificates.extend(context(Some(&params.identity), validation));
            }
        }
    }
    let mut clusters: Vec<_> = snapshot.clusters.values().collect();
    clusters.sort_by_key(|cluster| &cluster.name);
    for cluster in clusters {
        for transport in &cluster.transport.0 {
            if let Transport::Tls { context: tls, .. } = transport {
                let params = tls.params();
                let identity = params.identity.as_deref();
                certificates.extend(context(identity, Some(&params.validation)));
            }
        }
    }
    json!({ "certificates": certificates })
}

/// `None` while the context has nothing at all.
fn context(
    identity: Option<&Slot<Identity>>,
    validation: Option<&Slot<Validation>>,
) -> Option<Value> {
    let identity = identity.and_then(Slot::load);
    let validation = validation.and_then(Slot::load);
    let chain: Vec<_> = identity
        .iter()
        .flat_map(|identity| identity.chain().first())
        .filter_map(details)
        .collect();
    let roots: Vec<_> = validation
        .iter()
        .flat_map(|validation| validation.roots())
        .flat_map(|(_, roots)| roots.certificates())
        .filter_map(details)
        .collect();
    let some = !chain.is_empty() || !roots.is_empty();
    some.then(|| json!({"ca_cert": roots, "cert_chain": chain}))
}

/// `envoy.admin.v3.CertificateDetails`.
fn details(der: &CertificateDer<'_>) -> Option<Value> {
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
        "path": "<inline>",
        "serial_number": format!("{:x}", certificate.serial),
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
