//! Requests without a pause, counted: some on connections that stay, some on new ones.
//!
//! It ends on SIGTERM and prints one line of JSON: `requests`, `failed` and the first `failures`.
//! While it runs it prints a line for every [`TELL_EVERY`] requests.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};

/// Workloads that send at once.
const CLIENTS: usize = 4;
/// Between two requests of one of them: enough load to hit each rotation, and little CPU.
const PAUSE: Duration = Duration::from_millis(2);
/// A client opens a new connection after so many requests.
const PER_CONNECTION: u64 = 200;
/// How many failures are told in full.
const TOLD_FAILURES: usize = 5;
/// Requests between two signs of life.
const TELL_EVERY: u64 = 8;
/// Longer than any request takes that is answered.
const LIMIT: Duration = Duration::from_secs(15);

#[derive(Default)]
struct Tally {
    requests: u64,
    failures: Vec<String>,
    failed: u64,
    slowest: Duration,
}

/// Sends `GET path` until SIGTERM.
pub async fn run(to: SocketAddr, host: &str, path: &str) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let tally = Rc::new(RefCell::new(Tally::default()));
    let clients = LocalSet::new();
    for _ in 0..CLIENTS {
        let client = send(to, host.to_owned(), path.to_owned(), Rc::clone(&tally));
        clients.spawn_local(client);
    }
    clients
        .run_until(async {
            terminate.recv().await;
        })
        .await;
    let tally = tally.borrow();
    let result = json!({
        "requests": tally.requests,
        "failed": tally.failed,
        "failures": tally.failures,
        "slowest_millis": tally.slowest.as_millis() as u64,
    });
    println!("{result}");
    Ok(())
}

async fn send(to: SocketAddr, host: String, path: String, tally: Rc<RefCell<Tally>>) {
    let mut client = None;
    let mut sent = 0;
    loop {
        if sent % PER_CONNECTION == 0 {
            client = None;
        }
        sent += 1;
        let started = Instant::now();
        let exchange = exchange(&mut client, to, &host, &path);
        let outcome = tokio::time::timeout(LIMIT, exchange).await;
        let outcome = outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in {LIMIT:?}")));
        if outcome.is_err() {
            client = None;
        }
        count(&mut tally.borrow_mut(), outcome, started.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
}

fn count(tally: &mut Tally, outcome: anyhow::Result<()>, took: Duration) {
    tally.requests += 1;
    tally.slowest = tally.slowest.max(took);
    if let Err(error) = outcome {
        tally.failed += 1;
        if tally.failures.len() < TOLD_FAILURES {
            tally.failures.push(format!("{error:#}"));
        }
    }
    if tally.requests.is_multiple_of(TELL_EVERY) {
        eprintln!("{} requests, {} failed", tally.requests, tally.failed);
    }
}

type Client = SendRequest<Empty<Bytes>>;

async fn exchange(
    client: &mut Option<Client>,
    to: SocketAddr,
    host: &str,
    path: &str,
) -> anyhow::Result<()> {
    let open = match client {
        Some(open) if !open.is_closed() => open,
        _ => client.insert(connect(to).await.context("cannot connect")?),
    };
    let request = Request::get(path)
        .header(header::HOST, host)
        .body(Empty::new())?;
    let response = open.send_request(request).await.context("no answer")?;
    let (head, body) = response.into_parts();
    let closes = head
        .headers
        .get(header::CONNECTION)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    let body = body.collect().await.context("the body ended early")?;
    if closes {
        *client = None;
    }
    if !head.status.is_success() {
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        anyhow::bail!("status {}: {body}", head.status.as_u16());
    }
    Ok(())
}

async fn connect(to: SocketAddr) -> anyhow::Result<Client> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (client, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(client)
}
