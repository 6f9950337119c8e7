//! Spans of requests: what a collector is told, and what the origin sees, beside a real Envoy with the
//! same file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt;
use parking_lot::Mutex;
use regex::{Captures, Regex};

use crate::{
    envoy::Envoy,
    support::{Bench, dead_address, exchange, read_head, server},
    trace_collector::{Span, Told},
};

const TRACEPARENT: &str =
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=b\r\n";
const UNSAMPLED: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n";
const ID: &str = "x-request-id: 0000001e-0000-4000-8000-000000000000\r\n";

/// Of all listeners.
const FIELDS: &[&str] = &[
    "",
    ID,
    TRACEPARENT,
    UNSAMPLED,
    "x-client-trace-id: mine\r\n",
    "x-envoy-force-trace: 1\r\n",
    "x-envoy-decorator-operation: told\r\n",
    "x-envoy-decorator-operation:\r\n",
    "x-act: call by the origin\r\n",
];

const OF_ZIPKIN: &[&str] = &[
    "b3: 0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1-00000000000000ff\r\n",
    "b3: 8448eb211c80319c-b7ad6b7169203331\r\n",
    "b3: 0\r\n",
    "b3: 1\r\n",
    "b3: nonsense\r\n",
    "x-b3-traceid: 0af7651916cd43dd8448eb211c80319c\r\nx-b3-spanid: b7ad6b7169203331\r\n",
    "x-b3-traceid: 0af7651916cd43dd8448eb211c80319c\r\nx-b3-spanid: b7ad6b7169203331\r\n\
     x-b3-parentspanid: 00000000000000ff\r\nx-b3-sampled: 1\r\n",
    "x-b3-traceid: 8448eb211c80319c\r\nx-b3-spanid: b7ad6b7169203331\r\nx-b3-sampled: 0\r\n",
    "x-b3-traceid: 8448eb211c80319c\r\n",
    "x-b3-traceid: zz\r\nx-b3-spanid: 1\r\n",
    "x-b3-sampled: 0\r\n",
    "x-b3-sampled: 1\r\n",
    "x-b3-sampled: true\r\n",
    "x-b3-flags: 1\r\n",
    "b3: 1\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n",
];

/// Of the listeners whose tries have spans, and of one without.
const ENDS: &[(&str, &str)] = &[
    ("/dead", ""),
    ("/nowhere", ""),
    ("/nowhere", "x-cluster: gone\r\n"),
    ("/direct", ""),
    ("/moved", ""),
    ("/slow", "x-act: hang\r\n"),
    ("/try", "x-act: once hang\r\n"),
    ("/try", "x-act: hang\r\n"),
    ("/retry", "x-act: once 503\r\n"),
    ("/retry", "x-act: 503\r\n"),
    ("/retry", "x-act: once close\r\n"),
    ("/redial", ""),
    ("/rewritten/a", ""),
    ("/", "x-act: 404\r\n"),
    ("/", "x-act: 500\r\n"),
    ("/", "x-act: close\r\n"),
    ("/", "x-act: break off\r\n"),
    ("/never", ""),
    ("/own", "x-head: v\r\nx-bare: b\r\n"),
    (
        "/",
        "content-type: application/grpc\r\ngrpc-timeout: 5S\r\nx-act: grpc 14\r\n",
    ),
    ("/", "content-type: application/grpc\r\nx-act: grpc 5\r\n"),
    ("/dead", "content-type: application/grpc\r\n"),
    // Its status comes with its trailers.
    (
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        "content-type: application/grpc\r\nte: trailers\r\n",
    ),
    ("/", "x-envoy-downstream-service-cluster: theirs\r\n"),
    ("/long/PATH?query", ""),
    ("/called", TRACEPARENT),
    ("/secret", TRACEPARENT),
];

const NONSENSE: &[&str] = &[
    "traceparent:\r\n",
    "traceparent: x\r\n",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0\r\n",
    "traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01\r\n",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01\r\n",
    "traceparent: ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
    "traceparent: 00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01\r\n",
    "tracestate: a=b\r\n",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
     tracestate: a=b\r\ntracestate: c=d\r\n",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate:\r\n",
];

const REQUEST_IDS: &[&str] = &[
    "",
    "abc",
    "0000001e",
    "zzz00000-0000-4000-8000-000000000000",
    "0000001e-0000-9000-8000-000000000000",
    "0000001e-0000-a000-8000-000000000000",
    "0000001e-0000-b000-8000-000000000000",
    "0000001e-0000-c000-8000-000000000000",
];

/// Requests that are under way together.
const AT_ONCE: usize = 16;

struct Case {
    listener: &'static str,
    path: String,
    fields: String,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |listener, path: &str, fields: &str| {
        cases.push(Case {
            listener,
            path: path.replace("PATH", &"p".repeat(300)),
            fields: fields.to_owned(),
        });
    };
    for listener in LISTENERS {
        for fields in FIELDS {
            add(listener, "/?q=1", fields);
            add(listener, "/called", fields);
        }
        add(listener, "/secret", "");
        add(listener, "/own", "");
        if listener.starts_with("zipkin") {
            for fields in OF_ZIPKIN {
                add(listener, "/", fields);
            }
        }
    }
    for listener in ["inbound", "outbound", "hop", "child", "named", "zipkin_hop"] {
        for (path, fields) in ENDS {
            add(listener, path, fields);
        }
    }
    for listener in ["inbound", "hop", "zipkin_in", "silent", "nobody"] {
        for path in ["/copied", "/quietly", "/loudly"] {
            for fields in ["", TRACEPARENT, UNSAMPLED] {
                add(listener, path, fields);
            }
        }
    }
    for listener in ["rerouted", "rerouted_in"] {
        for path in ["/other/a", "/other/b", "/other/c"] {
            for fields in [
                "",
                "x-envoy-decorator-operation: told\r\n",
                TRACEPARENT,
                UNSAMPLED,
                ID,
            ] {
                add(listener, path, fields);
            }
        }
    }
    for code in 0..18 {
        for listener in ["outbound", "hop"] {
            let fields = format!("content-type: application/grpc\r\nx-act: grpc {code}\r\n");
            add(listener, "/", &fields);
        }
    }
    for fields in NONSENSE {
        add("outbound", "/", fields);
        add("zipkin_w3c", "/", fields);
    }
    for id in REQUEST_IDS {
        for listener in [
            "inbound",
            "never",
            "closed",
            "unpacked",
            "edge",
            "preserved",
        ] {
            add(listener, "/", &format!("x-request-id: {id}\r\n"));
        }
    }
    cases
}

const LISTENERS: &[&str] = &[
    "inbound",
    "outbound",
    "hop",
    "child",
    "never",
    "closed",
    "always",
    "always_some",
    "named",
    "silent",
    "nobody",
    "nobody_in",
    "unpacked",
    "regardless",
    "edge",
    "preserved",
    "trusted",
    "client",
    "zipkin_in",
    "zipkin_out",
    "zipkin_shared",
    "zipkin_w3c",
    "zipkin_hop",
    "zipkin_never",
];

#[tokio::test(flavor = "multi_thread")]
async fn spans_are_like_envoys() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED spans_are_like_envoys: ENVOY_BIN is not set");
        return;
    };
    let origin = Origin::start().await;
    let (told_ours, told_envoy) = (Told::default(), Told::default());
    let ours = Bench::start(&yaml(&origin, &told_ours).await).await;
    let yaml = yaml(&origin, &told_envoy).await;
    let listeners = yaml.matches("\n    filter_chains:").count();
    let envoy = Envoy::start(&binary, &yaml, listeners).await;
    let cases = cases();
    for (who, address) in [
        (
            "ours",
            &(|listener: &str| ours.address(listener)) as &dyn Fn(&str) -> SocketAddr,
        ),
        ("envoy", &|listener: &str| envoy.address(listener)),
    ] {
        let sent = cases.iter().enumerate().map(|(i, case)| {
            let (key, address) = (format!("{who}-{i}"), address(case.listener));
            let origin = &origin;
            async move {
                let answer = exchange(address, &request(case, &key)).await;
                let mut seen = origin.seen.lock();
                seen.entry(key).or_default().push(decorated(&answer));
            }
        });
        let sent = futures_util::stream::iter(sent).buffer_unordered(AT_ONCE);
        sent.collect::<Vec<_>>().await;
    }
    let expected = settled(&told_envoy).await;
    let found = settled(&told_ours).await;
    let mut differences = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        let expected = account(&format!("envoy-{i}"), &expected, &origin, case);
        let found = account(&format!("ours-{i}"), &found, &origin, case);
        if expected != found {
            let lines = |account: &[String]| account.join("\n");
            let (expected, found) = (lines(&expected), lines(&found));
            let only = |these: &str, others: &str| -> Vec<String> {
                let others: Vec<_> = others.lines().collect();
                let these = these.lines().filter(|line| !others.contains(line));
                these.map(str::to_owned).collect()
            };
            differences.push(format!(
                "{} {:.40} {:?}\nEnvoy: {:#?}\nours: {:#?}",
                case.listener,
                case.path,
                case.fields,
                only(&expected, &found),
                only(&found, &expected),
            ));
        }
    }
    let (expected, found) = (
        counted(envoy.admin).await,
        counted(ours.proxy.admin_address().unwrap()).await,
    );
    differences.extend(only_one(&expected, &found));
    let (expected, found) = (
        envoy.lines(cases.len()).await,
        ours.lines(cases.len()).await,
    );
    differences.extend(only_one(&logged(expected), &logged(found)));
    let count = differences.len();
    assert!(
        count == 0,
        "{count} differences\n{}",
        differences.join("\n\n")
    );
}

/// What only one of two has.
fn only_one(expected: &[String], found: &[String]) -> Vec<String> {
    let missing = expected.iter().filter(|it| !found.contains(it));
    let added = found.iter().filter(|it| !expected.contains(it));
    let (missing, added): (Vec<_>, Vec<_>) = (missing.collect(), added.collect());
    match missing.is_empty() && added.is_empty() {
        true => Vec::new(),
        false => vec![format!("Envoy: {missing:#?}\nours: {added:#?}")],
    }
}

/// Lines of an access log without the digits of trace ids.
fn logged(mut lines: Vec<String>) -> Vec<String> {
    for line in &mut lines {
        let (rest, id) = line.rsplit_once(' ').unwrap();
        *line = format!("{rest} {} digits", id.len());
    }
    lines
}

/// What both count of spans: for Prometheus, with all labels.
async fn counted(admin: SocketAddr) -> Vec<String> {
    let request =
        "GET /stats/prometheus?filter=tracing HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let text = exchange(admin, request).await;
    let lines = text.lines().filter(|line| line.starts_with("envoy_"));
    // How many go together is by chance; the last is ours alone.
    let others = ["timer_flushed", "reports_sent", "zipkin_spans_dropped"];
    let lines = lines.filter(|line| !others.iter().any(|it| line.contains(it)));
    lines.map(str::to_owned).collect()
}

/// The spans, once no more come for longer than they are gathered.
async fn settled(told: &Told) -> Vec<Span> {
    let mut before = usize::MAX;
    loop {
        let spans = told.spans();
        if spans.len() == before {
            return spans;
        }
        before = spans.len();
        tokio::time::sleep(Duration::from_secs(8)).await;
    }
}

async fn yaml(origin: &Origin, told: &Told) -> String {
    let port = |address: SocketAddr| address.port().to_string();
    include_str!("traces.yaml")
        .replace("ORIGIN", &port(origin.address))
        .replace("DEAD", &port(origin.dead))
        .replace("RPC", &port(origin.rpc))
        .replace("COLLECTOR", &port(told.over_http()))
        .replace("GATHERER", &port(told.over_grpc().await))
}

/// The user agent tells which request a span is of.
fn request(case: &Case, key: &str) -> String {
    let Case { path, fields, .. } = case;
    // What breaks off has had an effect, so that nobody repeats it by himself.
    let posts = fields.contains("grpc") || fields.contains("close");
    let method = if posts { "POST" } else { "GET" };
    format!(
        "{method} {path} HTTP/1.1\r\nhost: a.test\r\nuser-agent: {key}\r\n{fields}connection: close\r\n\r\n"
    )
}

/// What the client is told of the operation, and of its id.
fn decorated(answer: &str) -> String {
    let told = answer
        .lines()
        .filter(|line| line.starts_with("x-envoy-decorator") || line.starts_with("x-request-id"));
    let status = answer.lines().next().unwrap_or_default();
    format!("answer: {status} {:?}", told.collect::<Vec<_>>())
}

/// All that came of one request, without what differs from one to the next.
fn account(key: &str, spans: &[Span], origin: &Origin, case: &Case) -> Vec<String> {
    let mut lines = origin.seen.lock().get(key).cloned().unwrap_or_default();
    // What is copied may come first.
    lines.sort_by_key(|line| line.contains("-shadow"));
    let own = spans
        .iter()
        .filter(|span| span.tags.get("user_agent").is_some_and(|it| it == key));
    let own: Vec<_> = own.collect();
    let below = |span: &&Span| {
        own.iter().any(|it| {
            (&it.id, &it.trace, &it.resource) == (&span.parent, &span.trace, &span.resource)
        })
    };
    let tries = spans
        .iter()
        .filter(|span| !span.tags.contains_key("user_agent"));
    let mut tries: Vec<_> = tries.filter(below).collect();
    tries.sort_by_key(|span| (&span.name, span.tags.get("retry.count")));
    lines.extend(own.iter().chain(&tries).map(|span| text(span)));
    let mut names = HashMap::new();
    let ids = Regex::new(r"\b([0-9a-f]{8}-[0-9a-f]{4}-.[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}|[0-9a-f]{16})\b").unwrap();
    let mut name = |found: &Captures<'_>| {
        let id = &found[0];
        if case.fields.contains(id) {
            return id.to_owned();
        }
        if id.contains('-') {
            return format!("UUID {}", &id[14..15]);
        }
        let next = names.len();
        let name = names.entry(id.to_owned()).or_insert(next);
        format!("ID {name}")
    };
    let lines = lines.into_iter().map(|line| line.replace(key, "KEY"));
    lines
        .map(|line| ids.replace_all(&line, &mut name).into_owned())
        .collect()
}

fn text(span: &Span) -> String {
    let Span {
        resource,
        trace,
        id,
        parent,
        state,
        name,
        kind,
        tags,
        mark,
        started: _,
        took: _,
    } = span;
    let mut resource = resource.clone();
    // Who we are.
    resource.retain(|key, _| !key.starts_with("telemetry.sdk."));
    format!(
        "span {trace} {id} of {parent:?} {state:?} {name:?} {kind} {mark}\n{resource:?}\n{tags:#?}"
    )
}

/// A server that does what `x-act` says, and tells which headers of traces came.
struct Origin {
    address: SocketAddr,
    /// Speaks gRPC.
    rpc: SocketAddr,
    /// Refuses.
    dead: SocketAddr,
    seen: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
}

impl Origin {
    async fn start() -> Self {
        let seen: Arc<Mutex<BTreeMap<String, Vec<String>>>> = Arc::default();
        let ours = Arc::clone(&seen);
        let address = server(move |mut stream| while act(&mut stream, &ours).is_some() {});
        Self {
            address,
            rpc: Told::default().over_grpc().await,
            dead: dead_address(),
            seen,
        }
    }
}

fn act(stream: &mut TcpStream, seen: &Mutex<BTreeMap<String, Vec<String>>>) -> Option<()> {
    let head = read_head(stream);
    if head.is_empty() {
        return None;
    }
    let field = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(it, _)| *it == name).map(|(_, value)| value)
    };
    let told = head.lines().filter(|line| {
        [
            "host: a.test-shadow",
            "trace",
            "b3:",
            "x-b3-",
            "x-request-id",
            "x-envoy-decorator",
            "x-envoy-force",
            "x-client",
        ]
        .iter()
        .any(|name| line.starts_with(name))
    });
    let mut told: Vec<_> = told.collect();
    told.sort_unstable();
    let before = {
        let mut seen = seen.lock();
        let lines = seen.entry(field("user-agent")?.to_owned()).or_default();
        lines.push(format!("origin: {told:?}"));
        lines.len() - 1
    };
    let act = match field("x-act").unwrap_or_default() {
        act if act.starts_with("once ") && before > 0 => "",
        act => act.trim_start_matches("once "),
    };
    let answer = match act {
        "close" => return None,
        "hang" => {
            std::thread::sleep(Duration::from_secs(5));
            return None;
        }
        "break off" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc");
            return None;
        }
        "" => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_owned(),
        act => match (act.strip_prefix("grpc "), act.strip_prefix("call ")) {
            (Some(code), _) => format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: {code}\r\n\
                 grpc-message: why\r\ncontent-length: 0\r\n\r\n"
            ),
            (_, Some(operation)) => format!(
                "HTTP/1.1 200 OK\r\nx-envoy-decorator-operation: {operation}\r\ncontent-length: 0\r\n\r\n"
            ),
            _ => format!("HTTP/1.1 {act} X\r\ncontent-length: 3\r\n\r\nbad"),
        },
    };
    stream.write_all(answer.as_bytes()).ok()
}
