//! What a proxy container costs under a real istiod: memory at 100 services, time from start to ready, and
//! CPU while 200 pushes arrive. Ours with both data planes, and Istio's own agent if it is here.
//!
//!     cargo bench -p ithildin-tests --bench footprint [-- builtin|envoy|stock ...]
//!
//! `resident` is anonymous memory and mapped pages of files, which the Pods of a node share. `first ms` counts
//! until SPIRE and istiod know of the Pod, `again ms` is a start when both do.
//!
//! Needs root and `PILOT_DISCOVERY_BIN`; `ENVOY_BIN`, `PILOT_AGENT_STOCK_BIN` and `ENVOY_BOOTSTRAP_TEMPLATE`
//! for the others. The agent must be built with `--release`, as `cargo build --release --bins` does.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use ithildin_tests::{
    DataPlane, Mesh, eventually,
    mesh::{App, PodSpec, Program},
};
use serde_json::json;

const SERVICES: usize = 100;
const PUSHES: usize = 200;
/// Starts that are timed.
const STARTS: usize = 5;
const PUSH: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: httpbin, namespace: default}
spec:
  hosts: [httpbin]
  http:
  - route: [{destination: {host: httpbin}}]
    headers: {response: {set: {x-turn: \"TURN\"}}}
";

const HTTPBIN: PodSpec<'static> = PodSpec {
    name: "httpbin-0",
    namespace: "default",
    account: "httpbin",
    ip: [10, 0, 4, 2],
    role: "sidecar",
    labels: &[("app", "httpbin")],
    app: Some(App {
        port: 8080,
        calls: &[],
    }),
    env: &[],
    annotations: &[],
};

const SLEEP: PodSpec<'static> = PodSpec {
    name: "sleep-0",
    account: "sleep",
    ip: [10, 0, 4, 1],
    labels: &[("app", "sleep")],
    app: None,
    ..HTTPBIN
};

fn main() {
    let has = |name| std::env::var_os(name).is_some();
    let mut programs = vec![("builtin", Program::Ithildin(DataPlane::Builtin))];
    if has("ENVOY_BIN") {
        programs.push(("envoy", Program::Ithildin(DataPlane::Envoy)));
        if has("PILOT_AGENT_STOCK_BIN") {
            programs.push(("stock", Program::Stock));
        }
    }
    println!(
        "program  resident = anonymous + mapped KiB  Envoy's KiB  CPU ms for {PUSHES} pushes  first ms  again ms"
    );
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|it| !it.starts_with('-'))
        .collect();
    for (name, program) in programs {
        if wanted.is_empty() || wanted.iter().any(|it| it == name) {
            measure(name, program);
        }
    }
}

fn measure(name: &str, program: Program) {
    // What istiod sends must suit a stock Envoy, so that all have the same to do.
    let mesh = Mesh::start(
        name,
        Program::Ithildin(DataPlane::Envoy),
        &["httpbin.yaml"],
        &[HTTPBIN],
    );
    let Some(mut mesh) = mesh else {
        return;
    };
    mesh.istiod.apply("services.json", &services());
    mesh.add_with(&SLEEP, program);
    mesh.wait_ready();
    let ready = mesh.pod("sleep-0").started.elapsed();
    push(&mesh, 0);
    let pid = mesh.pod("sleep-0").agent.pid();
    let before = cpu_millis(pid);
    for turn in 1..=PUSHES {
        push(&mesh, turn);
    }
    let cpu = cpu_millis(pid) - before;
    let (agent, envoy) = (memory(&[pid]), memory(&children(pid)));
    // The Envoy of Istio's agent outlives an agent that is killed, and holds the ports.
    let starts = if program == Program::Stock { 0 } else { STARTS };
    let again: Vec<_> = (0..starts).map(|_| start_again(&mut mesh)).collect();
    println!(
        "{name:8} {:8} {:11} {:8} {:16} {cpu:23} {:9} {again:9?}",
        agent.resident,
        agent.anonymous,
        agent.resident - agent.anonymous,
        envoy.resident,
        ready.as_millis(),
    );
}

/// Milliseconds from the start of the agent to its readiness, when SPIRE and istiod know its Pod.
fn start_again(mesh: &mut Mesh) -> u128 {
    mesh.restart("sleep-0");
    let pod = mesh.pod("sleep-0");
    pod.net.inside(|| wait_ready(pod.started)).as_millis()
}

/// Asks more often than a test does.
fn wait_ready(started: Instant) -> Duration {
    loop {
        let taken = started.elapsed();
        if is_ready().unwrap_or(false) {
            return taken;
        }
        assert!(taken < Duration::from_secs(60), "the agent is not ready");
        thread::sleep(Duration::from_millis(1));
    }
}

fn is_ready() -> std::io::Result<bool> {
    let mut probe = TcpStream::connect((Ipv4Addr::LOCALHOST, 15021))?;
    probe.write_all(
        b"GET /healthz/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )?;
    let mut answer = String::new();
    probe.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200"))
}

/// Changes what a response looks like, and waits until it does.
fn push(mesh: &Mesh, turn: usize) {
    let turn = turn.to_string();
    mesh.istiod.apply("push.yaml", &PUSH.replace("TURN", &turn));
    eventually("the push arrives", || {
        let answer = mesh.curl("sleep-0", "http://httpbin:8000/status/200", &[]);
        let answer = answer.expect_status(200)?;
        let arrived = answer.header("x-turn") == Some(turn.as_str());
        arrived.then_some(()).ok_or(answer)
    });
}

/// Services with two endpoints each, which nobody calls.
fn services() -> String {
    let mut items = Vec::new();
    for index in 0..SERVICES {
        let name = format!("service-{index}");
        items.push(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "clusterIP": format!("10.96.3.{}", index + 1),
                "selector": {"app": name},
                "ports": [{"name": "http", "port": 8000}],
            },
        }));
        for pod in 0..2 {
            items.push(json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": format!("{name}-{pod}"),
                    "namespace": "default",
                    "labels": {"app": name, "security.istio.io/tlsMode": "istio"},
                },
                "spec": {"serviceAccountName": "default", "containers": [{"name": "app", "image": "app"}]},
                "status": {"podIP": format!("10.0.{}.{}", 10 + pod, index + 1)},
            }));
        }
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// User and system time of a process and its children, of those too that have ended.
fn cpu_millis(pid: u32) -> u64 {
    let own: u64 = stat(pid)[11..15].iter().sum();
    // The clock ticks 100 times a second on every Linux.
    own * 10 + children(pid).into_iter().map(cpu_millis).sum::<u64>()
}

/// The numbers of /proc/PID/stat, from the third field on; what is no number counts as 0.
fn stat(pid: u32) -> Vec<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let (_, fields) = text.rsplit_once(") ").expect("the process runs");
    fields
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect()
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let children = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    children
        .flat_map(|text| {
            let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
            pids.collect::<Vec<u32>>()
        })
        .collect()
}

/// Of some processes together, in KiB.
struct Memory {
    resident: u64,
    anonymous: u64,
}

fn memory(pids: &[u32]) -> Memory {
    let field = |name: &str| pids.iter().map(|pid| rollup(*pid, name)).sum();
    Memory {
        resident: field("Rss:"),
        anonymous: field("Anonymous:"),
    }
}

/// A field of /proc/PID/smaps_rollup, which is exact where `status` may lag.
fn rollup(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
