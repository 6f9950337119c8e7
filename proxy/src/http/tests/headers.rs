//! What the proxy adds, keeps and takes away.

use std::sync::Arc;

use super::support::{Origin, Site, header_values, manager, ok, route, send, table, to};
use crate::{
    config::http::{EscapedSlashes, ServerHeader, UnderscoreAction},
    testing,
};

async fn site(origin: &Origin, change: impl FnOnce(&mut crate::config::HttpManager)) -> Site {
    let mut manager = manager(table(vec![route("/", to("origin"))]));
    change(&mut manager);
    Site::start(manager, vec![testing::cluster("origin", &[origin.address])]).await
}

/// The request as the origin sees it.
async fn seen(site: &Site, fields: &str) -> String {
    let answer = site
        .ask(&format!(
            "GET /a?b HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"
        ))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.head);
    answer.body
}

#[tokio::test]
async fn a_plain_request_gets_what_envoy_adds() {
    let origin = Origin::echo().await;
    let site = site(&origin, |_| ()).await;
    let request = seen(&site, "X-Multi: a\r\nx-multi: b\r\nvia: z\r\nServer: s\r\n").await;
    assert_eq!(header_values(&request, "x-multi"), ["a", "b"]);
    assert_eq!(header_values(&request, "x-forwarded-proto"), ["http"]);
    assert_eq!(header_values(&request, "via"), ["z"]);
    assert_eq!(header_values(&request, "server"), ["s"]);
    assert!(header_values(&request, "x-forwarded-for").is_empty());
    let id = header_values(&request, "x-request-id")[0];
    assert_eq!(uuid::Uuid::parse_str(id).unwrap().get_version_num(), 4);
    // Names go on in lower case.
    assert!(
        request.contains("\r\nx-multi: a\r\nx-multi: b\r\n"),
        "{request}"
    );
}

#[tokio::test]
async fn responses_carry_server_date_and_service_time() {
    let origin = Origin::start(|_| {
        send("HTTP/1.1 200 OK\r\nServer: origin\r\nX-Foo: Bar\r\nConnection: x-gone\r\nX-Gone: 1\r\nKeep-Alive: 1\r\ncontent-length: 0\r\n\r\n")
    })
    .await;
    let ask = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = site(&origin, |_| ()).await.ask(ask).await;
    assert_eq!(answer.header("server"), Some("envoy"));
    assert_eq!(answer.header("x-foo"), Some("Bar"));
    assert_eq!(answer.header("x-gone"), None);
    assert_eq!(answer.header("keep-alive"), None);
    httpdate::parse_http_date(answer.header("date").unwrap()).unwrap();
    answer
        .header("x-envoy-upstream-service-time")
        .unwrap()
        .parse::<u64>()
        .unwrap();

    let quiet = site(&origin, |manager| {
        manager.server_header = ServerHeader::PassThrough;
        manager.suppress_envoy_headers = true;
        manager.always_set_request_id_in_response = true;
    })
    .await;
    let answer = quiet.ask(ask).await;
    assert_eq!(answer.header("server"), Some("origin"));
    assert_eq!(answer.header("x-envoy-upstream-service-time"), None);
    assert_eq!(answer.header("x-request-id").map(str::len), Some(36));

    let absent = site(&origin, |manager| {
        manager.server_header = ServerHeader::AppendIfAbsent
    })
    .await;
    assert_eq!(absent.ask(ask).await.header("server"), Some("origin"));
    let origin = Origin::start(|_| ok("")).await;
    let absent = site(&origin, |manager| {
        manager.server_header = ServerHeader::AppendIfAbsent
    })
    .await;
    assert_eq!(absent.ask(ask).await.header("server"), Some("envoy"));
}

#[tokio::test]
async fn an_edge_believes_nobody() {
    let origin = Origin::echo().await;
    let edge = site(&origin, |manager| {
        manager.use_remote_address = true;
        manager.append_x_forwarded_port = true;
        manager.via = Some("me".into());
    })
    .await;
    let told = "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Request-Id: abc\r\n\
                X-Forwarded-Port: 1\r\nX-Envoy-Retry-On: 5xx\r\nX-Envoy-Internal: true\r\n\
                X-Envoy-Original-Path: /z\r\nX-Envoy-Decorator-Operation: x\r\n\
                X-Envoy-Expected-Rq-Timeout-Ms: 77\r\nX-Envoy-Foo: 1\r\n\
                X-Forwarded-Client-Cert: Hash=1\r\nVia: z\r\n";
    let request = seen(&edge, told).await;
    assert_eq!(
        header_values(&request, "x-forwarded-for"),
        ["1.2.3.4,127.0.0.1"]
    );
    assert_eq!(header_values(&request, "x-forwarded-proto"), ["http"]);
    let port = edge.address.port().to_string();
    assert_eq!(header_values(&request, "x-forwarded-port"), [&*port]);
    assert_ne!(header_values(&request, "x-request-id"), ["abc"]);
    assert_eq!(header_values(&request, "x-envoy-foo"), ["1"]);
    let via = header_values(&request, "via").join(", ");
    assert_eq!(via, "z, me");
    for gone in [
        "x-envoy-retry-on",
        "x-envoy-internal",
        "x-envoy-original-path",
        "x-envoy-decorator-operation",
        "x-envoy-expected-rq-timeout-ms",
        "x-forwarded-client-cert",
    ] {
        assert!(
            header_values(&request, gone).is_empty(),
            "{gone} in {request}"
        );
    }

    let trusting = site(&origin, |manager| {
        manager.use_remote_address = true;
        manager.skip_xff_append = true;
        manager.xff_num_trusted_hops = 1;
        manager.preserve_external_request_id = true;
    })
    .await;
    let request = seen(&trusting, told).await;
    assert_eq!(header_values(&request, "x-forwarded-for"), ["1.2.3.4"]);
    assert_eq!(header_values(&request, "x-forwarded-proto"), ["https"]);
    assert_eq!(header_values(&request, "x-request-id"), ["abc"]);
}

#[tokio::test]
async fn a_sidecar_keeps_what_it_is_told() {
    let origin = Origin::echo().await;
    let site = site(&origin, |_| ()).await;
    let request = seen(
        &site,
        "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Request-Id: abc\r\nTE: trailers, gzip\r\n",
    )
    .await;
    assert_eq!(header_values(&request, "x-forwarded-for"), ["1.2.3.4"]);
    assert_eq!(header_values(&request, "x-forwarded-proto"), ["https"]);
    assert_eq!(header_values(&request, "x-request-id"), ["abc"]);
    // Of TE only this may pass a proxy.
    assert_eq!(header_values(&request, "te"), ["trailers"]);
}

#[tokio::test]
async fn underscores_are_allowed_dropped_or_refused() {
    let origin = Origin::echo().await;
    let field = "x_a: 1\r\nX-B: 2\r\n";
    let allow = site(&origin, |_| ()).await;
    assert_eq!(header_values(&seen(&allow, field).await, "x_a"), ["1"]);
    let drop = site(&origin, |m| {
        m.headers_with_underscores = UnderscoreAction::DropHeader
    })
    .await;
    let request = seen(&drop, field).await;
    assert!(header_values(&request, "x_a").is_empty());
    assert_eq!(header_values(&request, "x-b"), ["2"]);
    let reject = site(&origin, |m| {
        m.headers_with_underscores = UnderscoreAction::RejectRequest
    })
    .await;
    let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n");
    assert_eq!(reject.ask(&text).await.status, 400);
}

#[tokio::test]
async fn encoded_slashes_are_what_the_configuration_says() {
    let origin = Origin::echo().await;
    for (action, sent, fields, expected) in [
        (EscapedSlashes::Keep, "/a%2F..%5cb", "", Ok("/a%2F..%5cb")),
        (
            EscapedSlashes::Unescape,
            "/x%2F..%5cb?%2F",
            "",
            Ok("/b?%2F"),
        ),
        (EscapedSlashes::Reject, "/a%2Fb", "", Err((400, ""))),
        (EscapedSlashes::Reject, "/a/b", "", Ok("/a/b")),
        (
            EscapedSlashes::Redirect,
            "/x%2F../b?c",
            "",
            Err((307, "/b?c")),
        ),
        (EscapedSlashes::Redirect, "/a/../b", "", Ok("/b")),
        (
            EscapedSlashes::Redirect,
            "/a%2Fb",
            "content-type: application/grpc\r\n",
            // As gRPC has it: the error stands in `grpc-status`.
            Err((200, "")),
        ),
    ] {
        let mut manager = manager(table(vec![route("/", to("origin"))]));
        manager.normalize_path = true;
        manager.escaped_slashes = action;
        let clusters = vec![testing::cluster("origin", &[origin.address])];
        let site = Site::start(manager, clusters).await;
        let request = format!("GET {sent} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let answer = site.ask(&request).await;
        match expected {
            Ok(arrives) => {
                let line = answer.body.lines().next().unwrap_or_default();
                assert_eq!(line, format!("GET {arrives} HTTP/1.1"), "{action:?} {sent}");
            }
            Err((status, location)) => {
                assert_eq!(answer.status, status, "{action:?} {sent}");
                let found = answer.header("location").unwrap_or_default();
                assert_eq!(found, location, "{action:?} {sent}");
                assert_eq!(answer.body, "", "{action:?} {sent}");
            }
        }
    }
}

#[tokio::test]
async fn paths_are_normalised_before_they_are_routed() {
    let origin = Origin::echo().await;
    let mut manager = manager(table(vec![
        route("/admin", to("nowhere")),
        route("/", to("origin")),
    ]));
    manager.normalize_path = true;
    manager.merge_slashes = true;
    let site = Site::start(manager, vec![testing::cluster("origin", &[origin.address])]).await;
    for (sent, arrives) in [
        ("/a/../b", "/b"),
        ("/a/./b/", "/a/b/"),
        ("/a//b", "/a/b"),
        ("/a/b/..", "/a/"),
        ("/..", "/"),
        ("/%7e%2d%61", "/~-a"),
        ("/a%2Fb%5c", "/a%2Fb%5c"),
        ("/a%zz", "/a%zz"),
        ("/a?b=/../c//d", "/a?b=/../c//d"),
    ] {
        let answer = site
            .ask(&format!("GET {sent} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        let line = answer.body.lines().next().unwrap_or_default();
        assert_eq!(line, format!("GET {arrives} HTTP/1.1"), "{sent}");
    }
    for sent in [
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/./admin",
        "//admin",
        "/x\\..\\admin",
        "/%61dmin",
    ] {
        let answer = site
            .ask(&format!("GET {sent} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        assert_eq!(
            answer.status, 503,
            "{sent} went around the route: {}",
            answer.body
        );
    }
    let answer = site.ask("GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn attempt_counts_timeouts_and_rewrites_are_told_upstream() {
    let origin = Origin::echo().await;
    let mut forward = super::support::forward("origin");
    forward.timeout = Some(std::time::Duration::from_millis(1500));
    forward.prefix_rewrite = Some("/new".into());
    forward.host_rewrite = Some("inner.test".into());
    forward.append_x_forwarded_host = true;
    let action = crate::config::route::RouteAction::Forward(Box::new(forward));
    let mut table = table(vec![route("/old", action)]);
    table.hosts[0].include_request_attempt_count = true;
    let cluster = testing::cluster("origin", &[origin.address]);
    let site = Site::start(manager(table), vec![cluster]).await;
    let answer = site
        .ask("GET /old/x?y HTTP/1.1\r\nHost: a.test:8\r\n\r\n")
        .await;
    let request = answer.body;
    assert!(
        request.starts_with("GET /new/x?y HTTP/1.1\r\nhost: inner.test\r\n"),
        "{request}"
    );
    assert_eq!(
        header_values(&request, "x-envoy-original-path"),
        ["/old/x?y"]
    );
    assert_eq!(header_values(&request, "x-forwarded-host"), ["a.test:8"]);
    assert_eq!(header_values(&request, "x-envoy-attempt-count"), ["1"]);
    assert_eq!(
        header_values(&request, "x-envoy-expected-rq-timeout-ms"),
        ["1500"]
    );
}

#[tokio::test]
async fn a_response_cannot_be_split() {
    let origin = Origin::echo().await;
    let mut manager = manager(table(vec![route("/", super::failures::https_redirect())]));
    manager.upgrades = vec![Arc::from("websocket")];
    let site = Site::start(manager, vec![testing::cluster("origin", &[origin.address])]).await;
    let answer = site
        .ask("GET /%0d%0aSet-Cookie:%20x HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(answer.status, 301);
    assert_eq!(answer.header("set-cookie"), None);
    assert_eq!(
        answer.header("location"),
        Some("https://a/%0d%0aSet-Cookie:%20x")
    );
}
