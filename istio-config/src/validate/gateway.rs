//! Gateway.

use std::collections::BTreeSet;

use super::Check;
use crate::{
    error::ConfigError,
    host,
    model::{Gateway, Object, Server, ServerTls, ServerTlsMode, TlsProtocol},
    protocol::Protocol,
};

pub(crate) fn gateway(object: &Object<Gateway>) -> Vec<ConfigError> {
    let mut check = Check::new(object);
    check.required(!object.spec.servers.is_empty(), "spec.servers");
    let mut names = BTreeSet::new();
    for (index, server) in object.spec.servers.iter().enumerate() {
        let at = format!("spec.servers[{index}]");
        if !server.port.name.is_empty() && !names.insert(&server.port.name) {
            check.error(
                format!("{at}.port.name"),
                format!("{:?} is used by another server", server.port.name),
            );
        }
        port_and_hosts(&mut check, server, &at);
        tls(&mut check, server, &at);
    }
    check.finish()
}

fn port_and_hosts(check: &mut Check<'_, Gateway>, server: &Server, at: &str) {
    check.required(server.port.number != 0, &format!("{at}.port.number"));
    check.required(!server.port.name.is_empty(), &format!("{at}.port.name"));
    match Protocol::parse(&server.port.protocol) {
        Some(Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Https) => {}
        _ if server.port.protocol.is_empty() => {
            check.error(format!("{at}.port.protocol"), "required");
        }
        Some(_) => check.error(
            format!("{at}.port.protocol"),
            format!("{} is not supported", server.port.protocol),
        ),
        None => check.error(
            format!("{at}.port.protocol"),
            format!("unknown protocol {:?}", server.port.protocol),
        ),
    }
    if let Some(bind) = &server.bind
        && !host::is_address(bind)
    {
        check.error(
            format!("{at}.bind"),
            format!("{bind:?} is not an IP address"),
        );
    }
    check.required(!server.hosts.is_empty(), &format!("{at}.hosts"));
    for (index, name) in server.hosts.iter().enumerate() {
        let field = format!("{at}.hosts[{index}]");
        let (namespace, name) = name.split_once('/').unwrap_or(("*", name));
        if !matches!(namespace, "*" | ".") && !host::is_label(namespace) {
            check.error(&field, format!("invalid namespace {namespace:?}"));
        }
        check.host(name, &field);
    }
}

fn tls(check: &mut Check<'_, Gateway>, server: &Server, at: &str) {
    let https = Protocol::parse(&server.port.protocol) == Some(Protocol::Https);
    let at = format!("{at}.tls");
    let Some(tls) = &server.tls else {
        check.require(!https, &at, "required with protocol HTTPS");
        return;
    };
    if https {
        check.require(
            !tls.https_redirect,
            &format!("{at}.httpsRedirect"),
            "only servers with protocol HTTP can redirect to HTTPS",
        );
        mode(check, tls, &at);
        versions(check, tls, &at);
    } else if tls.has_more_than_redirect() {
        check.error(
            &at,
            format!(
                "only httpsRedirect can be set with protocol {}",
                server.port.protocol
            ),
        );
    }
}

fn mode(check: &mut Check<'_, Gateway>, tls: &ServerTls, at: &str) {
    let certificates = [
        ("serverCertificate", &tls.server_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
    ];
    let (needed, allowed) = match tls.mode {
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
            return check.error(format!("{at}.mode"), "passing TLS through is not supported");
        }
        ServerTlsMode::IstioMutual => (0, 0),
        ServerTlsMode::Simple => (2, 2),
        ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => (3, 3),
    };
    let name = tls.mode.name();
    for (index, (field, value)) in certificates.iter().enumerate() {
        let field = format!("{at}.{field}");
        if index < needed && value.is_none() {
            check.error(field, format!("required with mode {name}"));
        } else if index >= allowed && value.is_some() {
            check.error(field, format!("cannot be set with mode {name}"));
        }
    }
    if tls.mode == ServerTlsMode::Simple && !tls.subject_alt_names.is_empty() {
        check.error(
            format!("{at}.subjectAltNames"),
            "no client certificate is asked for with mode SIMPLE",
        );
    }
    if tls.mode == ServerTlsMode::IstioMutual {
        let no_effect = "has no effect with mode ISTIO_MUTUAL";
        check.require(
            tls.min_protocol_version == TlsProtocol::Auto,
            &format!("{at}.minProtocolVersion"),
            no_effect,
        );
        check.require(
            tls.max_protocol_version == TlsProtocol::Auto,
            &format!("{at}.maxProtocolVersion"),
            no_effect,
        );
        check.require(
            tls.cipher_suites.is_empty(),
            &format!("{at}.cipherSuites"),
            no_effect,
        );
    }
}

fn versions(check: &mut Check<'_, Gateway>, tls: &ServerTls, at: &str) {
    let (min, max) = (tls.min_protocol_version, tls.max_protocol_version);
    for (field, version) in [("minProtocolVersion", min), ("maxProtocolVersion", max)] {
        check.require(
            !matches!(version, TlsProtocol::V1_0 | TlsProtocol::V1_1),
            &format!("{at}.{field}"),
            "TLS before 1.2 is not supported",
        );
    }
    let either_auto = min == TlsProtocol::Auto || max == TlsProtocol::Auto;
    check.require(
        either_auto || min <= max,
        &format!("{at}.minProtocolVersion"),
        "above maxProtocolVersion",
    );
}
