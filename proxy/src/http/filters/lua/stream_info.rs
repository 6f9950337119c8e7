//! `streamInfo()`, `connection()` and what is known of TLS.

use std::rc::Rc;

use ithildin_lua::{Call, Failure, Method, Object, Reply, Value};

use super::{metadata::Dynamic, scene::Scene};
use crate::{
    http::request::Protocol,
    tls_session::{CertificateText, TlsSession},
};

pub(super) struct StreamInfo(pub(super) Rc<Scene>);

impl Object for StreamInfo {
    const METHODS: &'static [(&'static str, Method<Self>)] = &[
        ("protocol", |call| {
            let protocol = call.this().0.messages()?.request.protocol;
            call.text(match protocol {
                Protocol::Http10 => "HTTP/1.0",
                Protocol::Http11 => "HTTP/1.1",
                Protocol::Http2 => "HTTP/2",
            })
        }),
        ("routeName", |call| {
            let route = call.this().0.facts.route.as_ref();
            call.text(route.map_or("", |route| &route.name))
        }),
        // Virtual clusters only count; we have none.
        ("virtualClusterName", |call| call.text("")),
        ("downstreamLocalAddress", |call| {
            call.text(call.this().0.facts.connection.local.to_string())
        }),
        ("downstreamDirectLocalAddress", |call| {
            call.text(call.this().0.facts.connection.local.to_string())
        }),
        ("downstreamRemoteAddress", |call| {
            call.text(call.this().0.facts.client.to_string())
        }),
        ("downstreamDirectRemoteAddress", |call| {
            call.text(call.this().0.facts.connection.direct_remote().to_string())
        }),
        ("requestedServerName", |call| {
            let name = call.this().0.facts.connection.server_name.as_deref();
            call.text(name.unwrap_or_default())
        }),
        ("dynamicMetadata", |call| {
            call.object(Dynamic(Rc::clone(&call.this().0)))
        }),
        ("downstreamSslConnection", |call| ssl(call, &call.this().0)),
        ("drainConnectionUponCompletion", |call| {
            call.this().0.effects.drains.set(true);
            Ok(Reply::nothing())
        }),
        ("dynamicTypedMetadata", |call| Err(call.unsupported())),
        ("filterState", |call| Err(call.unsupported())),
    ];
}

/// `connection()`.
pub(super) struct Client(pub(super) Rc<Scene>);

impl Object for Client {
    const METHODS: &'static [(&'static str, Method<Self>)] =
        &[("ssl", |call| ssl(call, &call.this().0))];
}

/// `connectionStreamInfo()`: nothing of it but what listeners leave, and ours leave nothing.
pub(super) struct ConnectionInfo;

impl Object for ConnectionInfo {
    const METHODS: &'static [(&'static str, Method<Self>)] = &[
        ("dynamicMetadata", |call| Err(call.unsupported())),
        ("dynamicTypedMetadata", |call| Err(call.unsupported())),
    ];
}

fn ssl<T: Object>(call: &Call<'_, T>, scene: &Rc<Scene>) -> Result<Reply, Failure> {
    match scene.facts.connection.tls {
        None => Ok(Reply::value(Value::Nil)),
        Some(_) => call.object(Ssl(Rc::clone(scene))),
    }
}

/// The session with the client.
struct Ssl(Rc<Scene>);

impl Ssl {
    fn session(&self) -> Option<&TlsSession> {
        self.0.facts.connection.tls.as_ref()
    }

    fn peer(&self) -> Option<&CertificateText> {
        self.session()?.peer_text()
    }

    fn own(&self) -> Option<&CertificateText> {
        self.session()?.own_text()
    }
}

type SslCall<'c> = Call<'c, Ssl>;

impl Object for Ssl {
    const METHODS: &'static [(&'static str, Method<Self>)] = &[
        ("peerCertificatePresented", has_peer),
        // Who shows a certificate that is not good does not get this far.
        ("peerCertificateValidated", has_peer),
        ("uriSanPeerCertificate", |call| {
            let peer = call.this().peer();
            list(call, peer.map_or(&[], |it| &it.description.uri_sans))
        }),
        ("uriSanLocalCertificate", |call| {
            let own = call.this().own();
            list(call, own.map_or(&[], |it| &it.description.uri_sans))
        }),
        ("dnsSansPeerCertificate", |call| {
            let peer = call.this().peer();
            list(call, peer.map_or(&[], |it| &it.description.dns_sans))
        }),
        ("dnsSansLocalCertificate", |call| {
            let own = call.this().own();
            list(call, own.map_or(&[], |it| &it.description.dns_sans))
        }),
        ("subjectPeerCertificate", |call| {
            let peer = call.this().peer();
            call.text(peer.map_or("", |it| &it.description.subject))
        }),
        ("subjectLocalCertificate", |call| {
            let own = call.this().own();
            call.text(own.map_or("", |it| &it.description.subject))
        }),
        ("issuerPeerCertificate", |call| {
            let peer = call.this().peer();
            call.text(peer.map_or("", |it| &it.description.issuer))
        }),
        ("serialNumberPeerCertificate", |call| {
            let peer = call.this().peer();
            call.text(peer.map_or("", |it| &it.description.serial))
        }),
        ("sha256PeerCertificateDigest", |call| {
            let peer = call.this().peer();
            call.text(peer.map_or("", |it| &it.fingerprint))
        }),
        ("urlEncodedPemEncodedPeerCertificate", |call| pem(call, 1)),
        ("urlEncodedPemEncodedPeerCertificateChain", |call| {
            pem(call, usize::MAX)
        }),
        ("validFromPeerCertificate", |call| {
            let peer = call.this().peer();
            time(peer.map(|it| it.description.not_before))
        }),
        ("expirationPeerCertificate", |call| {
            let peer = call.this().peer();
            time(peer.map(|it| it.description.not_after))
        }),
        ("ciphersuiteString", |call| {
            let session = call.this().session();
            call.text(session.map_or("", |it| it.cipher))
        }),
        ("tlsVersion", |call| {
            let session = call.this().session();
            call.text(session.map_or("", |it| it.version))
        }),
        ("ciphersuiteId", |call| Err(call.unsupported())),
        ("sessionId", |call| Err(call.unsupported())),
        ("oidsPeerCertificate", |call| Err(call.unsupported())),
        ("oidsLocalCertificate", |call| Err(call.unsupported())),
        ("parsedSubjectPeerCertificate", |call| {
            Err(call.unsupported())
        }),
    ];
}

fn has_peer(call: &SslCall<'_>) -> Result<Reply, Failure> {
    let session = call.this().session();
    let has_peer = session.is_some_and(|it| it.peer.is_some());
    Ok(Reply::value(Value::Boolean(has_peer)))
}

fn list(call: &SslCall<'_>, names: &[String]) -> Result<Reply, Failure> {
    let names = names.iter().map(String::as_str);
    Ok(Reply::value(Value::Table(
        call.lua.create_sequence_from(names)?,
    )))
}

fn pem(call: &SslCall<'_>, count: usize) -> Result<Reply, Failure> {
    let peer = call.this().session().and_then(|it| it.peer.as_ref());
    let chain = peer.map_or(&[][..], |peer| &peer.chain);
    let encoded = chain.iter().take(count);
    let encoded: String = encoded
        .map(|der| crate::http::url_encoded_pem(der))
        .collect();
    call.text(encoded)
}

/// In seconds since 1970.
fn time(time: Option<std::time::SystemTime>) -> Result<Reply, Failure> {
    let since = time.and_then(|it| it.duration_since(std::time::UNIX_EPOCH).ok());
    Ok(match since {
        None => Reply::nothing(),
        Some(since) => Reply::value(Value::Number(since.as_secs_f64().trunc())),
    })
}
