//! `x-forwarded-client-cert`: who the client proved to be.

use std::fmt::Write;

use ithildin_http1::Known;
use ithildin_tls::Peer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::headers::Headers;
use crate::{
    config::{
        HttpManager,
        http::{ClientCertDetails, ForwardClientCert},
    },
    worker::Connection,
};

const NAME: &str = "x-forwarded-client-cert";

/// Applies `forward_client_cert_details`.
pub(super) fn apply(manager: &HttpManager, connection: &Connection, headers: &mut Headers) {
    let mode = manager.forward_client_cert;
    if mode == ForwardClientCert::AlwaysForwardOnly {
        return;
    }
    let peer = connection.peer();
    let (Some(peer), true) = (peer, mode != ForwardClientCert::Sanitize) else {
        headers.remove_known(Known::XForwardedClientCert);
        return;
    };
    match mode {
        ForwardClientCert::ForwardOnly => {}
        ForwardClientCert::AppendForward => {
            let element = element(&manager.client_cert_details, connection, peer);
            let value = match headers.known(Known::XForwardedClientCert) {
                Some(before) => [&before[..], b",", element.as_bytes()].concat(),
                None => element.into_bytes(),
            };
            headers.set(Known::XForwardedClientCert, NAME, value);
        }
        _ => {
            let element = element(&manager.client_cert_details, connection, peer);
            headers.set(Known::XForwardedClientCert, NAME, element);
        }
    }
}

/// `By=...;Hash=...;Subject="...";URI=...;DNS=...`, in Envoy's order.
fn element(details: &ClientCertDetails, connection: &Connection, peer: &Peer) -> String {
    let mut element = String::with_capacity(256);
    let own = connection
        .chain
        .tls
        .as_ref()
        .and_then(|context| context.params().identity.load())
        .and_then(|identity| identity.id.clone());
    if let Some(own) = own {
        push(&mut element, &format!("By={own}"));
    }
    let mut hash = String::from("Hash=");
    for byte in peer.fingerprint() {
        // Writing to a string cannot fail.
        let _ = write!(hash, "{byte:02x}");
    }
    push(&mut element, &hash);
    let leaf = peer
        .chain
        .first()
        .map(|leaf| X509Certificate::from_der(leaf));
    let Some(Ok((_, leaf))) = leaf else {
        return element;
    };
    if details.subject {
        push(
            &mut element,
            &format!("Subject=\"{}\"", escape(&subject(&leaf))),
        );
    }
    let names = leaf.subject_alternative_name().ok().flatten();
    let names = || names.iter().flat_map(|names| &names.value.general_names);
    if details.uri {
        let mut any = false;
        for name in names() {
            if let GeneralName::URI(uri) = name {
                any = true;
                push(&mut element, &format!("URI={}", quote_if_needed(uri)));
            }
        }
        if !any {
            push(&mut element, "URI=");
        }
    }
    if details.dns {
        for name in names() {
            if let GeneralName::DNSName(dns) = name {
                push(&mut element, &format!("DNS={}", quote_if_needed(dns)));
            }
        }
    }
    element
}

fn push(element: &mut String, part: &str) {
    if !element.is_empty() {
        element.push(';');
    }
    element.push_str(part);
}

/// RFC 2253: the most specific part first.
fn subject(leaf: &X509Certificate<'_>) -> String {
    let mut parts: Vec<String> = leaf
        .subject()
        .iter_rdn()
        .map(|rdn| {
            let attributes: Vec<String> = rdn
                .iter()
                .map(|attribute| {
                    let kind = attribute.attr_type();
                    let name = x509_parser::objects::oid2abbrev(
                        kind,
                        x509_parser::objects::oid_registry(),
                    );
                    let name = name.map_or_else(|_| kind.to_id_string(), str::to_owned);
                    format!("{name}={}", attribute.as_str().unwrap_or_default())
                })
                .collect();
            attributes.join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

fn escape(text: &str) -> String {
    text.replace('"', "\\\"")
}

/// A value with a separator in it would end its element.
fn quote_if_needed(value: &str) -> String {
    match value.contains([',', ';', '=', '"']) {
        true => format!("\"{}\"", escape(value)),
        false => value.to_owned(),
    }
}
