//! `x-forwarded-client-cert`: who the client proved to be.

use std::fmt::Write;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use ithildin_http1::Known;

use super::headers::Headers;
use crate::{
    config::{
        HttpManager,
        http::{ClientCertDetails, ForwardClientCert},
    },
    tls_session::TlsSession,
    worker::Connection,
};

const NAME: &str = "x-forwarded-client-cert";

/// Characters of a line of PEM (RFC 7468, section 3).
const PEM_LINE: usize = 64;

/// Applies `forward_client_cert_details`.
pub(super) fn apply(manager: &HttpManager, connection: &Connection, headers: &mut Headers) {
    let mode = manager.forward_client_cert;
    if mode == ForwardClientCert::AlwaysForwardOnly {
        return;
    }
    let session = connection.tls.as_ref().filter(|tls| tls.peer.is_some());
    let (Some(session), true) = (session, mode != ForwardClientCert::Sanitize) else {
        headers.remove_known(Known::XForwardedClientCert);
        return;
    };
    if mode == ForwardClientCert::ForwardOnly {
        return;
    }
    let details = &manager.client_cert_details;
    // All requests of a connection have the same one.
    let own = connection
        .xfcc
        .get_or_init(|| Box::new(element(details, session)));
    let before = match mode {
        ForwardClientCert::AppendForward => headers.joined(NAME),
        _ => None,
    };
    let value = match before {
        Some(before) => [&before[..], b",", own].concat().into(),
        None => Bytes::clone(own),
    };
    headers.set(Known::XForwardedClientCert, NAME, value);
}

/// `By=...;Hash=...;Cert="...";Chain="...";Subject="...";URI=...;DNS=...`, as Envoy writes it.
fn element(details: &ClientCertDetails, session: &TlsSession) -> Bytes {
    let mut element = Element::default();
    if let Some(own) = session.own_text() {
        for uri in &own.description.uri_sans {
            element.push_name("By", uri);
        }
    }
    let chain = session.peer.iter().flat_map(|peer| &peer.chain);
    if let Some(peer) = session.peer_text() {
        element.push("Hash", &peer.fingerprint);
    }
    if details.cert {
        let leaf: String = chain.clone().take(1).map(|der| encoded_pem(der)).collect();
        element.push_quoted("Cert", &leaf);
    }
    if details.chain {
        let all: String = chain.map(|der| encoded_pem(der)).collect();
        element.push_quoted("Chain", &all);
    }
    let Some(peer) = session.peer_text() else {
        return element.finish();
    };
    if details.subject {
        // RFC 2253 has escaped the quotes in it.
        element.push_quoted("Subject", &peer.description.subject);
    }
    if details.uri {
        let uris = &peer.description.uri_sans;
        if uris.is_empty() {
            element.push("URI", "");
        }
        for uri in uris {
            element.push_name("URI", uri);
        }
    }
    if details.dns {
        for name in &peer.description.dns_sans {
            element.push_name("DNS", name);
        }
    }
    element.finish()
}

#[derive(Default)]
struct Element(String);

impl Element {
    /// A name as it stands in a certificate. One that would end its field or the element, and so could
    /// go on with a URI of somebody else, is quoted, as the header's format asks for.
    fn push_name(&mut self, key: &str, name: &str) {
        if name.contains([',', ';', '=', '"']) {
            let escaped = name.replace('\\', r"\\").replace('"', r#"\""#);
            return self.push_quoted(key, &escaped);
        }
        self.push(key, name);
    }

    fn push(&mut self, key: &str, value: &str) {
        let separator = if self.0.is_empty() { "" } else { ";" };
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{separator}{key}={value}");
    }

    fn push_quoted(&mut self, key: &str, value: &str) {
        self.push(key, &format!("\"{value}\""));
    }

    /// The names in a certificate may hold what no header may.
    fn finish(mut self) -> Bytes {
        self.0.retain(|c| !c.is_ascii_control());
        self.0.into()
    }
}

/// PEM with those characters percent-encoded that Envoy encodes.
pub(crate) fn encoded_pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(PEM_LINE) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    let mut encoded = String::with_capacity(pem.len() * 5 / 4);
    for c in pem.chars() {
        match c {
            '\n' | ' ' | '+' | '/' | '=' => {
                let _ = write!(encoded, "%{:02X}", u32::from(c));
            }
            c => encoded.push(c),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_goes_on_with_no_field_of_its_own() {
        for (name, expected) in [
            ("web.test", "DNS=web.test"),
            (
                "x;URI=spiffe://example.org/admin",
                "DNS=\"x;URI=spiffe://example.org/admin\"",
            ),
            ("x,By=a", "DNS=\"x,By=a\""),
            (
                "x\";URI=spiffe://example.org/admin;DNS=\"",
                "DNS=\"x\\\";URI=spiffe://example.org/admin;DNS=\\\"\"",
            ),
            ("x\\\",y", "DNS=\"x\\\\\\\",y\""),
        ] {
            let mut element = Element::default();
            element.push_name("DNS", name);
            assert_eq!(element.finish(), expected, "{name}");
        }
    }
}
