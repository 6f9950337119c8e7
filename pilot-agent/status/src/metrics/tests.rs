//! Scrapes of servers that are well, dead, slow and hostile.

use std::{convert::Infallible, io::Read};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::header::{ACCEPT, ACCEPT_ENCODING};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use prometheus::{Gauge, core::Collector, proto::MetricFamily};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpListener};

use super::*;

struct Nobody;

#[async_trait::async_trait]
impl Agent for Nobody {
    fn not_ready(&self) -> Vec<String> {
        Vec::new()
    }
    async fn metrics(&self) -> Result<Vec<MetricFamily>, prometheus::Error> {
        Ok(Gauge::new("istio_agent_test", "A test.")?.collect())
    }
    fn name_table(&self) -> Option<Value> {
        None
    }
    async fn describe(&self) -> Value {
        Value::Null
    }
    fn drain(&self) {}
    fn quit(&self) {}
}

/// A server that answers `answer`'s status, content type and body; where it listens.
async fn server(status: u16, content_type: &'static str, body: &str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let body = Bytes::copy_from_slice(body.as_bytes());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let body = body.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let query = request.uri().query().unwrap_or_default();
                assert!(query.is_empty() || query == "usedonly");
                let response = Response::builder()
                    .status(status)
                    .header(CONTENT_TYPE, content_type)
                    .body(Full::new(body.clone()));
                async move { Ok::<_, Infallible>(response.unwrap()) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(served);
        }
    });
    port
}

/// A server that writes `head`, then `piece` for ever with `pause` in between.
async fn hostile(head: &'static str, piece: Vec<u8>, pause: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let piece = piece.clone();
            tokio::spawn(async move {
                stream.write_all(head.as_bytes()).await.unwrap();
                while stream.write_all(&piece).await.is_ok() {
                    tokio::time::sleep(pause).await;
                }
            });
        }
    });
    port
}

/// A port where nobody listens.
fn dead() -> u16 {
    ithildin_sys::port::refusing().unwrap().port()
}

fn metrics(data_plane: Option<u16>, targets: &[u16]) -> Metrics {
    let targets = targets.iter().map(|port| ScrapeTarget {
        port: *port,
        path: "/metrics".into(),
    });
    let options = Options {
        data_plane_metrics: data_plane.unwrap_or_default(),
        merge_data_plane: data_plane.is_some(),
        scrape_targets: targets.collect(),
        ..Options::default()
    };
    Metrics::new(&options, Arc::new(Nobody))
}

/// What a scraper with these headers reads: the content type and the text.
async fn scrape(metrics: &Metrics, headers: &[(&str, &str)]) -> (String, String) {
    let mut request = Request::get("/stats/prometheus?usedonly");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = metrics.merged(&request.body(()).unwrap()).await;
    assert_eq!(response.status(), 200);
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut text = String::new();
    if head.headers.contains_key(CONTENT_ENCODING) {
        GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
    } else {
        text.push_str(std::str::from_utf8(&body).unwrap());
    }
    let content_type = head.headers[CONTENT_TYPE].to_str().unwrap();
    (content_type.to_owned(), text)
}

async fn failures(metrics: &Metrics, kind: &str) -> f64 {
    let text = String::from_utf8(metrics.own.text(&Nobody).await).unwrap();
    let name = format!("istio_agent_scrape_failures_total{{type=\"{kind}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0.0, |value| value.parse().unwrap())
}

const TEXT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const ENVOY: &str = "# TYPE envoy_a counter\nenvoy_a{} 1\n\n";
const PROCESS: &str = "# TYPE process_open_fds gauge\nprocess_open_fds 1\n";
const SHORT: (&str, &str) = ("x-prometheus-scrape-timeout-seconds", "5");

#[tokio::test]
async fn all_sources_in_one_text() {
    let envoy = server(200, "text/plain", &format!("{PROCESS}{ENVOY}")).await;
    let app = server(200, TEXT_TYPE, "# TYPE app gauge\napp 1").await;
    let metrics = metrics(Some(envoy), &[app]);
    let (kind, text) = scrape(&metrics, &[]).await;
    assert_eq!(kind, TEXT_TYPE);
    assert!(
        text.ends_with(&format!("{ENVOY}# TYPE app gauge\napp 1\n")),
        "{text}"
    );
    let own = "# TYPE istio_agent_scrapes_total counter\nistio_agent_scrapes_total 1\n";
    assert!(text.contains(own), "{text}");
    assert!(text.contains("istio_agent_test 0\n") && text.contains("istio_agent_process_"));
    let compressed = scrape(&metrics, &[(ACCEPT_ENCODING.as_str(), "gzip")])
        .await
        .1;
    assert!(compressed.contains("istio_agent_scrapes_total 2\n"));
    assert!(compressed.ends_with("app 1\n"));
}

#[tokio::test]
async fn open_metrics_end_once() {
    let envoy = server(200, "text/plain", ENVOY).await;
    let accept = (
        ACCEPT.as_str(),
        "application/openmetrics-text;version=1.0.0",
    );
    for (bodies, kind, expected) in [
        (vec![(OPEN_TYPE, "a 1\n# EOF\n")], OPEN_TYPE, "a 1\n# EOF\n"),
        (vec![(OPEN_TYPE, "a 1")], OPEN_TYPE, "a 1\n# EOF\n"),
        (
            vec![(OPEN_TYPE, "a 1\n# EOF\r\n"), (OPEN_TYPE, "b 1\n# EOF")],
            OPEN_TYPE,
            "a 1\nb 1\n# EOF\n",
        ),
        (
            vec![(OPEN_TYPE, "a 1\n# EOF\n"), (TEXT_TYPE, "b 1\n")],
            TEXT_TYPE,
            "a 1\nb 1\n",
        ),
        (
            vec![(TEXT_TYPE, "b 1\n"), (OPEN_TYPE, "a 1\n# EOF\n")],
            TEXT_TYPE,
            "b 1\na 1\n",
        ),
    ] {
        let mut apps = Vec::new();
        for (kind, body) in &bodies {
            apps.push(server(200, kind, body).await);
        }
        let (got, text) = scrape(&metrics(Some(envoy), &apps), &[accept]).await;
        assert_eq!(got, kind, "{bodies:?}");
        assert!(text.ends_with(expected), "{bodies:?}: {text}");
        let ends = usize::from(kind == OPEN_TYPE);
        assert_eq!(text.matches("# EOF").count(), ends, "{text}");
        let blank = text.contains("\n\n");
        assert_eq!(
            blank,
            kind == TEXT_TYPE,
            "OpenMetrics has no empty lines: {text}"
        );
    }
}

#[tokio::test]
async fn who_fails_spoils_nobody() {
    let well = server(200, TEXT_TYPE, "well 1\n").await;
    let ill = server(500, TEXT_TYPE, "ill 1\n").await;
    let dead = dead();
    for (envoy, apps, envoy_failures, app_failures) in [
        (well, vec![well], 0.0, 0.0),
        (well, vec![ill], 0.0, 1.0),
        (well, vec![dead], 0.0, 1.0),
        (ill, vec![well], 1.0, 0.0),
        (dead, vec![dead], 1.0, 1.0),
        (well, vec![dead, well, ill], 0.0, 2.0),
    ] {
        let metrics = metrics(Some(envoy), &apps);
        let (_, text) = scrape(&metrics, &[]).await;
        let expected = 1 + apps.len() - (envoy_failures + app_failures) as usize;
        assert_eq!(
            text.matches("well 1\n").count(),
            expected,
            "{apps:?}: {text}"
        );
        assert!(!text.contains("ill 1"), "{text}");
        assert_eq!(failures(&metrics, "envoy").await, envoy_failures);
        assert_eq!(failures(&metrics, "application").await, app_failures);
    }
    let unmerged = metrics(None, &[well]);
    assert_eq!(
        scrape(&unmerged, &[]).await.1.matches("well 1\n").count(),
        1
    );
}

#[tokio::test]
async fn a_hostile_workload_leaves_the_data_planes_metrics() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n";
    let none = Duration::ZERO;
    let pause = Duration::from_millis(5);
    let envoy = server(200, "text/plain", ENVOY).await;
    let hostile = [
        ("no head", hostile("HTTP/1.1 ", b"".into(), pause).await),
        (
            "endless head",
            hostile("HTTP/1.1 200 OK\r\n", b"a: b\r\n".repeat(100), none).await,
        ),
        ("one line", hostile(HEAD, vec![b'x'; 1 << 16], none).await),
        ("slow drip", hostile(HEAD, b"x".into(), pause).await),
        ("no body", hostile(HEAD, b"".into(), pause).await),
    ];
    let scrapes = hostile.map(async |(name, app)| {
        let metrics = metrics(Some(envoy), &[app]);
        let begun = Instant::now();
        let (_, text) = scrape(&metrics, &[SHORT]).await;
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{name}: before the scraper's end"
        );
        assert!(text.ends_with(ENVOY), "{name}: {text}");
        assert_eq!(failures(&metrics, "application").await, 1.0, "{name}");
    });
    futures_util::future::join_all(scrapes).await;
}

#[tokio::test]
async fn an_endless_workload_ends_with_a_whole_line() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n";
    let piece = b"endless_metric 12345\n".repeat(1000);
    let app = hostile(HEAD, piece[..piece.len() - 3].to_vec(), Duration::ZERO).await;
    let text = scrape(&metrics(None, &[app]), &[SHORT]).await.1;
    assert!(text.len() > 1 << 20 && text.ends_with('\n'));

    // With a second target each is held, and dropped when it is too large.
    let well = server(200, TEXT_TYPE, "well 1\n").await;
    let several = metrics(None, &[app, well]);
    let text = scrape(&several, &[("x-prometheus-scrape-timeout-seconds", "20")])
        .await
        .1;
    assert!(
        !text.contains("endless_metric") && text.ends_with("well 1\n"),
        "{text}"
    );
    assert_eq!(failures(&several, "application").await, 1.0);
}

#[tokio::test]
async fn targets_have_a_size() {
    let line = "x".repeat(1023) + "\n";
    let at = server(200, TEXT_TYPE, &line.repeat(scrape::MAX_WHOLE / line.len())).await;
    let over = format!("{}y\n", line.repeat(scrape::MAX_WHOLE / line.len()));
    let over = server(200, TEXT_TYPE, &over).await;
    let metrics = metrics(None, &[at, over]);
    let text = scrape(&metrics, &[]).await.1;
    assert!(text.len() > scrape::MAX_WHOLE && !text.ends_with("y\n"));
    assert_eq!(failures(&metrics, "application").await, 1.0);
}

#[tokio::test]
async fn redirects_on_this_host_are_followed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for answer in [
            "HTTP/1.1 307 Go\r\nlocation: /metrics/\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na 1\n",
        ] {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let text = scrape(&metrics(None, &[port]), &[]).await.1;
    assert!(text.ends_with("\na 1\n"), "{text}");
}

#[tokio::test]
async fn a_scraper_that_does_not_read_holds_its_place_for_a_time() {
    let line = "x".repeat(1023) + "\n";
    let big = server(200, TEXT_TYPE, &line.repeat(1 << 10)).await;
    let metrics = metrics(Some(big), &[]);
    let request = Request::get("/metrics").body(()).unwrap();
    let mut unread = Vec::new();
    for _ in 0..SCRAPES {
        unread.push(metrics.merged(&request).await);
    }
    assert_eq!(metrics.scrapes.available_permits(), 0);
    unread.clear();
    // They end as soon as nobody can read them.
    let all = metrics
        .scrapes
        .acquire_many(u32::try_from(SCRAPES).unwrap());
    drop(timeout(QUEUE_TIMEOUT, all).await.unwrap().unwrap());
    assert_eq!(metrics.merged(&request).await.status(), 200);
}
