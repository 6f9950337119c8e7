//! External authorization by gRPC (`envoy.service.auth.v3`): what a service is told of a connection, and
//! how it is asked. Both filters use it; what is asked of plain HTTP is the HTTP filter's.

use std::net::SocketAddr;

use ithildin_proto::pb::{
    envoy::{
        config::core::v3::{
            Address, SocketAddress, address::Address as Kind, socket_address::PortSpecifier,
        },
        service::auth::v3::{
            AttributeContext, CheckRequest, CheckResponse,
            attribute_context::{Peer, TlsSession},
        },
    },
    google::rpc::Status,
};

use crate::{
    config::ext_authz::GrpcService,
    http::{GrpcError, GrpcMethod, unary, url_encoded_pem},
    tls_session::CertificateText,
    worker::{Connection, Worker},
};

/// gRPC's code of an answer that lets pass.
const OK: i32 = 0;

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Asks the service about `attributes`.
pub(crate) async fn check(
    worker: &Worker,
    service: &GrpcService,
    attributes: AttributeContext,
) -> Result<CheckResponse, GrpcError> {
    let method = GrpcMethod {
        path: CHECK,
        cluster: &service.cluster,
        authority: &service.authority,
        timeout: service.timeout,
    };
    let question = CheckRequest {
        attributes: Some(attributes),
    };
    unary(worker, method, &question).await
}

/// Whether the service lets pass. One that says nothing of it does.
pub(crate) fn is_ok(answer: &CheckResponse) -> bool {
    let code = answer
        .status
        .as_ref()
        .map_or(OK, |Status { code, .. }| *code);
    code == OK
}

/// What is told of a connection, whatever is asked about it.
pub(crate) fn attributes(
    connection: &Connection,
    (include_certificate, include_session): (bool, bool),
) -> AttributeContext {
    let tls = connection.tls.as_ref();
    let certificate = connection.peer().and_then(|peer| peer.chain.first());
    let certificate = certificate.filter(|_| include_certificate);
    AttributeContext {
        source: Some(Peer {
            address: Some(address(connection.remote)),
            principal: tls
                .and_then(|tls| tls.peer_names().next())
                .unwrap_or_default()
                .into(),
            certificate: certificate.map_or_else(String::new, |der| url_encoded_pem(der)),
            ..Peer::default()
        }),
        destination: Some(Peer {
            address: Some(address(connection.local)),
            principal: principal(tls.and_then(|tls| tls.own_text())),
            ..Peer::default()
        }),
        tls_session: include_session.then(|| TlsSession {
            sni: connection.server_name.as_deref().unwrap_or_default().into(),
        }),
        ..AttributeContext::default()
    }
}

fn address(address: SocketAddr) -> Address {
    Address {
        address: Some(Kind::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
            ..SocketAddress::default()
        })),
    }
}

/// The first URI SAN, else the first DNS SAN, else the subject.
fn principal(certificate: Option<&CertificateText>) -> String {
    let Some(certificate) = certificate else {
        return String::new();
    };
    let described = &certificate.description;
    let mut sans = described.uri_sans.iter().chain(&described.dns_sans);
    sans.next().unwrap_or(&described.subject).clone()
}
