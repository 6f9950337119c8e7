use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::{ClientContext, ServerContext, testing::pair};

/// More than a whole handshake.
const PIPE: usize = 64 * 1024;

type Established = TlsStream<DuplexStream>;

async fn accept(io: DuplexStream, context: &ServerContext) -> Result<Established, HandshakeError> {
    match inspect(io).await? {
        Inspected::Tls(pending) => pending.accept(context).await,
        Inspected::Plain(..) => Err(HandshakeError::Protocol("plaintext".to_owned())),
    }
}

async fn handshake(
    server: &ServerContext,
    client: &ClientContext,
) -> (
    Result<Established, HandshakeError>,
    Result<Established, HandshakeError>,
) {
    let (a, b) = duplex(PIPE);
    tokio::join!(
        accept(a, server),
        client.connect(b, Some("web.example.org"), None)
    )
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let (server, client) = pair();
    let (server, client) = handshake(&server, &client).await;
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    let id = |stream: &Established| stream.peer().unwrap().id.clone().unwrap().to_string();
    assert_eq!(id(&server), "spiffe://example.org/client");
    assert_eq!(id(&client), "spiffe://example.org/server");
    assert_eq!(server.server_name(), Some("web.example.org"));
    for stream in [&server, &client] {
        assert_eq!(stream.version(), "TLSv1.3");
        assert_eq!(stream.cipher(), "TLS_AES_128_GCM_SHA256");
        assert_eq!(stream.group(), "X25519MLKEM768");
        assert_eq!(stream.alpn(), Some(&b"h2"[..]));
        assert!(!stream.resumed());
    }
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
}
