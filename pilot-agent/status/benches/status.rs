//! What a probe and a scrape of 1 MiB cost: latency, processor time, memory. Client, server and the source
//! of the metrics share this process.
//!
//! `cargo bench -p ithildin-status --bench status`

#![expect(clippy::unwrap_used, reason = "a benchmark ends where something fails")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use ithildin_status::{Agent, Options, Ports, Server};
use prometheus::proto::MetricFamily;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// How long each figure is measured.
const PERIOD: Duration = Duration::from_secs(3);
/// What the data plane answers.
const METRICS: usize = 1 << 20;
/// More than the server has places.
const IDLE: usize = 2000;

fn main() {
    // `cargo test --all-targets` runs benchmarks too, without this.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let (status, data_plane) = (free_port(), data_plane().await);
    let options = Options {
        ports: Ports {
            status: Some(status),
            ..Ports::default()
        },
        data_plane_metrics: data_plane,
        merge_data_plane: true,
        ..Options::default()
    };
    let _server = Server::start(options, Arc::new(Ready)).unwrap();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, status));

    report("probe", addr, "GET /healthz/ready HTTP/1.1\r\n").await;
    report("scrape of 1 MiB", addr, "GET /metrics HTTP/1.1\r\n").await;
    let gzip = "GET /metrics HTTP/1.1\r\naccept-encoding: gzip\r\n";
    report("scrape of 1 MiB, gzip", addr, gzip).await;

    let before = resident();
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        idle.push(TcpStream::connect(addr).await.unwrap());
    }
    println!(
        "{IDLE} idle connections: {} KiB more",
        resident().saturating_sub(before)
    );
    report("probe beside them", addr, "GET /healthz/ready HTTP/1.1\r\n").await;
}

/// Requests one after the other, each on its own connection.
async fn report(name: &str, addr: SocketAddr, request: &str) {
    let request = format!("{request}host: a\r\nconnection: close\r\n\r\n");
    let (begun, cpu, memory) = (Instant::now(), cpu(), resident());
    let mut times = Vec::new();
    let (mut answer, mut peak) = (Vec::new(), 0);
    while begun.elapsed() < PERIOD {
        let asked = Instant::now();
        answer.clear();
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        times.push(asked.elapsed());
        peak = peak.max(resident());
    }
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    let count = u32::try_from(times.len()).unwrap();
    println!(
        "{name}: {count} answers of {} bytes; median {:?}, 99 % {:?}; processor time of both ends {:?}; \
         at most {} KiB more",
        answer.len(),
        at(50),
        at(99),
        (self::cpu() - cpu) / count,
        peak.saturating_sub(memory),
    );
}

/// An agent that is ready and knows nothing.
struct Ready;

#[async_trait]
impl Agent for Ready {
    fn not_ready(&self) -> Vec<String> {
        Vec::new()
    }
    async fn metrics(&self) -> Result<Vec<MetricFamily>, prometheus::Error> {
        Ok(Vec::new())
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

/// Answers everybody with metrics; where it listens.
async fn data_plane() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut body = String::new();
    for number in 0.. {
        if body.len() >= METRICS {
            break;
        }
        body.push_str(&format!(
            "envoy_cluster_upstream_rq_total{{envoy_cluster_name=\"outbound|{number}\"}} {number}\n"
        ));
    }
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    port
}

fn free_port() -> u16 {
    ithildin_sys::port::unused().unwrap()
}

/// Processor time of this process.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields = fields.split(' ').skip(11).take(2);
    let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}
