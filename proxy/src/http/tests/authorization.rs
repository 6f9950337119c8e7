//! External authorization where services hang, clients leave, and bodies are too large to wait. What is
//! asked and what becomes of the answers: `tests/serving/ext_authz.rs`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use super::support::{Act, Origin, Site, manager, ok, route, table, to};
use crate::{
    config::{
        ext_authz::{AuthzService, CheckBody, CheckPath, ExtAuthz, HttpService, NameMatches},
        filters::{FilterKind, HttpFilter, Percent},
        matchers::{StringMatch, StringPattern},
        route::HeaderMutations,
    },
    stats::ExtAuthzStats,
    testing::{self, eventually},
};

/// Bodies that do not fit together into what a worker holds for questions: each is there twice, with its
/// request and with its question.
const LARGE: usize = 25 << 20;
const SMALL: usize = 8 << 20;

async fn site(service: &Origin, stream_idle: Option<Duration>) -> Site {
    let origin = Origin::start(|_| ok("origin")).await;
    site_of(&origin, service, stream_idle, NameMatches::default()).await
}

/// `told`: what of the service's answer the origin gets.
async fn site_of(
    origin: &Origin,
    service: &Origin,
    stream_idle: Option<Duration>,
    told: NameMatches,
) -> Site {
    let mut manager = manager(table(vec![route("/", to("origin"))]));
    manager.timeouts.stream_idle = stream_idle;
    manager.filters = vec![HttpFilter {
        name: "authz".into(),
        disabled: false,
        kind: FilterKind::ExtAuthz(Box::new(filter(told))),
    }];
    let clusters = vec![
        testing::cluster("authz", &[service.address]),
        testing::cluster("origin", &[origin.address]),
    ];
    Site::start(manager, clusters).await
}

fn filter(told: NameMatches) -> ExtAuthz {
    let none = NameMatches::default;
    ExtAuthz {
        service: AuthzService::Http(HttpService {
            cluster: "authz".into(),
            timeout: None,
            path: CheckPath::Prefix("".into()),
            headers_to_add: HeaderMutations::default(),
            upstream_headers: told,
            upstream_headers_to_append: none(),
            client_headers: None,
            client_headers_on_success: none(),
            metadata_headers: none(),
        }),
        failure_mode_allow: false,
        failure_mode_allow_header_add: false,
        status_on_error: 403,
        body: Some(CheckBody {
            max_bytes: LARGE,
            allow_partial: false,
            pack_as_bytes: false,
        }),
        clear_route_cache: false,
        enabled: Percent::ALL,
        enabled_metadata: None,
        deny_at_disable: false,
        allowed_headers: None,
        disallowed_headers: none(),
        include_peer_certificate: false,
        include_tls_session: false,
        takes_metadata: true,
        max_denied_body: None,
        stats: Arc::new(ExtAuthzStats::new("test".into(), "ext_authz".into(), 1)),
    }
}

fn post(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
}

#[tokio::test]
async fn what_waits_is_bounded() {
    let service = Origin::start(|_| Act::Hang).await;
    let site = site(&service, None).await;
    let asked = || site.cluster_stats().upstream_rq_active.get();
    let ask = async |length: usize| {
        let mut client = site.client().await;
        client.send(post(length)).await;
        client.send(vec![b'x'; length]).await;
        client
    };
    let first = ask(LARGE).await;
    eventually("the first waits", || asked() == 1).await;
    let refused = ask(SMALL).await.answer().await;
    assert_eq!((refused.status, refused.body.as_str()), (403, ""));
    assert_eq!(asked(), 1, "nobody asks about the second");
    // Who leaves gives back what it held.
    drop(first);
    eventually("the first is gone", || asked() == 0).await;
    let _third = ask(SMALL).await;
    eventually("the third waits", || asked() == 1).await;
}

/// A request has one host, whatever of an answer it is to get.
#[tokio::test]
async fn the_host_of_an_answer_does_not_become_a_second_one() {
    let answer = "HTTP/1.1 200 OK\r\nHost: other\r\nX-New: 1\r\nContent-Length: 0\r\n\r\n";
    let service = Origin::start(move |_| Act::Send(answer.into())).await;
    let origin = Origin::start(|_| ok("origin")).await;
    let all = NameMatches(vec![StringMatch::new(
        StringPattern::Prefix("".into()),
        false,
    )]);
    let site = site_of(&origin, &service, None, all).await;
    let answer = site.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(answer.body, "origin");
    let request = origin.requests().remove(0).to_ascii_lowercase();
    assert!(request.contains("\r\nx-new: 1\r\n"), "{request}");
    assert!(request.contains("\r\nhost: a\r\n"), "{request}");
    assert!(!request.contains("other"), "{request}");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let service = Origin::start(|_| ok("")).await;
    let site = site(&service, Some(Duration::from_millis(100))).await;
    let mut client = site.client().await;
    client.send(post(5)).await;
    client.send("h").await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (408, "stream timeout")
    );
    assert_eq!(service.requests().len(), 0, "nobody is asked");
}

#[tokio::test]
async fn a_client_is_invited_to_send_what_is_asked_about() {
    let service = Origin::start(|_| ok("")).await;
    let site = site(&service, None).await;
    let mut client = site.client().await;
    let head = post(5).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    client.send(head).await;
    let interim = client.head().await.unwrap_or_default();
    assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
    client.send("hello").await;
    assert_eq!(client.answer().await.body, "origin");
}

/// A service may close what it kept open, at any time.
#[tokio::test]
async fn a_question_on_a_closed_connection_is_asked_again() {
    let count = Arc::new(AtomicUsize::new(0));
    let service = Origin::start(move |_| match count.fetch_add(1, Relaxed) {
        1 => Act::Close,
        _ => ok(""),
    })
    .await;
    let site = site(&service, None).await;
    for _ in 0..3 {
        let answer = site.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "origin"));
    }
    assert_eq!(service.requests().len(), 4);
}
