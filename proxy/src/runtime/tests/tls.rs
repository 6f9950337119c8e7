//! mTLS connections: who is let in, by which chain, and for how long.

use ithildin_tls::{ClientContext, ClientParams, ServerContext, ServerParams, Slot, TlsStream};

use super::*;
use crate::{
    access_log::{AccessLog, AccessLogs, Destination, Format, LogWriter, Unset},
    config::{
        FilterChain, FilterChains,
        listener::ChainMatch,
        matchers::{StringMatch, StringPattern},
    },
    rbac::{Action, Policy, Rbac, Rule, RuleSet},
    testing::Pki,
};

const SERVER: &str = "spiffe://example.org/server";
const CLIENT: &str = "spiffe://example.org/client";
const FRIEND: &str = "spiffe://domain.test/client";

fn tls_chain(params: ServerParams) -> FilterChain {
    let terminal = Terminal::Tcp(Arc::new(testing::tcp_proxy("echo")));
    FilterChain {
        tls: Some(Arc::new(ServerContext::new(params).unwrap())),
        ..testing::chain("tls", terminal)
    }
}

/// A proxy whose one listener terminates TLS before an echo server.
async fn tls_proxy(params: ServerParams) -> (Proxy, Arc<Listener>) {
    let listener = testing::listener("l", testing::ANY, tls_chain(params));
    start(listener).await
}

async fn start(listener: Listener) -> (Proxy, Arc<Listener>) {
    let cluster = testing::cluster("echo", &[echo_server().await]);
    let listener = Arc::new(listener);
    let proxy = Proxy::start(1, snapshot(vec![Arc::clone(&listener)], vec![cluster])).await;
    (proxy, listener)
}

async fn connect(
    proxy: &Proxy,
    params: ClientParams,
    server_name: Option<&str>,
    alpn: Option<&[&[u8]]>,
) -> Result<TlsStream, String> {
    let context = ClientContext::new(params).unwrap();
    let socket = TcpStream::connect(proxy.address("l")).await.unwrap();
    let mut stream = context
        .connect(socket, server_name, alpn)
        .await
        .map_err(|error| error.to_string())?;
    // With TLS 1.3 the server's refusal comes after our handshake.
    echo_tls(&mut stream)
        .await
        .map_err(|error| error.to_string())?;
    Ok(stream)
}

async fn echo_tls(stream: &mut TlsStream) -> std::io::Result<()> {
    stream.write_all(b"hello").await?;
    stream.flush().await?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"hello");
    Ok(())
}

/// Whether the connection ends, and does so soon.
async fn ends(stream: &mut TlsStream) -> bool {
    let read = tokio::time::timeout(SOON, stream.read_u8()).await;
    matches!(read, Ok(Err(_)))
}

#[tokio::test]
async fn only_who_is_trusted_is_let_in() {
    let pki = Pki::new(&["example.org", "domain.test"]);
    let (proxy, listener) = tls_proxy(pki.server(SERVER, &["example.org"])).await;
    connect(&proxy, pki.client(CLIENT, &["example.org"]), None, None)
        .await
        .unwrap();
    let ssl = &listener.stats.worker(0).ssl;
    assert_eq!((ssl.handshake.get(), ssl.connection_error.get()), (1, 0));

    let stranger = connect(&proxy, pki.client(FRIEND, &["example.org"]), None, None).await;
    stranger.unwrap_err();
    eventually("counted", || ssl.fail_verify_error.get() == 1).await;

    let mut anonymous = pki.client(CLIENT, &["example.org"]);
    anonymous.identity = None;
    connect(&proxy, anonymous, None, None).await.unwrap_err();
    eventually("counted", || ssl.fail_verify_no_cert.get() == 1).await;

    let mut plain = TcpStream::connect(proxy.address("l")).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    eventually("counted", || ssl.connection_error.get() == 3).await;
    assert_eq!(ssl.handshake.get(), 1);
}

#[tokio::test]
async fn of_the_trusted_only_who_may_is_let_in() {
    let pki = Pki::new(&["example.org", "domain.test"]);
    let trusted = &["example.org", "domain.test"];
    let named = |prefix: &str| {
        let pattern = StringPattern::Prefix(prefix.into());
        Rule::Authenticated(Some(StringMatch::new(pattern, false)))
    };
    let ours = named("spiffe://example.org/");
    let cases = [
        (Action::Allow, Rule::Authenticated(None), [true, true]),
        (Action::Allow, named("spiffe://example.org/"), [true, false]),
        (Action::Allow, Rule::Not(Box::new(ours)), [false, true]),
        (Action::Deny, named("spiffe://domain.test/"), [true, false]),
        (Action::Deny, Rule::Authenticated(None), [false, false]),
    ];
    for (action, principal, admitted) in cases {
        let case = format!("{action:?} {principal:?}");
        let mut chain = tls_chain(pki.server(SERVER, trusted));
        let policy = Policy {
            name: "policy".into(),
            permissions: vec![Rule::Any],
            principals: vec![principal],
        };
        chain.access = vec![AccessFilter::Rbac(Rbac {
            shadow_keys: Default::default(),
            stats: None,
            rules: Some(RuleSet {
                action,
                policies: vec![policy],
            }),
            shadow_rules: None,
        })];
        let (proxy, listener) = start(testing::listener("l", testing::ANY, chain)).await;
        for (peer, admitted) in [CLIENT, FRIEND].into_iter().zip(admitted) {
            let result = connect(&proxy, pki.client(peer, trusted), None, None).await;
            assert_eq!(
                result.is_ok(),
                admitted,
                "{case}: {peer}: {:?}",
                result.err()
            );
        }
        let stats = listener.stats.worker(0);
        let counted = (stats.rbac_allowed.get(), stats.rbac_denied.get());
        let allowed = admitted.iter().filter(|admitted| **admitted).count() as u64;
        assert_eq!(counted, (allowed, 2 - allowed), "{case}");
    }
}

/// The CA of a federated domain may write the names of others beside the ID of its workload.
#[tokio::test]
async fn a_policy_knows_a_peer_by_no_name_that_poses_as_an_id() {
    let pki = Pki::new(&["example.org", "domain.test"]);
    let trusted = &["example.org", "domain.test"];
    for pattern in [
        StringPattern::Exact(CLIENT.into()),
        StringPattern::Prefix("spiffe://example.org/".into()),
        StringPattern::Contains("example.org/client".into()),
    ] {
        let case = format!("{pattern:?}");
        let mut chain = tls_chain(pki.server(SERVER, trusted));
        let policy = Policy {
            name: "policy".into(),
            permissions: vec![Rule::Any],
            principals: vec![Rule::Authenticated(Some(StringMatch::new(pattern, false)))],
        };
        chain.access = vec![AccessFilter::Rbac(Rbac {
            shadow_keys: Default::default(),
            stats: None,
            rules: Some(RuleSet {
                action: Action::Allow,
                policies: vec![policy],
            }),
            shadow_rules: None,
        })];
        let (proxy, _) = start(testing::listener("l", testing::ANY, chain)).await;
        let mut posing = pki.client(FRIEND, trusted);
        posing.identity = Some(Slot::new(Some(pki.posing(FRIEND, CLIENT))));
        let refused = connect(&proxy, posing, None, None).await;
        assert!(refused.is_err(), "{case}");
        let client = pki.client(CLIENT, trusted);
        connect(&proxy, client, None, None).await.expect(&case);
    }
}

#[tokio::test]
async fn each_refusal_is_one_line_with_who_and_why() {
    let pki = Pki::new(&["example.org", "domain.test"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let file = LogWriter::new(Arc::default()).open(Destination::File(path.clone()));
    let format = "%DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_TRANSPORT_FAILURE_REASON% \
                  %CONNECTION_TERMINATION_DETAILS% %FILTER_CHAIN_NAME%\n";
    let format = Format::text(format, Unset::Dash).unwrap();
    let server = pki.server(SERVER, &["example.org"]);
    let validation = server.validation.clone().unwrap();
    let mut listener = testing::listener("l", testing::ANY, tls_chain(server));
    listener.access_log = AccessLogs::new(vec![AccessLog::to_file(None, format, file.unwrap())]);
    listener.logs_connections = true;
    let (proxy, _) = start(listener).await;

    let stranger = connect(&proxy, pki.client(FRIEND, &["example.org"]), None, None).await;
    stranger.unwrap_err();
    let mut anonymous = pki.client(CLIENT, &["example.org"]);
    anonymous.identity = None;
    connect(&proxy, anonymous, None, None).await.unwrap_err();
    let mut live = connect(&proxy, pki.client(CLIENT, &["example.org"]), None, None)
        .await
        .unwrap();
    validation.store(Some(pki.validation(&["domain.test"])));
    assert!(ends(&mut live).await);

    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually("logged", || read().lines().count() == 3).await;
    let text = read();
    let lines: Vec<_> = text.lines().collect();
    let no_bundle = format!("- TLS_error:_{FRIEND}_is_refused:_there_is_no_bundle_for_");
    assert!(lines[0].starts_with(&no_bundle), "{text}");
    assert!(lines[0].ends_with(" - tls"), "{text}");
    let anonymous = "- TLS_error:_the_peer_sent_no_certificate,_and_one_is_required - tls";
    assert_eq!(lines[1], anonymous);
    let gone = format!("{CLIENT} - peer_is_no_longer_authorised:_{CLIENT}_is_refused:");
    assert!(lines[2].starts_with(&gone), "{text}");
}

#[tokio::test]
async fn a_silent_client_is_dropped_when_the_handshake_takes_too_long() {
    let pki = Pki::new(&["example.org"]);
    let mut chain = tls_chain(pki.server(SERVER, &["example.org"]));
    chain.handshake_timeout = Some(Duration::from_millis(200));
    let (proxy, listener) = start(testing::listener("l", testing::ANY, chain)).await;
    let mut silent = TcpStream::connect(proxy.address("l")).await.unwrap();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
    let stats = listener.stats.worker(0);
    let timeouts = &stats.downstream_cx_transport_socket_connect_timeout;
    eventually("counted", || timeouts.get() == 1).await;
    eventually("gone", || stats.downstream_cx_active.get() == 0).await;
}

#[tokio::test]
async fn the_inspected_client_hello_chooses_the_chain() {
    let pki = Pki::new(&["example.org"]);
    let with = |chain: FilterChain, matches| Arc::new(FilterChain { matches, ..chain });
    let sni = ChainMatch {
        server_names: vec!["app.example.org".into()],
        ..ChainMatch::default()
    };
    let terminate = with(tls_chain(pki.server(SERVER, &["example.org"])), sni);
    // Everything else reaches the echo server as it is, TLS or not.
    let raw = Terminal::Tcp(Arc::new(testing::tcp_proxy("echo")));
    let raw = with(testing::chain("raw", raw), ChainMatch::default());
    let mut listener = tcp_listener("l", "echo");
    listener.filters = ListenerFilters {
        timeout: Some(Duration::from_secs(3)),
        continue_on_timeout: true,
        ..ListenerFilters::only(ListenerFilterKind::TlsInspector)
    };
    listener.chains = FilterChains::new(vec![terminate, raw], None).unwrap();
    let (proxy, listener) = start(listener).await;

    let client = || pki.client(CLIENT, &["example.org"]);
    connect(&proxy, client(), Some("app.example.org"), None)
        .await
        .unwrap();
    assert_eq!(listener.stats.worker(0).ssl.handshake.get(), 1);
    // The echo server sends our own ClientHello back.
    connect(&proxy, client(), Some("other.example.org"), None)
        .await
        .unwrap_err();
    assert_eq!(listener.stats.worker(0).ssl.handshake.get(), 1);
    connect_and_echo(proxy.address("l")).await.unwrap();
    // A client that waits for its server is let through when the time is over.
    let mut silent = TcpStream::connect(proxy.address("l")).await.unwrap();
    let stats = listener.stats.worker(0);
    eventually("timed out", || stats.downstream_pre_cx_timeout.get() == 1).await;
    echo(&mut silent, b"late").await.unwrap();
}

#[tokio::test]
async fn no_chain_no_connection() {
    let mut listener = tcp_listener("l", "echo");
    listener.chains = FilterChains::default();
    let (proxy, listener) = start(listener).await;
    let mut stream = TcpStream::connect(proxy.address("l")).await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    let stats = listener.stats.worker(0);
    eventually("counted", || stats.no_filter_chain_match.get() == 1).await;
}

#[tokio::test]
async fn live_connections_of_a_domain_close_when_its_bundle_goes() {
    let pki = Pki::new(&["example.org", "domain.test"]);
    let params = pki.server(SERVER, &["example.org", "domain.test"]);
    let validation = params.validation.clone().unwrap();
    let (proxy, listener) = tls_proxy(params).await;
    let client = |id| pki.client(id, &["example.org"]);
    let mut own = connect(&proxy, client(CLIENT), None, None).await.unwrap();
    let mut friend = connect(&proxy, client(FRIEND), None, None).await.unwrap();

    validation.store(Some(pki.validation(&["example.org"])));
    assert!(ends(&mut friend).await);
    echo_tls(&mut own).await.unwrap();
    let stats = listener.stats.worker(0);
    assert_eq!(stats.downstream_cx_reauthorization_closed.get(), 1);
    connect(&proxy, client(FRIEND), None, None)
        .await
        .unwrap_err();

    // Back again, then all trust goes.
    validation.store(Some(pki.validation(&["example.org", "domain.test"])));
    let mut friend = connect(&proxy, client(FRIEND), None, None).await.unwrap();
    validation.store(None);
    assert!(ends(&mut own).await);
    assert!(ends(&mut friend).await);
    eventually("gone", || proxy.runtime.active_connections() == 0).await;
}

#[tokio::test]
async fn a_live_connection_closes_when_its_peers_svid_expires() {
    let pki = Pki::new(&["example.org"]);
    let (proxy, _) = tls_proxy(pki.server(SERVER, &["example.org"])).await;
    let short = pki.client(CLIENT, &["example.org"]);
    let ttl = Duration::from_secs(5);
    short
        .identity
        .as_ref()
        .unwrap()
        .store(Some(pki.identity_for(CLIENT, Some(ttl))));
    let mut short = connect(&proxy, short, None, None).await.unwrap();
    let long = pki.client(CLIENT, &["example.org"]);
    let mut long = connect(&proxy, long, None, None).await.unwrap();
    assert!(ends(&mut short).await);
    echo_tls(&mut long).await.unwrap();
}

#[tokio::test]
async fn our_identity_may_rotate_under_live_connections_but_not_go() {
    let pki = Pki::new(&["example.org"]);
    let params = pki.server(SERVER, &["example.org"]);
    let identity = Arc::clone(&params.identity);
    let (proxy, _) = tls_proxy(params).await;
    let client = || pki.client(CLIENT, &["example.org"]);
    let mut old = connect(&proxy, client(), None, None).await.unwrap();
    for _ in 0..5 {
        identity.store(Some(pki.identity(SERVER)));
        let mut new = connect(&proxy, client(), None, None).await.unwrap();
        echo_tls(&mut new).await.unwrap();
        // Longer than a check of trust takes to come.
        tokio::time::sleep(crate::io::registry::TRUST_CHECK * 2).await;
        echo_tls(&mut old).await.unwrap();
    }
    identity.store(None);
    assert!(ends(&mut old).await);
    connect(&proxy, client(), None, None).await.unwrap_err();
}

#[tokio::test]
async fn bulk_and_half_close_go_through_tls() {
    let pki = Pki::new(&["example.org"]);
    let (proxy, _) = tls_proxy(pki.server(SERVER, &["example.org"])).await;
    let stream = connect(&proxy, pki.client(CLIENT, &["example.org"]), None, None)
        .await
        .unwrap();
    let sent: Vec<u8> = (0..5_000_000u32).map(|i| (i * 7) as u8).collect();
    let (mut read, mut write) = tokio::io::split(stream);
    let mut received = Vec::new();
    let send = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    tokio::join!(send, async {
        read.read_to_end(&mut received).await.unwrap()
    });
    assert!(received == sent, "{} of {}", received.len(), sent.len());
}
