//! `streamInfo()`, `connection()` and what is known of TLS.

use std::rc::Rc;

use ithildin_lua::{Call, Failure, Method, Object, Reply, Value};

use super::{metadata::Dynamic, scene::Scene};
use crate::{http::request::Protocol, tls_session::TlsSession};

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
            let facts = call.this().0.facts()?;
            call.text(facts.route.as_ref().map_or("", |route| &route.name))
        }),
        // Virtual clusters only count; we have none.
        ("virtualClusterName", |call| call.text("")),
        ("downstreamLocalAddress", |call| {
            call.text(call.this().0.facts()?.connection.local.to_string())
        }),
        ("downstreamDirectLocalAddress", |call| {
            call.text(call.this().0.facts()?.connection.local.to_string())
        }),
        ("downstreamRemoteAddress", |call| {
            call.text(call.this().0.facts()?.client.to_string())
        }),
        ("downstreamDirectRemoteAddress", |call| {
            call.text(
                call.this()
                    .0
                    .facts()?
                    .connection
                    .direct_remote()
                    .to_string(),
            )
        }),
        ("requestedServerName", |call| {
            let facts = call.this().0.facts()?;
            call.text(facts.connection.server_name.as_deref().unwrap_or_default())
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
    match scene.facts()?.connection.tls {
        None => Ok(Reply::value(Value::Nil)),
        Some(_) => call.object(Ssl(Rc::clone(scene))),
    }
}

/// The session with the client.
struct Ssl(Rc<Scene>);

/// What a method does with the session.
type Read = fn(&SslCall<'_>, &TlsSession) -> Result<Reply, Failure>;

type SslCall<'c> = Call<'c, Ssl>;

impl Object for Ssl {
    const METHODS: &'static [(&'static str, Method<Self>)] = &[
        ("peerCertificatePresented", |call| read(call, has_peer)),
        // Who shows a certificate that is not good does not get this far.
        ("peerCertificateValidated", |call| read(call, has_peer)),
        ("uriSanPeerCertificate", |call| {
            read(call, |call, tls| {
                list(call, tls.peer_text().map(|it| &it.description.uri_sans))
            })
        }),
        ("uriSanLocalCertificate", |call| {
            read(call, |call, tls| {
                list(call, tls.own_text().map(|it| &it.description.uri_sans))
            })
        }),
        ("dnsSansPeerCertificate", |call| {
            read(call, |call, tls| {
                list(call, tls.peer_text().map(|it| &it.description.dns_sans))
            })
        }),
        ("dnsSansLocalCertificate", |call| {
            read(call, |call, tls| {
                list(call, tls.own_text().map(|it| &it.description.dns_sans))
            })
        }),
        ("subjectPeerCertificate", |call| {
            read(call, |call, tls| {
                text(call, tls.peer_text().map(|it| &it.description.subject))
            })
        }),
        ("subjectLocalCertificate", |call| {
            read(call, |call, tls| {
                text(call, tls.own_text().map(|it| &it.description.subject))
            })
        }),
        ("issuerPeerCertificate", |call| {
            read(call, |call, tls| {
                text(call, tls.peer_text().map(|it| &it.description.issuer))
            })
        }),
        ("serialNumberPeerCertificate", |call| {
            read(call, |call, tls| {
                text(call, tls.peer_text().map(|it| &it.description.serial))
            })
        }),
        ("sha256PeerCertificateDigest", |call| {
            read(call, |call, tls| {
                text(call, tls.peer_text().map(|it| &it.fingerprint))
            })
        }),
        ("urlEncodedPemEncodedPeerCertificate", |call| {
            read(call, |call, tls| pem(call, tls, 1))
        }),
        ("urlEncodedPemEncodedPeerCertificateChain", |call| {
            read(call, |call, tls| pem(call, tls, usize::MAX))
        }),
        ("validFromPeerCertificate", |call| {
            read(call, |_, tls| {
                time(tls.peer_text().map(|it| it.description.not_before))
            })
        }),
        ("expirationPeerCertificate", |call| {
            read(call, |_, tls| {
                time(tls.peer_text().map(|it| it.description.not_after))
            })
        }),
        ("ciphersuiteString", |call| {
            read(call, |call, tls| call.text(tls.cipher))
        }),
        ("tlsVersion", |call| {
            read(call, |call, tls| call.text(tls.version))
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

fn read(call: &SslCall<'_>, read: Read) -> Result<Reply, Failure> {
    let facts = call.this().0.facts()?;
    match &facts.connection.tls {
        None => Ok(Reply::nothing()),
        Some(session) => read(call, session),
    }
}

fn has_peer(_: &SslCall<'_>, session: &TlsSession) -> Result<Reply, Failure> {
    Ok(Reply::value(Value::Boolean(session.peer.is_some())))
}

/// Without a certificate it is empty.
fn text(call: &SslCall<'_>, text: Option<&String>) -> Result<Reply, Failure> {
    call.text(text.map_or("", String::as_str))
}

fn list(call: &SslCall<'_>, names: Option<&Vec<String>>) -> Result<Reply, Failure> {
    let names = names.into_iter().flatten().map(String::as_str);
    Ok(Reply::value(Value::Table(
        call.lua.create_sequence_from(names)?,
    )))
}

fn pem(call: &SslCall<'_>, session: &TlsSession, count: usize) -> Result<Reply, Failure> {
    let chain = session.peer.as_ref().map_or(&[][..], |peer| &peer.chain);
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
