//! Pools of TLS connections: what may not be shared, and what closes when trust changes.

use ithildin_tls::{ClientContext, Inspected, ServerContext, inspect};

use super::*;
use crate::{
    config::cluster::{Transport, Transports},
    testing::Pki,
};

const SERVER: &str = "spiffe://example.org/server";
const CLIENT: &str = "spiffe://example.org/client";

/// A TLS server that sends back what it gets, and remembers the SNI and ALPN that it was offered.
struct TlsServer {
    address: SocketAddr,
    seen: Rc<RefCell<Vec<Hello>>>,
}

/// SNI and ALPN.
type Hello = (Option<String>, Vec<Vec<u8>>);

impl TlsServer {
    async fn start(context: ServerContext) -> Self {
        let listener = TcpListener::bind(testing::ANY).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Rc<RefCell<Vec<_>>> = Rc::default();
        let list = Rc::clone(&seen);
        let context = Rc::new(context);
        tokio::task::spawn_local(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (list, context) = (Rc::clone(&list), Rc::clone(&context));
                tokio::task::spawn_local(async move {
                    let Inspected::Tls(pending) = inspect(socket).await.unwrap() else {
                        panic!("not tls");
                    };
                    let name = pending.server_name().map(str::to_owned);
                    let alpn = pending.alpn().iter().map(<[u8]>::to_vec).collect();
                    list.borrow_mut().push((name, alpn));
                    let Ok(stream) = pending.accept(&context).await else {
                        return;
                    };
                    if stream.alpn() == Some(b"h2") {
                        let mut connection = h2::server::handshake(stream).await.unwrap();
                        while let Some(Ok((_, mut respond))) = connection.accept().await {
                            respond.send_response(Response::new(()), true).unwrap();
                        }
                    } else {
                        let (mut read, mut write) = tokio::io::split(stream);
                        let _ = tokio::io::copy(&mut read, &mut write).await;
                    }
                });
            }
        });
        Self { address, seen }
    }
}

struct Fixture {
    pki: Pki,
    server: TlsServer,
    cluster: Arc<Cluster>,
    context: Arc<ClientContext>,
    upstreams: Upstreams,
}

impl Fixture {
    async fn new(alpn: &[&str], change: impl FnOnce(&mut Cluster)) -> Self {
        let pki = Pki::new(&["example.org", "domain.test"]);
        let mut params = pki.server(SERVER, &["example.org"]);
        params.alpn = alpn.iter().map(|&it| it.into()).collect();
        let server = TlsServer::start(ServerContext::new(params).unwrap()).await;
        let client = pki.client(CLIENT, &["example.org"]);
        let context = Arc::new(ClientContext::new(client).unwrap());
        let mut cluster = testing::cluster("c", &[server.address]);
        cluster.transport = Transports(vec![
            Transport::Tls {
                context: Arc::clone(&context),
                sni: Some("configured.example.org".into()),
            }
            .into(),
        ]);
        change(&mut cluster);
        let timers = Timers::new();
        let registry = Registry::new(0, Arc::default());
        let (sweep, watch) = (Rc::clone(&timers), Rc::clone(&registry));
        tokio::task::spawn_local(async move { sweep.sweep().await });
        tokio::task::spawn_local(async move { watch.watch_trust().await });
        Self {
            pki,
            server,
            cluster: Arc::new(cluster),
            context,
            upstreams: Upstreams::new(0, timers, registry),
        }
    }

    async fn http1(&self) -> Result<Http1Lease, UpstreamFailure> {
        http1(&self.upstreams, &self.cluster).await
    }
}

async fn echo(lease: &mut Http1Lease) -> std::io::Result<()> {
    lease.stream.write_all(b"hello").await?;
    lease.stream.flush().await?;
    let mut answer = [0; 5];
    lease.stream.read_exact(&mut answer).await?;
    Ok(())
}

#[tokio::test(flavor = "local")]
async fn a_tls_connection_is_used_again() {
    let fixture = Fixture::new(&[], |_| {}).await;
    let mut lease = fixture.http1().await.unwrap();
    echo(&mut lease).await.unwrap();
    let peer = lease.stream.peer().unwrap();
    assert_eq!(peer.id.as_ref().unwrap().as_str(), SERVER);
    lease.give_back();
    let mut lease = fixture.http1().await.unwrap();
    assert!(lease.reused);
    echo(&mut lease).await.unwrap();
    let seen = fixture.server.seen.borrow();
    assert_eq!(
        seen[..],
        [(
            Some("configured.example.org".into()),
            vec![b"http/1.1".to_vec()]
        )]
    );
}

#[tokio::test(flavor = "local")]
async fn connections_are_not_shared_across_identities_or_trust() {
    let fixture = Fixture::new(&[], |_| {}).await;
    let params = fixture.context.params();
    let identity = params.identity.as_ref().unwrap();
    for change in 0..2 {
        fixture.http1().await.unwrap().give_back();
        let mut in_flight = fixture.http1().await.unwrap();
        assert!(in_flight.reused);
        match change {
            0 => identity.store(Some(fixture.pki.identity(CLIENT))),
            _ => params
                .validation
                .store(Some(fixture.pki.validation(&["example.org"]))),
        }
        assert!(!fixture.http1().await.unwrap().reused);
        // What is in flight goes on, and is not used again.
        echo(&mut in_flight).await.unwrap();
        in_flight.give_back();
        assert!(!fixture.http1().await.unwrap().reused);
        let snapshot = Snapshot {
            clusters: [("c".into(), Arc::clone(&fixture.cluster))]
                .into_iter()
                .collect(),
            ..Snapshot::default()
        };
        fixture.upstreams.reap(&snapshot);
        let active = fixture.cluster.stats.worker(0).upstream_cx_active.get();
        assert_eq!(active, 0, "superseded connections close");
    }
}

#[tokio::test(flavor = "local")]
async fn live_upstream_connections_close_when_their_peer_is_no_longer_trusted() {
    let fixture = Fixture::new(&[], |_| {}).await;
    let mut lease = fixture.http1().await.unwrap();
    echo(&mut lease).await.unwrap();
    let validation = &fixture.context.params().validation;
    validation.store(Some(fixture.pki.validation(&["domain.test"])));
    let read = tokio::time::timeout(Duration::from_secs(5), lease.stream.read_u8()).await;
    let error = read.unwrap().unwrap_err().to_string();
    assert!(
        error.starts_with("peer is no longer authorised: "),
        "{error}"
    );
    let stats = fixture.cluster.stats.worker(0);
    assert_eq!(stats.upstream_cx_reauthorization_closed.get(), 1);

    let failure = fixture.http1().await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::RemoteConnectionFailure);
    let reason = failure.transport_failure_reason.unwrap();
    assert!(reason.starts_with("TLS_error: "), "{reason}");
    assert_eq!(stats.ssl.fail_verify_error.get(), 1);
}

#[tokio::test(flavor = "local")]
async fn the_authority_is_the_server_name_where_the_cluster_says_so() {
    let fixture = Fixture::new(&[], |cluster| cluster.http.auto_sni = true).await;
    for (authority, reused) in [("a", false), ("b", false), ("a", true)] {
        let request = LbRequest {
            authority: Some(authority),
            ..LbRequest::default()
        };
        let lease = fixture.upstreams.http(&fixture.cluster, &request).await;
        let Ok(HttpLease::Http1(lease)) = lease else {
            panic!("no lease");
        };
        assert_eq!(lease.reused, reused);
        lease.give_back();
    }
    eventually("seen", || fixture.server.seen.borrow().len() == 2).await;
    let seen = fixture.server.seen.borrow();
    let names: Vec<_> = seen.iter().map(|(name, _)| name.as_deref()).collect();
    assert_eq!(names, [Some("a"), Some("b")]);
}

#[tokio::test(flavor = "local")]
async fn auto_follows_alpn() {
    for (offered, http2) in [
        (&["h2", "http/1.1"][..], true),
        (&["http/1.1"], false),
        (&[], false),
    ] {
        let fixture = Fixture::new(offered, |it| it.protocol = UpstreamProtocol::Auto).await;
        for _ in 0..2 {
            let request = LbRequest::default();
            let lease = fixture
                .upstreams
                .http(&fixture.cluster, &request)
                .await
                .unwrap();
            assert_eq!(matches!(lease, HttpLease::Http2(_)), http2, "{offered:?}");
            match lease {
                HttpLease::Http1(lease) => lease.give_back(),
                HttpLease::Http2(lease) => exchange(lease).await.unwrap(),
            }
        }
        assert_eq!(fixture.cluster.stats.worker(0).upstream_cx_total.get(), 1);
        let seen = fixture.server.seen.borrow();
        assert_eq!(seen[0].1, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    }
}

/// Istio's: the version of HTTP decides, and a cluster may say that it does not.
#[tokio::test(flavor = "local")]
async fn alpn_is_what_the_request_chose() {
    let names = |list: &[&str]| list.iter().map(|it| it.as_bytes().into()).collect();
    let overrides = AlpnOverrides {
        http10: Some(names(&["istio-http/1.0", "istio", "http/1.0"])),
        http11: Some(names(&["istio-http/1.1", "istio", "http/1.1"])),
        http2: Some(names(&["istio-h2", "istio", "h2"])),
    };
    let (http10, http1) = (DownstreamProtocol::Http10, DownstreamProtocol::Http1);
    for (protocol, downstream, keeps, first) in [
        (UpstreamProtocol::Http1, http1, false, "istio-http/1.1"),
        (UpstreamProtocol::Http1, http10, false, "istio-http/1.1"),
        (UpstreamProtocol::Downstream, http1, false, "istio-http/1.1"),
        (
            UpstreamProtocol::Downstream,
            http10,
            false,
            "istio-http/1.0",
        ),
        (UpstreamProtocol::Http1, http1, true, "http/1.1"),
    ] {
        let fixture = Fixture::new(&[], |cluster| {
            cluster.protocol = protocol;
            cluster.mesh.keeps_alpn = keeps;
        })
        .await;
        let request = LbRequest {
            downstream,
            alpn: Some(&overrides),
            ..LbRequest::default()
        };
        // A connection is shared only where the same was offered.
        for (request, reused) in [
            (request, false),
            (LbRequest::default(), keeps),
            (request, true),
        ] {
            let lease = fixture.upstreams.http(&fixture.cluster, &request).await;
            let Ok(HttpLease::Http1(mut lease)) = lease else {
                panic!("no lease");
            };
            assert_eq!(lease.reused, reused, "{protocol:?} {keeps}");
            echo(&mut lease).await.unwrap();
            lease.give_back();
        }
        let seen = fixture.server.seen.borrow();
        assert_eq!(seen[0].1[0], first.as_bytes(), "{protocol:?} {keeps}");
    }

    let fixture = Fixture::new(&["h2"], |it| it.protocol = UpstreamProtocol::Http2).await;
    let request = LbRequest {
        alpn: Some(&overrides),
        ..LbRequest::default()
    };
    let lease = fixture.upstreams.http(&fixture.cluster, &request).await;
    let Ok(HttpLease::Http2(lease)) = lease else {
        panic!("no lease");
    };
    exchange(lease).await.unwrap();
    let offered: Vec<_> = ["istio-h2", "istio", "h2"].map(Vec::from).into();
    assert_eq!(fixture.server.seen.borrow()[0].1, offered);
}

#[tokio::test(flavor = "local")]
async fn identities_rotate_under_load_and_no_request_fails() {
    let fixture = Fixture::new(&[], |_| {}).await;
    let identity = fixture.context.params().identity.as_ref().unwrap();
    let served = Cell::new(0);
    let load = async {
        for _ in 0..400 {
            let mut lease = fixture.http1().await.unwrap();
            echo(&mut lease).await.unwrap();
            lease.give_back();
            served.set(served.get() + 1);
        }
    };
    let rotate = async {
        loop {
            identity.store(Some(fixture.pki.identity(CLIENT)));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        () = load => {}
        () = rotate => {}
    }
    assert_eq!(served.get(), 400);
    assert!(fixture.cluster.stats.worker(0).upstream_cx_total.get() > 1);
}
