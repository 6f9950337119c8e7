//! Keys of tokens that are fetched: the same requests to this proxy and to a real Envoy; how often they are
//! fetched, and what becomes of those that are old.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ithildin_proxy::stats::Value;
use serde_json::json;

use crate::{
    like_envoy::{Case, compare, origin},
    support::{Bench, dead_address, exchange, read_head, server},
};

const SECRET: &[u8] = b"a secret of thirty-two bytes, yes";

/// Far longer than anything here waits.
const LONG: Duration = Duration::from_secs(2);

/// Until when something must have happened.
const SOON: Duration = Duration::from_secs(10);

fn yaml(keys: SocketAddr) -> String {
    let ports = [
        ("ORIGIN", origin()),
        ("KEYS", keys),
        ("DEAD", dead_address()),
    ];
    let yaml = include_str!("remote_jwks.yaml").to_owned();
    ports.iter().fold(yaml, |yaml, (name, address)| {
        yaml.replace(
            &format!("port_value: {name}}}"),
            &format!("port_value: {}}}", address.port()),
        )
    })
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn keys() -> String {
    json!({"keys": [{"kty": "oct", "kid": "k", "alg": "HS256", "k": encode(SECRET)}]}).to_string()
}

fn token(secret: &[u8], claims: &serde_json::Value) -> String {
    let header = json!({"alg": "HS256", "kid": "k"}).to_string();
    let (header, claims) = (
        encode(header.as_bytes()),
        encode(claims.to_string().as_bytes()),
    );
    let signed = format!("{header}.{claims}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", encode(signature.as_ref()))
}

fn get(path: &str, token: &str) -> String {
    let fields = match token {
        "" => String::new(),
        token => format!("Authorization: Bearer {token}\r\n"),
    };
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}Connection: close\r\n\r\n")
}

fn good() -> String {
    token(SECRET, &json!({"iss": "i"}))
}

/// A server of keys that are of use, or not, by their path.
fn key_server() -> SocketAddr {
    server(|mut stream| {
        while let Some(path) = asked(&mut stream) {
            let (status, body) = match path.as_str() {
                "/good?a=b" => ("200 OK", keys()),
                "/moved" => ("302 Found\r\nlocation: /good?a=b", String::new()),
                "/garbage" => ("200 OK", "{".into()),
                "/empty" => ("200 OK", String::new()),
                "/none" => ("200 OK", r#"{"keys": []}"#.into()),
                "/other" => ("200 OK", keys().replace("\"k\",", "\"other\",")),
                "/broken" => ("200 OK", keys()),
                "/slow" => {
                    std::thread::sleep(LONG);
                    ("200 OK", keys())
                }
                _ => ("404 Not Found", keys()),
            };
            let length = body.len() + usize::from(path == "/broken");
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
            let written = stream.write_all(answer.as_bytes());
            if written.is_err() || path == "/broken" {
                return;
            }
        }
    })
}

/// For what, by who knows whom.
fn asked(stream: &mut TcpStream) -> Option<String> {
    let head = read_head(stream);
    let path = head.strip_prefix("GET ")?.split(' ').next()?;
    let knows = head
        .to_ascii_lowercase()
        .contains("\r\nhost: keys.test:81\r\n");
    knows.then(|| path.to_owned())
}

#[tokio::test]
async fn keys_are_fetched_like_envoys() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED keys_are_fetched_like_envoys: ENVOY_BIN is not set");
        return;
    };
    compare(&binary, &yaml(key_server()), &cases()).await;
}

fn cases() -> Vec<Case> {
    let good = good();
    let forged = token(b"another secret of as many bytes..", &json!({"iss": "i"}));
    let old = token(SECRET, &json!({"iss": "i", "exp": 1}));
    let strange = token(SECRET, &json!({"iss": "x"}));
    let tokens = [&*good, &forged, &old, &strange, "x.y.z", ""];
    let paths = [
        "/good",
        "/ahead",
        "/missing",
        "/moved",
        "/garbage",
        "/empty",
        "/none",
        "/other",
        "/broken",
        "/slow",
        "/dead",
        "/nowhere",
        "/stranger",
        "/any",
        "/all",
        "/istio",
        "/lenient",
        "/free",
    ];
    let of_path = |path| tokens.iter().map(move |token| ("tokens", get(path, token)));
    paths.into_iter().flat_map(of_path).collect()
}

async fn status(bench: &Bench, path: &str) -> String {
    let answer = exchange(bench.address("tokens"), &get(path, &good())).await;
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn count(bench: &Bench, name: &str) -> u64 {
    let metrics = bench.proxy.stats().metrics(false);
    let name = format!("http.tokens.jwt_authn.{name}");
    match metrics
        .iter()
        .find(|metric| metric.name == name)
        .map(|it| &it.value)
    {
        Some(Value::Counter(count)) => *count,
        other => panic!("{name}: {other:?}"),
    }
}

/// A server that does as `does` says, and counts who asks.
struct Switch {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    /// 0: an error, 1: keys, 2: it takes its time.
    does: Arc<AtomicUsize>,
}

fn switch() -> Switch {
    let asked_for = Arc::new(AtomicUsize::new(0));
    let does = Arc::new(AtomicUsize::new(1));
    let (count, now) = (Arc::clone(&asked_for), Arc::clone(&does));
    let address = server(move |mut stream| {
        while asked(&mut stream).is_some() {
            count.fetch_add(1, Relaxed);
            let does = now.load(Relaxed);
            if does == 2 {
                std::thread::sleep(Duration::from_millis(300));
            }
            let status = if does == 0 { "503 X" } else { "200 OK" };
            let body = keys();
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    Switch {
        address,
        asked: asked_for,
        does,
    }
}

/// Without the provider that fetches before anybody asks.
fn on_demand(keys: SocketAddr) -> String {
    yaml(keys).replace("async_fetch: {}", "cache_duration: 700s")
}

#[tokio::test]
async fn many_requests_wait_for_one_fetch() {
    let switch = switch();
    switch.does.store(2, Relaxed);
    let bench = Bench::start(&on_demand(switch.address)).await;
    let all = (0..20).map(|_| status(&bench, "/good"));
    for status in futures_util::future::join_all(all).await {
        assert_eq!(status, "200");
    }
    assert_eq!(switch.asked.load(Relaxed), 1);
    assert_eq!(count(&bench, "jwks_fetch_success"), 1);
    assert_eq!(count(&bench, "jwks_fetch_failed"), 0);
}

/// Keys that nobody keeps fresh count for as long as they last, and not longer.
#[tokio::test]
async fn old_keys_are_fetched_anew() {
    let switch = switch();
    let yaml = on_demand(switch.address).replace("cache_duration: 300s", "cache_duration: 0.5s");
    let bench = Bench::start(&yaml).await;
    assert_eq!(status(&bench, "/good").await, "200");
    assert_eq!(status(&bench, "/good").await, "200");
    switch.does.store(0, Relaxed);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(status(&bench, "/good").await, "401");
    assert_eq!(status(&bench, "/good").await, "401");
    let good = count(&bench, "jwks_fetch_success");
    switch.does.store(1, Relaxed);
    assert_eq!(status(&bench, "/good").await, "200");
    assert_eq!(count(&bench, "jwks_fetch_success"), good + 1);
    assert_eq!(count(&bench, "jwks_fetch_failed"), 2);
}

/// Keys that are fetched ahead are there before the first request, and the last good ones stay.
#[tokio::test]
async fn keys_that_are_fetched_ahead_stay_until_there_are_others() {
    let switch = switch();
    let yaml = yaml(switch.address).replace(
        "async_fetch: {}",
        "cache_duration: 0.2s, async_fetch: {fast_listener: true, failed_refetch_duration: 0.1s}",
    );
    let bench = Bench::start(&yaml).await;
    eventually("the first fetch", || {
        count(&bench, "jwks_fetch_success") > 0
    })
    .await;
    switch.does.store(0, Relaxed);
    let before = switch.asked.load(Relaxed);
    eventually("several that fail", || {
        switch.asked.load(Relaxed) > before + 3
    })
    .await;
    assert_eq!(status(&bench, "/ahead").await, "200");
    assert!(count(&bench, "jwks_fetch_failed") > 1);
    let good = count(&bench, "jwks_fetch_success");
    switch.does.store(1, Relaxed);
    eventually("new ones", || {
        count(&bench, "jwks_fetch_success") > good + 1
    })
    .await;
}

/// A client that goes takes nobody's fetch with it.
#[tokio::test]
async fn a_fetch_outlives_who_asked_first() {
    let switch = switch();
    switch.does.store(2, Relaxed);
    let bench = Bench::start(&on_demand(switch.address)).await;
    let mut first = TcpStream::connect(bench.address("tokens")).expect("it listens");
    first
        .write_all(get("/good", &good()).as_bytes())
        .expect("it reads");
    eventually("it is asked", || switch.asked.load(Relaxed) == 1).await;
    drop(first);
    assert_eq!(status(&bench, "/good").await, "200");
    assert_eq!(switch.asked.load(Relaxed), 1);
}

/// What is longer than an answer may be is no key.
#[tokio::test]
async fn answers_without_end_are_given_up() {
    let address = server(|mut stream| {
        while asked(&mut stream).is_some() {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let mut sent = stream.write_all(head.as_bytes());
            while sent.is_ok() {
                sent = stream.write_all(format!("4000\r\n{}\r\n", " ".repeat(0x4000)).as_bytes());
            }
        }
    });
    let bench = Bench::start(&on_demand(address)).await;
    assert_eq!(status(&bench, "/good").await, "401");
    assert_eq!(count(&bench, "jwks_fetch_failed"), 1);
    assert_eq!(status(&bench, "/free").await, "200");
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < SOON, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
