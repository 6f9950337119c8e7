//! Copies of requests to other clusters.

use super::support::{Act, Origin, Site, forward, manager, ok, route, table};
use crate::{
    config::{
        filters::Percent,
        route::{Mirror, RouteAction},
    },
    testing,
};

async fn site(origin: &Origin, shadow: &Origin, percent: u32, adds_suffix: bool) -> Site {
    let mut action = forward("origin");
    action.mirrors.push(Mirror {
        cluster: "shadow".into(),
        percent: Percent {
            numerator: percent,
            denominator: 100,
        },
        adds_suffix,
        trace_sampled: None,
    });
    let routes = vec![route("/", RouteAction::Forward(Box::new(action)))];
    let clusters = vec![
        testing::cluster("origin", &[origin.address]),
        testing::cluster("shadow", &[shadow.address]),
    ];
    Site::start(manager(table(routes)), clusters).await
}

#[tokio::test]
async fn a_copy_is_sent_and_its_answer_thrown_away() {
    let origin = Origin::start(|_| ok("origin")).await;
    let shadow = Origin::start(|_| ok("shadow")).await;
    for (adds_suffix, host) in [(true, "a.test-shadow:80"), (false, "a.test:80")] {
        let site = site(&origin, &shadow, 100, adds_suffix).await;
        let before = shadow.requests().len();
        let head = "/x?y HTTP/1.1\r\nHost: a.test:80\r\nx-own: 1\r\n";
        let answer = site.ask(&format!("GET {head}\r\n")).await;
        assert_eq!(answer.body, "origin");
        let answer = site
            .ask(&format!("POST {head}content-length: 5\r\n\r\nhello"))
            .await;
        assert_eq!(answer.body, "origin");
        testing::eventually("copies", || shadow.requests().len() == before + 2).await;
        for request in &shadow.requests()[before..] {
            assert!(
                request.contains(&format!("\r\nhost: {host}\r\n")),
                "{request}"
            );
            assert!(request.contains("\r\nx-own: 1\r\n"), "{request}");
            let has_body = request.ends_with("\r\n\r\nhello");
            assert_eq!(has_body, request.starts_with("POST /x?y "), "{request}");
        }
    }
}

#[tokio::test]
async fn a_mirror_that_fails_is_nobodys_matter() {
    let origin = Origin::start(|_| ok("origin")).await;
    let shadow = Origin::start(|_| Act::Close).await;
    let site = site(&origin, &shadow, 100, false).await;
    for _ in 0..3 {
        let answer = site.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(answer.body, "origin");
    }
    testing::eventually("copies", || shadow.requests().len() == 3).await;
}

#[tokio::test]
async fn none_is_sent_where_the_share_is_zero() {
    let origin = Origin::start(|_| ok("origin")).await;
    let shadow = Origin::start(|_| ok("shadow")).await;
    let site = site(&origin, &shadow, 0, false).await;
    for _ in 0..20 {
        site.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    }
    assert!(shadow.requests().is_empty());
}

/// A cluster that does not answer holds no more copies than there is room for.
#[tokio::test]
async fn copies_that_are_not_answered_are_bounded() {
    let origin = Origin::start(|_| ok("origin")).await;
    let shadow = Origin::start(|_| Act::Hang).await;
    let site = site(&origin, &shadow, 100, false).await;
    let mut client = site.client().await;
    let body = "x".repeat(1 << 20);
    let post = format!(
        "POST / HTTP/1.1\r\nHost: a\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for _ in 0..40 {
        client.send(&post).await;
        assert_eq!(client.answer().await.body, "origin");
    }
    // The answer does not wait for what becomes of the copy.
    testing::eventually("copies that are dropped", || {
        site.stats_of(1).upstream_rq_pending_overflow.get() == 9
    })
    .await;
}
