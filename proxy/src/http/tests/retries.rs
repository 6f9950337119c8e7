//! What is tried again, how often, and with which body.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::StatusCode;

use super::support::{Act, Origin, Site, forward, manager, ok, retry, route, send, table};
use crate::{
    config::route::{RetryOn, RetryPolicy, RouteAction},
    testing,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// An origin that fails `failures` times and then is well.
async fn recovering(
    failures: usize,
    failure: impl Fn() -> Act + Clone + Send + Sync + 'static,
) -> Origin {
    let asked = Arc::new(AtomicUsize::new(0));
    Origin::start(move |_| match asked.fetch_add(1, SeqCst) < failures {
        true => failure(),
        false => ok("well"),
    })
    .await
}

async fn site(origin: &Origin, policy: RetryPolicy) -> Site {
    let mut forward = forward("origin");
    forward.retry = Some(policy);
    let mut table = table(vec![route("/", RouteAction::Forward(Box::new(forward)))]);
    table.hosts[0].include_request_attempt_count = true;
    Site::start(
        manager(table),
        vec![testing::cluster("origin", &[origin.address])],
    )
    .await
}

fn on(change: impl FnOnce(&mut RetryOn)) -> RetryOn {
    let mut on = RetryOn::default();
    change(&mut on);
    on
}

#[tokio::test]
async fn a_bad_gateway_is_tried_again() {
    let bad = || send("HTTP/1.1 503 Down\r\ncontent-length: 3\r\n\r\nbad");
    let origin = recovering(2, bad).await;
    let site = site(&origin, retry(on(|it| it.gateway_error = true), 2)).await;
    let answer = site.ask(GET).await;
    assert_eq!((answer.status, &*answer.body), (200, "well"));
    let counts: Vec<_> = origin
        .requests()
        .iter()
        .map(|it| super::support::header_values(it, "x-envoy-attempt-count").join(","))
        .collect();
    assert_eq!(counts, ["1", "2", "3"]);
    assert_eq!(site.cluster_stats().upstream_rq_retry.get(), 2);
    assert_eq!(site.cluster_stats().upstream_rq_retry_success.get(), 1);
}

#[tokio::test]
async fn the_last_answer_stands_when_the_tries_are_used_up() {
    let origin = Origin::start(|_| send("HTTP/1.1 503 Down\r\ncontent-length: 3\r\n\r\nbad")).await;
    let site = site(&origin, retry(on(|it| it.server_error = true), 2)).await;
    let answer = site.ask(GET).await;
    assert_eq!((answer.status, &*answer.body), (503, "bad"));
    assert_eq!(origin.requests().len(), 3);
    assert_eq!(
        site.cluster_stats().upstream_rq_retry_limit_exceeded.get(),
        1
    );
}

#[tokio::test]
async fn only_what_the_policy_names_is_tried_again() {
    let origin = recovering(1, || send("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")).await;
    let gateway = site(&origin, retry(on(|it| it.gateway_error = true), 2)).await;
    assert_eq!(gateway.ask(GET).await.status, 500);
    assert_eq!(origin.requests().len(), 1);

    let origin = recovering(1, || send("HTTP/1.1 429 X\r\ncontent-length: 0\r\n\r\n")).await;
    let mut policy = retry(on(|it| it.retriable_status_codes = true), 1);
    policy.statuses = vec![StatusCode::TOO_MANY_REQUESTS];
    assert_eq!(site(&origin, policy).await.ask(GET).await.status, 200);

    let origin = recovering(1, || send("HTTP/1.1 409 X\r\ncontent-length: 0\r\n\r\n")).await;
    let policy = retry(on(|it| it.retriable_4xx = true), 1);
    assert_eq!(site(&origin, policy).await.ask(GET).await.status, 200);
}

#[tokio::test]
async fn a_reset_is_tried_again_with_the_whole_body() {
    let origin = recovering(1, || Act::Close).await;
    let site = site(&origin, retry(on(|it| it.reset = true), 1)).await;
    let answer = site
        .ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    assert_eq!(answer.status, 200);
    let requests = origin.requests();
    assert_eq!(requests.len(), 2);
    assert!(
        requests.iter().all(|it| it.ends_with("\r\n\r\nhello")),
        "{requests:?}"
    );
}

#[tokio::test]
async fn without_a_policy_a_reset_is_not_tried_again() {
    let origin = recovering(1, || Act::Close).await;
    let site = Site::before(origin.address).await;
    assert_eq!(site.ask(GET).await.status, 503);
    assert_eq!(origin.requests().len(), 1);
}

/// The origin closes after each answer, as it may: the pooled connection is found closed.
#[tokio::test]
async fn a_stale_connection_is_no_failure() {
    let origin = Origin::start(|_| {
        Act::SendAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec())
    })
    .await;
    let site = Site::before(origin.address).await;
    let mut client = site.client().await;
    for _ in 0..100 {
        client.send(GET).await;
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(origin.requests().len(), 100);
}

#[tokio::test]
async fn a_slow_try_is_given_up_for_another() {
    let origin = recovering(1, || Act::Hang).await;
    let mut policy = retry(on(|it| it.server_error = true), 1);
    policy.per_try_timeout = Some(Duration::from_secs(2));
    let site = site(&origin, policy).await;
    assert_eq!(site.ask(GET).await.body, "well");
    assert_eq!(site.cluster_stats().upstream_rq_per_try_timeout.get(), 1);
}

#[tokio::test]
async fn another_host_is_tried_where_one_is_down() {
    let dead = super::failures::closed_port();
    let origin = Origin::echo().await;
    let mut policy = retry(on(|it| it.connect_failure = true), 2);
    policy.avoid_previous_hosts = true;
    policy.host_selection_attempts = 5;
    let mut forward = forward("origin");
    forward.retry = Some(policy);
    let table = table(vec![route("/", RouteAction::Forward(Box::new(forward)))]);
    let cluster = testing::cluster("origin", &[dead, origin.address]);
    let site = Site::start(manager(table), vec![cluster]).await;
    for _ in 0..10 {
        assert_eq!(site.ask(GET).await.status, 200);
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_to_keep_is_sent_once() {
    let long = "x".repeat((1 << 20) + 1);
    for (body, tries) in [(&long[1..], 2), (&long, 1)] {
        let origin = recovering(1, || Act::Close).await;
        let site = site(&origin, retry(on(|it| it.reset = true), 1)).await;
        let length = body.len();
        let answer = site
            .ask(&format!(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
            ))
            .await;
        let status = if tries == 2 { 200 } else { 503 };
        assert_eq!((answer.status, origin.requests().len()), (status, tries));
        assert!(origin.requests().iter().all(|it| it.ends_with(body)));
        let abandoned = site.cluster_stats().retry_or_shadow_abandoned.get();
        assert_eq!(abandoned, u64::from(tries == 1));
    }
}

#[tokio::test]
async fn a_body_in_chunks_is_sent_again_with_its_trailers() {
    let origin = recovering(1, || send("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n")).await;
    let mut forward = forward("origin");
    forward.retry = Some(retry(on(|it| it.gateway_error = true), 1));
    let table = table(vec![route("/", RouteAction::Forward(Box::new(forward)))]);
    let mut manager = manager(table);
    manager.http1.enable_trailers = true;
    let cluster = testing::cluster("origin", &[origin.address]);
    let site = Site::start(manager, vec![cluster]).await;
    let answer = site
        .ask(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\nab\r\n3\r\ncde\r\n0\r\nX-T: 1\r\n\r\n",
        )
        .await;
    assert_eq!((answer.status, &*answer.body), (200, "well"));
    let requests = origin.requests();
    assert!(requests[0].ends_with("2\r\nab\r\n3\r\ncde\r\n0\r\nx-t: 1\r\n\r\n"));
    assert!(
        requests[1].ends_with("5\r\nabcde\r\n0\r\nx-t: 1\r\n\r\n"),
        "{requests:?}"
    );
}

#[tokio::test]
async fn retries_of_all_requests_together_are_bounded() {
    let origin = Origin::start(|_| send("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n")).await;
    let mut forward = forward("origin");
    forward.retry = Some(retry(on(|it| it.gateway_error = true), 3));
    let table = table(vec![route("/", RouteAction::Forward(Box::new(forward)))]);
    let mut cluster = testing::cluster("origin", &[origin.address]);
    cluster.limits.max_retries = 0;
    let site = Site::start(manager(table), vec![cluster]).await;
    assert_eq!(site.ask(GET).await.status, 503);
    assert_eq!(origin.requests().len(), 1);
    assert_eq!(site.cluster_stats().upstream_rq_retry_overflow.get(), 1);
}

#[tokio::test]
async fn a_retry_tells_the_host_that_was_asked_for() {
    let origin = Origin::echo().await;
    let dead = super::failures::closed_port();
    let mut forward = forward("origin");
    forward.auto_host_rewrite = true;
    let on = RetryOn {
        connect_failure: true,
        ..RetryOn::default()
    };
    forward.retry = Some(retry(on, 20));
    let table = table(vec![route("/", RouteAction::Forward(Box::new(forward)))]);
    let cluster = testing::cluster("origin", &[dead, origin.address]);
    let site = Site::start(manager(table), vec![cluster]).await;
    for _ in 0..8 {
        let answer = site.ask(GET).await;
        assert_eq!(answer.status, 200);
        let asked = super::support::header_values(&answer.body, "x-envoy-original-host");
        assert_eq!(asked, ["a"], "{}", answer.body);
    }
    assert_ne!(site.cluster_stats().upstream_cx_connect_fail.get(), 0);
}
