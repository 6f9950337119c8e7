//! Sessions are resumed, and never across a change.

use super::*;
use crate::testing::Ca;

/// A server, a client, and what a change is made of.
struct World {
    ca: Ca,
    server: ServerContext,
    client: ClientContext,
}

impl World {
    fn new(version: TlsVersion) -> Self {
        let ca = spiffe_root("example.org");
        let mut server = server_params(ca.svid("spiffe://example.org/server"), trust(&ca));
        server.versions = (version, version);
        let client = client_params(ca.svid("spiffe://example.org/client"), trust(&ca));
        Self {
            server: ServerContext::new(server).unwrap(),
            client: ClientContext::new(client).unwrap(),
            ca,
        }
    }

    /// Connects, exchanges a byte each way so that tickets arrive, and tells whether it was resumed.
    async fn resumes(&self) -> bool {
        resumes(&self.server, &self.client).await
    }
}

fn trust(ca: &Ca) -> Arc<Validation> {
    validation(bundles(&[("example.org", ca)]))
}

async fn resumes(server: &ServerContext, client: &ClientContext) -> bool {
    let (mut server, mut client) = established(server, client).await;
    assert_eq!(server.resumed(), client.resumed());
    let id = |stream: &Established| stream.peer().unwrap().id.clone().unwrap();
    assert_eq!(id(&server).as_str(), "spiffe://example.org/client");
    assert!(
        id(&client)
            .as_str()
            .starts_with("spiffe://example.org/server")
    );
    server.write_u8(1).await.unwrap();
    client.read_u8().await.unwrap();
    client.write_u8(1).await.unwrap();
    server.read_u8().await.unwrap();
    server.resumed()
}

const VERSIONS: [TlsVersion; 2] = [TlsVersion::Tls12, TlsVersion::Tls13];

#[tokio::test]
async fn sessions_are_resumed_with_the_peer_s_identity() {
    for version in VERSIONS {
        let world = World::new(version);
        assert!(!world.resumes().await, "{version:?}");
        for _ in 0..3 {
            assert!(world.resumes().await, "{version:?}");
        }
    }
}

#[tokio::test]
async fn no_change_is_crossed() {
    type Change = fn(&World);
    let changes: [(&str, Change); 6] = [
        ("the server's identity", |world| {
            let identity = world.ca.svid("spiffe://example.org/server2");
            world.server.params().identity.store(Some(identity));
        }),
        ("the server's bundle, CRL or policy", |world| {
            let slot = world.server.params().validation.as_ref().unwrap();
            slot.store(Some(trust(&world.ca)));
        }),
        ("the client's identity", |world| {
            let identity = world.ca.svid("spiffe://example.org/client");
            world
                .client
                .params()
                .identity
                .as_ref()
                .unwrap()
                .store(Some(identity));
        }),
        ("the client's bundle, CRL or policy", |world| {
            world
                .client
                .params()
                .validation
                .store(Some(trust(&world.ca)));
        }),
        ("both sides' trust", |world| {
            let slot = world.server.params().validation.as_ref().unwrap();
            slot.store(Some(trust(&world.ca)));
            world
                .client
                .params()
                .validation
                .store(Some(trust(&world.ca)));
        }),
        ("a withdrawal and return", |world| {
            let slot = world.server.params().validation.as_ref().unwrap();
            let validation = slot.load();
            slot.store(None);
            slot.store(validation);
        }),
    ];
    for version in VERSIONS {
        for (name, change) in &changes {
            let world = World::new(version);
            assert!(!world.resumes().await);
            assert!(world.resumes().await, "{version:?}, before {name} changed");
            change(&world);
            assert!(
                !world.resumes().await,
                "{version:?}, across a change of {name}"
            );
            assert!(world.resumes().await, "{version:?}, after {name} changed");
        }
    }
}

/// Another context with the very same material: another chain, with another policy perhaps.
#[tokio::test]
async fn another_context_resumes_nothing() {
    for version in VERSIONS {
        let world = World::new(version);
        assert!(!world.resumes().await);
        let other = ServerContext::new(world.server.params().clone()).unwrap();
        assert!(!resumes(&other, &world.client).await, "{version:?}");
        let other = ClientContext::new(world.client.params().clone()).unwrap();
        assert!(!resumes(&world.server, &other).await, "{version:?}");
    }
}

/// A ticket that was issued under one name is no good under another.
#[tokio::test]
async fn another_server_name_resumes_nothing() {
    let world = World::new(TlsVersion::Tls13);
    assert!(!world.resumes().await);
    let (a, b) = duplex(PIPE);
    let (server, _client) = tokio::join!(
        accept(a, &world.server),
        world.client.connect(b, Some("other.example.org"), None)
    );
    assert!(!server.unwrap().resumed());
}

/// A resumed peer is judged again: here its certificate has run out meanwhile.
#[tokio::test]
async fn a_resumed_peer_that_expired_is_refused() {
    for version in VERSIONS {
        let world = World::new(version);
        let mut short = svid_params("spiffe://example.org/client");
        short.not_after = time::OffsetDateTime::now_utc() + time::Duration::seconds(4);
        let identity = world.ca.identity(&short);
        world
            .client
            .params()
            .identity
            .as_ref()
            .unwrap()
            .store(Some(identity.clone()));
        assert!(!world.resumes().await);
        bounded(async {
            while std::time::SystemTime::now() <= identity.not_after {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        let (server, _client) = handshake(&world.server, &world.client).await;
        let Err(HandshakeError::Refused(refusal)) = server else {
            panic!("{version:?}: {server:?}");
        };
        assert_eq!(refusal.rule, "expired");
    }
}
