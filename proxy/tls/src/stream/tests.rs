mod certificates;
mod fragments;
mod http2;
mod inspection;
mod peers;
mod resumption;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::{
    ClientAuth, ClientContext, Identity, SanMatcher, SanPattern, SanType, ServerContext, Slot,
    TlsVersion, Trust, Validation,
    testing::{
        bundles, client_params, pair, roots, server_params, spiffe_root, svid_params, validation,
        validity,
    },
};

/// More than a whole handshake.
const PIPE: usize = 64 * 1024;

type Established = TlsStream<DuplexStream>;
type Outcome = Result<Established, HandshakeError>;

async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    io: S,
    context: &ServerContext,
) -> Result<TlsStream<S>, HandshakeError> {
    match inspect(io).await? {
        Inspected::Tls(pending) => pending.accept(context).await,
        Inspected::Plain(..) => Err(HandshakeError::Protocol("plaintext".to_owned())),
    }
}

/// Both sides of a handshake, server first.
async fn handshake(server: &ServerContext, client: &ClientContext) -> (Outcome, Outcome) {
    let (a, b) = duplex(PIPE);
    tokio::join!(
        accept(a, server),
        client.connect(b, Some("web.example.org"), None)
    )
}

async fn established(server: &ServerContext, client: &ClientContext) -> (Established, Established) {
    let (server, client) = handshake(server, client).await;
    (server.unwrap(), client.unwrap())
}

/// Nothing here takes long; what hangs must fail.
async fn bounded<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work)
        .await
        .expect("no progress")
}

/// The reason that an I/O error carries.
fn reason(error: io::Error) -> HandshakeError {
    error.downcast().expect("a tls error")
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let (server, client) = pair();
    let (mut server, mut client) = established(&server, &client).await;
    let id = |stream: &Established| stream.peer().unwrap().id.clone().unwrap().to_string();
    assert_eq!(id(&server), "spiffe://example.org/client");
    assert_eq!(id(&client), "spiffe://example.org/server");
    assert_eq!(server.server_name(), Some("web.example.org"));
    let own = server.identity().unwrap().id.clone().unwrap();
    assert_eq!(own.as_str(), "spiffe://example.org/server");
    for stream in [&server, &client] {
        assert_eq!(stream.version(), "TLSv1.3");
        assert_eq!(stream.cipher(), "TLS_AES_128_GCM_SHA256");
        assert_eq!(stream.group(), "X25519MLKEM768");
        assert_eq!(stream.alpn(), Some(&b"h2"[..]));
        assert!(!stream.resumed());
    }
    // Half closes, one after the other.
    client.write_all(b"ping").await.unwrap();
    client.shutdown().await.unwrap();
    let mut text = String::new();
    server.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "ping");
    server.write_all(b"pong").await.unwrap();
    server.shutdown().await.unwrap();
    text.clear();
    client.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "pong");
    let closed = client.write_all(b"more").await.unwrap_err();
    assert_eq!(closed.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn tls_1_2_works_with_every_suite() {
    let ca = spiffe_root("example.org");
    let trust = || validation(bundles(&[("example.org", &ca)]));
    for suite in [
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    ] {
        let mut server = server_params(ca.svid("spiffe://example.org/server"), trust());
        server.versions = (TlsVersion::Tls12, TlsVersion::Tls12);
        server.cipher_suites = vec![suite.to_owned()];
        server.curves = vec!["P-256".to_owned()];
        let client = client_params(ca.svid("spiffe://example.org/client"), trust());
        let server = ServerContext::new(server).unwrap();
        let client = ClientContext::new(client).unwrap();
        let (mut server, mut client) = established(&server, &client).await;
        assert_eq!(server.version(), "TLSv1.2");
        assert_eq!(client.cipher(), suite);
        assert_eq!(server.group(), "P-256");
        assert!(server.peer().unwrap().id.is_some());
        server.write_all(b"hello").await.unwrap();
        server.shutdown().await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }
}

#[tokio::test]
async fn a_client_without_our_protocols_gets_none() {
    let (server, client) = pair();
    for (offered, expected) in [
        (&[b"istio".as_slice(), b"istio-peer-exchange"][..], None),
        (&[b"istio", b"http/1.1"], Some(&b"http/1.1"[..])),
        (&[b"http/1.1", b"h2"], Some(b"h2")),
        (&[], None),
    ] {
        let (a, b) = duplex(PIPE);
        let (server, client) =
            tokio::join!(accept(a, &server), client.connect(b, None, Some(offered)));
        let (server, client) = (server.unwrap(), client.unwrap());
        assert_eq!(server.alpn(), expected);
        assert_eq!(client.alpn(), expected);
        assert_eq!(server.server_name(), None);
    }
}

#[tokio::test]
async fn a_refused_client_is_named_here_and_told_why() {
    let (own, other) = (spiffe_root("example.org"), spiffe_root("domain.test"));
    let trust = || validation(bundles(&[("example.org", &own)]));
    let server = server_params(own.svid("spiffe://example.org/server"), trust());
    let server = ServerContext::new(server).unwrap();
    let mut expired = svid_params("spiffe://example.org/old");
    validity(&mut expired, -2, -1);
    for (identity, rule, alert) in [
        (
            other.svid("spiffe://example.org/forged"),
            "unknown_issuer",
            "unknown_ca",
        ),
        (
            other.svid("spiffe://domain.test/x"),
            "unknown_trust_domain",
            "unknown_ca",
        ),
        (own.identity(&expired), "expired", "certificate_expired"),
    ] {
        let client = ClientContext::new(client_params(identity, trust())).unwrap();
        let (server, client) = handshake(&server, &client).await;
        let Err(HandshakeError::Refused(refusal)) = server else {
            panic!("{rule}: {server:?}");
        };
        assert_eq!(refusal.rule, rule);
        // A TLS 1.3 client learns it with its first read.
        let error = client.unwrap().read_u8().await.unwrap_err();
        let text = reason(error).to_string();
        assert_eq!(text, format!("the peer sent the alert {alert}"));
    }
}

#[tokio::test]
async fn a_refused_server_is_named_here_and_told_why() {
    let (own, other) = (spiffe_root("example.org"), spiffe_root("domain.test"));
    let trust = validation(bundles(&[("example.org", &own)]));
    let server = server_params(other.svid("spiffe://example.org/forged"), trust.clone());
    let server = ServerContext::new(server).unwrap();
    let client = client_params(own.svid("spiffe://example.org/client"), trust);
    let client = ClientContext::new(client).unwrap();
    let (server, client) = handshake(&server, &client).await;
    let Err(HandshakeError::Refused(refusal)) = client else {
        panic!("{client:?}");
    };
    assert_eq!(refusal.peer.as_deref(), Some("spiffe://example.org/forged"));
    assert_eq!(refusal.counter, "fail_verify_error");
    let told = server.unwrap_err().to_string();
    assert_eq!(told, "the peer sent the alert unknown_ca");
}

#[tokio::test]
async fn client_certificates_are_required_optional_or_not_asked_for() {
    use ClientAuth::{None as Unasked, Optional, Required};
    let (own, other) = (spiffe_root("example.org"), spiffe_root("domain.test"));
    let ca = || Validation::new(Trust::Ca(roots(&[&own])));
    let spiffe = || Validation::new(bundles(&[("example.org", &own)]));
    let named = || Validation {
        sans: vec![SanMatcher {
            san: Some(SanType::Uri),
            pattern: SanPattern::Prefix("spiffe://example.org/".to_owned()),
            ignore_case: false,
        }],
        ..ca()
    };
    let pinned = || Validation {
        spki_hashes: vec![[0; 32]],
        ..ca()
    };
    let client = |identity: Option<Arc<Identity>>| {
        let own_svid = own.svid("spiffe://example.org/client");
        let mut params = client_params(own_svid, Arc::new(spiffe()));
        params.identity = identity.map(|identity| Slot::new(Some(identity)));
        ClientContext::new(params).unwrap()
    };
    let genuine = || Some(own.svid("spiffe://example.org/client"));
    let forged = || Some(other.svid("spiffe://example.org/client"));
    for (client_auth, trust, identity, expected) in [
        (Required, ca(), genuine(), Ok(true)),
        (Required, ca(), None, Err("no_certificate")),
        (Optional, ca(), genuine(), Ok(true)),
        (Optional, ca(), None, Ok(false)),
        (Optional, ca(), forged(), Err("unknown_issuer")),
        // What is demanded of a certificate demands the certificate.
        (Optional, spiffe(), genuine(), Ok(true)),
        (Optional, spiffe(), None, Err("no_certificate")),
        (Optional, spiffe(), forged(), Err("unknown_issuer")),
        (Optional, named(), genuine(), Ok(true)),
        (Optional, named(), None, Err("no_certificate")),
        (Optional, pinned(), None, Err("no_certificate")),
        (Unasked, spiffe(), forged(), Ok(false)),
        (Unasked, spiffe(), None, Ok(false)),
    ] {
        let server_svid = own.svid("spiffe://example.org/server");
        let mut server = server_params(server_svid, Arc::new(trust));
        server.client_auth = client_auth;
        let server = ServerContext::new(server).unwrap();
        let (server, _client) = handshake(&server, &client(identity)).await;
        let outcome = match &server {
            Ok(server) => Ok(server.peer().is_some()),
            Err(HandshakeError::Refused(refusal)) => Err(refusal.rule),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(outcome, expected, "{client_auth:?}");
    }
}

#[tokio::test]
async fn without_material_there_is_no_handshake() {
    let ca = spiffe_root("example.org");
    let trust = || validation(bundles(&[("example.org", &ca)]));
    let (server, client) = pair();
    assert!(server.is_ready() && client.is_ready());
    server.params().identity.store(None);
    assert!(!server.is_ready());
    let (outcome, _) = handshake(&server, &client).await;
    let text = outcome.unwrap_err().to_string();
    assert_eq!(text, "listener has no certificate yet");

    server
        .params()
        .identity
        .store(Some(ca.svid("spiffe://example.org/server")));
    server.params().validation.as_ref().unwrap().store(None);
    assert!(!server.is_ready());
    let (outcome, _) = handshake(&server, &client).await;
    let text = outcome.unwrap_err().to_string();
    assert_eq!(text, "listener has no trust material yet");

    server
        .params()
        .validation
        .as_ref()
        .unwrap()
        .store(Some(trust()));
    client.params().validation.store(None);
    assert!(!client.is_ready());
    let (_, outcome) = handshake(&server, &client).await;
    let text = outcome.unwrap_err().to_string();
    assert_eq!(text, "cluster has no trust material yet");
}

#[tokio::test]
async fn rotation_takes_effect_at_the_next_handshake() {
    let ca = spiffe_root("example.org");
    let (server, client) = pair();
    let trust = validation(bundles(&[("example.org", &ca)]));
    let (_, before) = established(&server, &client).await;
    server
        .params()
        .validation
        .as_ref()
        .unwrap()
        .store(Some(trust.clone()));
    let (outcome, _) = handshake(&server, &client).await;
    assert!(matches!(outcome, Err(HandshakeError::Refused(_))));
    client
        .params()
        .identity
        .as_ref()
        .unwrap()
        .store(Some(ca.svid("spiffe://example.org/new")));
    assert_ne!(client.epochs(), before.epochs());
    let (server, client) = handshake(&server, &client).await;
    let peer = server.unwrap().peer().unwrap().clone();
    assert_eq!(
        peer.id.as_ref().unwrap().as_str(),
        "spiffe://example.org/new"
    );
    assert_eq!(client.unwrap().epochs(), (1, 0));
}

#[tokio::test]
async fn trust_that_changes_during_a_handshake_counts() {
    let (server, client) = pair();
    let slot = server.params().validation.clone().unwrap();
    let (a, b) = duplex(PIPE);
    let Inspected::Tls(pending) = async {
        let (inspected, ()) = tokio::join!(inspect(a), async {
            // The rest of the handshake waits in the pipe.
            tokio::spawn(async move {
                let _ = client
                    .connect(b, None, None)
                    .await
                    .map(|mut stream| async move { stream.read_u8().await });
            });
        });
        inspected.unwrap()
    }
    .await
    else {
        panic!("not tls");
    };
    let mut accepting = Box::pin(pending.accept(&server));
    // One poll: the state is derived, and the server's flight is sent.
    assert!(futures_poll(&mut accepting).await.is_none());
    slot.store(Some(Arc::new(Validation::new(Trust::Spiffe([].into())))));
    let Err(HandshakeError::Refused(refusal)) = accepting.await else {
        panic!("let in under the old trust");
    };
    assert_eq!(refusal.rule, "unknown_trust_domain");
}

/// Polls once.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        Poll::Ready(match Pin::new(&mut *future).poll(cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn the_end_without_close_notify_is_an_error() {
    let (server, client) = pair();
    let (mut server, mut client) = established(&server, &client).await;
    client.write_all(b"half").await.unwrap();
    drop(client);
    let mut text = Vec::new();
    let error = server.read_to_end(&mut text).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(text, b"half");
}

#[tokio::test]
async fn a_forged_record_ends_the_connection_for_good() {
    let (server, client) = pair();
    let (mut server, client) = established(&server, &client).await;
    let TlsStream { mut io, .. } = client;
    io.write_all(&[23, 3, 3, 0, 32]).await.unwrap();
    io.write_all(&[0; 32]).await.unwrap();
    for _ in 0..2 {
        let error = server.read_u8().await.unwrap_err();
        let text = reason(error).to_string();
        assert_eq!(text, "tls protocol error: cannot decrypt peer's message");
    }
    assert!(server.write_all(b"x").await.is_err());
    let mut alert = Vec::new();
    drop(server);
    io.read_to_end(&mut alert).await.unwrap();
    assert!(!alert.is_empty(), "the alert was not sent");
}

#[tokio::test]
async fn a_bad_sni_is_an_error_and_not_a_panic() {
    let (server, client) = pair();
    let (io, _other) = duplex(PIPE);
    let error = client.connect(io, Some(""), None).await.unwrap_err();
    assert!(error.to_string().contains("cannot be sent"), "{error}");
    // They are sent, but rustls takes none of them as a server.
    for name in ["spiffe://example.org/x", "outbound|80||foo", "*.x", "a b"] {
        let (a, b) = duplex(PIPE);
        let connecting = client.connect(b, Some(name), None);
        let (server, client) = tokio::join!(accept(a, &server), connecting);
        let error = client.unwrap_err();
        assert!(matches!(error, HandshakeError::Alert(_)), "{name}: {error}");
        assert!(server.is_err(), "{name}");
    }
    for name in [
        "outbound_.80_._.foo.default.svc.cluster.local",
        "a_b",
        "10.0.0.1",
    ] {
        let (server, client) = pair();
        let (a, b) = duplex(PIPE);
        let (server, _) = tokio::join!(accept(a, &server), client.connect(b, Some(name), None));
        let expected = Some(name).filter(|name| !name.starts_with("10."));
        assert_eq!(server.unwrap().server_name(), expected);
    }
}

/// The name that a certificate must cover is the one asked for, an address too.
#[tokio::test]
async fn the_name_asked_for_is_the_name_that_counts() {
    let ca = spiffe_root("example.org");
    let mut params = svid_params("spiffe://example.org/server");
    for san in [
        rcgen::SanType::DnsName("web.test".try_into().unwrap()),
        rcgen::SanType::IpAddress([10, 0, 0, 1].into()),
    ] {
        params.subject_alt_names.push(san);
    }
    let trust = validation(bundles(&[("example.org", &ca)]));
    let server = ServerContext::new(server_params(ca.identity(&params), trust)).unwrap();
    let mut trust = Validation::new(bundles(&[("example.org", &ca)]));
    trust.match_server_name = true;
    let client = client_params(ca.svid("spiffe://example.org/client"), Arc::new(trust));
    let client = ClientContext::new(client).unwrap();
    for (name, passes) in [
        (Some("web.test"), true),
        (Some("10.0.0.1"), true),
        (Some("other.test"), false),
        (Some("10.0.0.2"), false),
        (None, false),
    ] {
        // Twice, since the second may be a resumption.
        for _ in 0..2 {
            let (a, b) = duplex(PIPE);
            let (_server, client) = tokio::join!(accept(a, &server), client.connect(b, name, None));
            match client {
                Ok(_) => assert!(passes, "{name:?}"),
                Err(HandshakeError::Refused(refusal)) => {
                    assert_eq!(refusal.rule, "server_name_mismatch");
                    assert!(!passes, "{name:?}");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn an_idle_connection_is_small() {
    // The rest is rustls' own, on the heap.
    assert!(size_of::<TlsStream>() <= 144, "{}", size_of::<TlsStream>());
    assert!(
        size_of::<HandshakeError>() <= 40,
        "{}",
        size_of::<HandshakeError>()
    );
    assert!(
        size_of::<PendingTls>() <= 104,
        "{}",
        size_of::<PendingTls>()
    );
    let (server, client) = pair();
    let (a, b) = duplex(PIPE);
    let inspecting = inspect(a);
    assert!(
        size_of_val(&inspecting) <= 320,
        "{}",
        size_of_val(&inspecting)
    );
    let connecting = client.connect(b, None, None);
    assert!(
        size_of_val(&connecting) <= 128,
        "{}",
        size_of_val(&connecting)
    );
    drop(server);
}
