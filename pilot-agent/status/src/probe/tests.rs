//! Probes of real servers.

use std::{convert::Infallible, net::SocketAddr};

use ::http::{HeaderValue, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::Instant,
};
use tokio_rustls::TlsAcceptor;

use super::*;

const PATH: &str = "/app-health/c/readyz";

/// What a workload has seen.
#[derive(Debug)]
struct Seen {
    peer: SocketAddr,
    request: Request<()>,
}

type Log = Arc<Mutex<Vec<Seen>>>;

fn probes(handler: &str, options: ProbeOptions) -> Probes {
    let text = format!(r#"{{"{PATH}": {handler}}}"#);
    let probers = AppProbers::parse(&text).unwrap();
    Probes::new(&ProbeOptions { probers, ..options }, Some(15020))
}

async fn ask(probes: &Probes, headers: &[(&str, &str)]) -> (u16, Bytes) {
    let mut request = Request::get(PATH);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = probes.answer(PATH, &request.body(()).unwrap()).await;
    let status = response.status().as_u16();
    (
        status,
        response.into_body().collect().await.unwrap().to_bytes(),
    )
}

/// Answers by path: `/status/N`, `/to?URL` redirects there and `/loop` to itself, `/large`, and `ok` to anything else.
fn workload(request: Request<Incoming>, peer: SocketAddr, log: &Log) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().map(str::to_owned);
    log.lock().push(Seen {
        peer,
        request: request.map(drop),
    });
    let mut response = Response::builder();
    let mut body = Bytes::from_static(b"ok");
    if let Some(status) = path.strip_prefix("/status/") {
        response = response.status(status.parse::<u16>().unwrap());
    }
    if path == "/to" {
        response = response
            .status(302)
            .header(header::LOCATION, query.unwrap());
    }
    if path == "/loop" {
        response = response.status(302).header(header::LOCATION, "/loop");
    }
    if path == "/large" {
        body = vec![b'x'; 1 << 20].into();
    }
    response.body(Full::new(body)).unwrap()
}

async fn plain() -> (u16, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let log = Log::default();
    let seen = Arc::clone(&log);
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            let service = service_fn(move |request| {
                let response = workload(request, peer, &seen);
                async move { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (port, log)
}

async fn over_tls(alpn: &[&str]) -> (u16, Log) {
    let certified = rcgen::generate_simple_self_signed(["expired.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let log = Log::default();
    let seen = Arc::clone(&log);
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(move |request| {
                    let response = workload(request, peer, &seen);
                    async move { Ok::<_, Infallible>(response) }
                });
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (port, log)
}

fn http_get(port: u16, path: &str) -> String {
    format!(r#"{{"httpGet":{{"port":{port},"path":"{path}"}},"timeoutSeconds":5}}"#)
}

#[tokio::test]
async fn status_codes_are_the_workloads_but_for_redirects() {
    let (port, _) = plain().await;
    for status in [
        200, 201, 204, 300, 304, 308, 400, 401, 404, 418, 429, 500, 503, 599,
    ] {
        let probes = probes(
            &http_get(port, &format!("status/{status}")),
            ProbeOptions::default(),
        );
        let expected = if (300..400).contains(&status) {
            200
        } else {
            status
        };
        assert_eq!(ask(&probes, &[]).await.0, expected, "{status}");
    }
}

#[tokio::test]
async fn redirects_by_the_kubelets_rules() {
    let (port, log) = plain().await;
    for (path, expected, requests) in [
        ("/to?/status/201", 201, 2),
        (&format!("/to?http://localhost:{port}/status/202"), 202, 2),
        ("/to?http://example.com/", 200, 1),
        ("/to?http://[", 500, 1),
        ("/to?", 200, 1),
        ("/loop", 500, 10),
    ] {
        log.lock().clear();
        let probes = probes(&http_get(port, path), ProbeOptions::default());
        let status = ask(&probes, &[("host", "app.example.com")]).await.0;
        assert_eq!(status, expected, "{path}");
        assert_eq!(log.lock().len(), requests, "{path}");
    }
    // A relative redirect stays at the host that was asked for.
    let probes = probes(&http_get(port, "/to?/x"), ProbeOptions::default());
    ask(&probes, &[("host", "app.example.com")]).await;
    assert_eq!(
        log.lock().pop().unwrap().request.headers()[HOST],
        "app.example.com"
    );
}

#[tokio::test]
async fn the_workload_sees_the_kubelets_request() {
    let (port, log) = plain().await;
    let probes = probes(&http_get(port, "a?b=c"), ProbeOptions::default());
    let headers = [
        ("host", "10.0.0.1:15020"),
        ("x-custom", "one"),
        ("x-custom", "two"),
        ("user-agent", "kube-probe/1.30"),
        ("connection", "keep-alive"),
    ];
    assert_eq!(ask(&probes, &headers).await, (200, "ok".into()));
    let seen = log.lock().pop().unwrap();
    assert_eq!(seen.peer.ip().to_string(), "127.0.0.6");
    assert_eq!(seen.request.uri(), "/a?b=c");
    let headers = seen.request.headers();
    assert_eq!(headers["host"], format!("10.0.0.1:{port}"));
    assert_eq!(headers["user-agent"], "kube-probe/1.30");
    assert_eq!(headers["connection"], "close");
    let custom: Vec<_> = headers.get_all("x-custom").iter().collect();
    assert_eq!(custom, ["one", "two"]);
    assert_eq!(headers.len(), 5);

    ask(&probes, &[("host", "app.example.com")]).await;
    assert_eq!(log.lock()[0].request.headers()["host"], "app.example.com");
}

#[tokio::test]
async fn bodies_are_passed_on_to_a_size() {
    let (port, _) = plain().await;
    let probes = probes(&http_get(port, "/large"), ProbeOptions::default());
    let (status, body) = ask(&probes, &[]).await;
    assert_eq!((status, body.len()), (200, 10 << 10));
}

#[tokio::test]
async fn connections_are_kept_if_wanted() {
    let (port, log) = plain().await;
    for (keepalive, distinct) in [(false, 3), (true, 1)] {
        log.lock().clear();
        let options = ProbeOptions {
            keepalive,
            ..ProbeOptions::default()
        };
        let probes = probes(&http_get(port, "/"), options);
        for _ in 0..3 {
            assert_eq!(ask(&probes, &[]).await.0, 200);
        }
        let peers: std::collections::BTreeSet<_> =
            log.lock().iter().map(|seen| seen.peer).collect();
        assert_eq!(peers.len(), distinct);
    }
}

#[tokio::test]
async fn any_certificate_and_the_best_protocol() {
    for (alpn, http2, expected) in [
        (&[][..], true, Some(::http::Version::HTTP_11)),
        (&["http/1.1"], true, Some(::http::Version::HTTP_11)),
        (&["h2"], true, Some(::http::Version::HTTP_2)),
        (&["h2", "http/1.1"], true, Some(::http::Version::HTTP_2)),
        (&["foo"], true, None),
        (&["h2", "http/1.1"], false, Some(::http::Version::HTTP_11)),
    ] {
        let (port, log) = over_tls(alpn).await;
        let handler = format!(r#"{{"httpGet":{{"port":{port},"scheme":"HTTPS"}}}}"#);
        let options = ProbeOptions {
            http2,
            ..ProbeOptions::default()
        };
        let status = ask(&probes(&handler, options), &[("host", "a.example:15020")])
            .await
            .0;
        assert_eq!(
            status,
            if expected.is_some() { 200 } else { 500 },
            "{alpn:?}"
        );
        let seen = log.lock().pop();
        assert_eq!(seen.as_ref().map(|seen| seen.request.version()), expected);
        if let Some(seen) = seen {
            let authority = seen.request.uri().authority().map(ToString::to_string);
            let host = seen.request.headers().get(HOST);
            let host = host.map(|host| host.to_str().unwrap().to_owned());
            assert_eq!(authority.or(host), Some(format!("a.example:{port}")));
        }
    }
}

#[tokio::test]
async fn tcp_and_who_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tcp = format!(r#"{{"tcpSocket":{{"port":{port}}}}}"#);
    for target in [
        ProbeTarget::Localhost,
        ProbeTarget::Ip([127, 0, 0, 1].into()),
    ] {
        let options = ProbeOptions {
            target,
            ..ProbeOptions::default()
        };
        assert_eq!(ask(&probes(&tcp, options), &[]).await.0, 200);
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip().to_string(), "127.0.0.6");
    }
    drop(listener);
    let port = ithildin_sys::port::refusing().unwrap().port();
    for handler in [
        format!(r#"{{"tcpSocket":{{"port":{port}}}}}"#),
        http_get(port, "/"),
        format!(r#"{{"grpc":{{"port":{port}}}}}"#),
    ] {
        let (status, body) = ask(&probes(&handler, ProbeOptions::default()), &[]).await;
        assert_eq!(status, 500, "{handler}");
        assert!(!body.is_empty(), "why");
    }
    let probes = probes("{\"tcpSocket\":{\"port\":1}}", ProbeOptions::default());
    let request = Request::get("/").body(()).unwrap();
    let unknown = probes.answer("/app-health/other/readyz", &request).await;
    assert_eq!(unknown.status(), 400);
}

#[tokio::test]
async fn a_workload_of_ipv6() {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        println!("a_workload_of_ipv6: skipped, there is no IPv6");
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let options = ProbeOptions {
        target: ProbeTarget::Ip(std::net::Ipv6Addr::LOCALHOST.into()),
        ..ProbeOptions::default()
    };
    let tcp = format!(r#"{{"tcpSocket":{{"port":{port}}}}}"#);
    assert_eq!(ask(&probes(&tcp, options), &[]).await.0, 200);
}

/// A health service that knows `serving`, `asleep` and the whole server, which serves.
async fn grpc_workload() -> (u16, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let log = Log::default();
    let seen = Arc::clone(&log);
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            let service = service_fn(move |request: Request<Incoming>| {
                let seen = Arc::clone(&seen);
                async move {
                    let (head, body) = request.into_parts();
                    seen.lock().push(Seen {
                        peer,
                        request: Request::from_parts(head, ()),
                    });
                    let asked = body.collect().await.unwrap().to_bytes();
                    // A frame's five bytes, then the field's tag and length.
                    let name = asked.get(7..).unwrap_or_default();
                    let (code, status) = match name {
                        b"" | b"serving" => ("0", 1),
                        b"asleep" => ("0", 2),
                        _ => ("5", 0),
                    };
                    let frame = Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static(code));
                    let body = Full::new(frame).with_trailers(async move { Some(Ok(trailers)) });
                    let response = Response::builder().header("content-type", "application/grpc");
                    Ok::<_, Infallible>(response.body(body).unwrap())
                }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    (port, log)
}

#[tokio::test]
async fn health_of_a_grpc_service() {
    let (port, log) = grpc_workload().await;
    for (service, expected) in [
        ("null", 200),
        ("\"\"", 200),
        ("\"serving\"", 200),
        ("\"asleep\"", 500),
        ("\"unknown\"", 500),
    ] {
        let handler =
            format!(r#"{{"grpc":{{"port":{port},"service":{service}}},"timeoutSeconds":10}}"#);
        let probes = probes(&handler, ProbeOptions::default());
        let (status, body) = ask(&probes, &[("user-agent", "kube-probe/1.30")]).await;
        assert_eq!(status, expected, "{service}: {body:?}");
        let seen = log.lock().pop().unwrap();
        assert_eq!(seen.peer.ip().to_string(), "127.0.0.6");
        assert_eq!(seen.request.uri().path(), "/grpc.health.v1.Health/Check");
        let agent = seen.request.headers()["user-agent"].to_str().unwrap();
        assert!(agent.starts_with("kube-probe/1.30"), "{agent}");
    }
    let (http, _) = plain().await;
    let handler = format!(r#"{{"grpc":{{"port":{http}}},"timeoutSeconds":1}}"#);
    assert_eq!(
        ask(&probes(&handler, ProbeOptions::default()), &[]).await.0,
        500
    );
}

#[tokio::test]
async fn a_workload_that_hangs_costs_its_owners_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 64];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
            open.push(stream);
        }
    });
    for action in [
        format!(r#""httpGet":{{"port":{port}}}"#),
        format!(r#""httpGet":{{"port":{port},"scheme":"HTTPS"}}"#),
        format!(r#""grpc":{{"port":{port}}}"#),
    ] {
        let handler = format!(r#"{{{action},"timeoutSeconds":1}}"#);
        let begun = Instant::now();
        let (status, body) = ask(&probes(&handler, ProbeOptions::default()), &[]).await;
        assert_eq!(status, 500, "{handler} {body:?}");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
