//! Access logs that services get: what they are told is what a real Envoy tells them with the same file, and
//! what becomes of entries that they do not take.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
    path::PathBuf,
    process::{Command, Stdio},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use ithildin_proto::{
    from_yaml,
    opentelemetry::logs::ExportLogsServiceRequest,
    pb::{
        envoy::{
            config::core::v3::{
                Address, address::Address as AddressKind, socket_address::PortSpecifier,
            },
            data::accesslog::v3::{
                AccessLogCommon, HttpAccessLogEntry, TcpAccessLogEntry,
                http_access_log_entry::HttpVersion,
            },
            service::accesslog::v3::{
                StreamAccessLogsMessage, stream_access_logs_message::LogEntries,
            },
        },
        google::protobuf::{Duration, Struct, Timestamp},
    },
    unpack,
};
use ithildin_proxy::stats::Value;
use prost::Message as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::json;

use crate::{
    envoy::Envoy,
    like_envoy::origin,
    log_collector::{LogCollector, Manner, Told},
    support::{Bench, connect, dead_address, exchange, read_head, server},
};

const EXPORT: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// What all loggers of Envoy's own protocol have.
const COMMON: &str = "transport_api_version: V3, buffer_flush_interval: 0.05s, \
    grpc_service: {envoy_grpc: {cluster_name: als, authority: als.test}}, \
    filter_state_objects_to_log: [wasm.upstream_peer, downstream_peer], custom_tags: [\
    {tag: literal, literal: {value: l}}, \
    {tag: variable, environment: {name: NOT_SET_ANYWHERE, default_value: d}}, \
    {tag: nothing, environment: {name: NOT_SET_ANYWHERE}}, \
    {tag: header, request_header: {name: X-Wanted, default_value: none}}, \
    {tag: left, metadata: {kind: {request: {}}, metadata_key: {key: own, path: [{key: a}]}, default_value: none}}, \
    {tag: deep, metadata: {kind: {request: {}}, metadata_key: {key: own, path: [{key: o}]}}}]";

/// What a client of the listener `http` sends.
const REQUESTS: &[&str] = &[
    "GET /up/a?b=c HTTP/1.1\r\nHost: a.test\r\nUser-Agent: me\r\nReferer: http://r.test/\r\nX-Wanted: 1\r\nX-Wanted: 2\r\nX-Request-Id: 6a1f1c5e-6d3c-4a64-9c64-2f0f5ea1f0a1\r\nConnection: close\r\n\r\n",
    "POST /up/body HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    "POST /grpc/chunks HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HEAD /up/head HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
    "PATCH /up/patch HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
    "OTHER /up/other HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
    "GET /up/left HTTP/1.1\r\nHost: a.test\r\nX-Leave: y\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: close\r\n\r\n",
    "GET /new/path HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
    "GET /last HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
    "GET /direct HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
    "GET /away HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
    "GET /nowhere HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
    "GET /none HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
    "GET /dead HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
    "GET /slow HTTP/1.1\r\nHost: a.test\r\nX-Act: hang\r\nConnection: close\r\n\r\n",
    "GET /up/cut HTTP/1.1\r\nHost: a.test\r\nX-Act: break off\r\nConnection: close\r\n\r\n",
    "GET /up/closed HTTP/1.1\r\nHost: a.test\r\nX-Act: close\r\nConnection: close\r\n\r\n",
    "GET /up HTTP/1.0\r\nHost: a.test\r\n\r\n",
];

/// Those, with two of one connection, one of gRPC and one by TLS.
const TOLD: usize = REQUESTS.len() + 4;

/// Both services and a file that names them.
struct Lab {
    als: LogCollector,
    otel: LogCollector,
    yaml: String,
}

/// What no other run has.
struct Pki {
    certificates: String,
    trust: String,
    /// A client's certificate with its key.
    client: tempfile::NamedTempFile,
}

struct Upstreams {
    origin: SocketAddr,
    last: SocketAddr,
    echo: SocketAddr,
    grpc: SocketAddr,
    dead: SocketAddr,
}

impl Lab {
    async fn start(manner: Manner, upstreams: &Upstreams, pki: &Pki) -> Self {
        let als = LogCollector::start(manner).await;
        let otel = LogCollector::start(manner).await;
        let ports = [
            ("ORIGIN", upstreams.origin),
            ("LAST", upstreams.last),
            ("ECHO", upstreams.echo),
            ("GRPC", upstreams.grpc),
            ("DEAD", upstreams.dead),
            ("ALS", als.address),
            ("OTEL", otel.address),
        ];
        let yaml = include_str!("access_services.yaml")
            .replace("COMMON", COMMON)
            .replace("CERTIFICATES", &pki.certificates)
            .replace("TRUST", &pki.trust);
        let yaml = ports.iter().fold(yaml, |yaml, (name, address)| {
            yaml.replace(&format!(" {name}}}"), &format!(" {}}}", address.port()))
        });
        Self { als, otel, yaml }
    }

    /// The file, where nothing is waited for as long as may be.
    fn impatient(&self) -> String {
        let limit = ".test}, timeout: 0.3s}";
        let yaml = self.yaml.replace("als.test}}", &format!("als{limit}"));
        let yaml = yaml.replace("otel.test}}", &format!("otel{limit}"));
        let yaml = yaml.replace("istio.test}}", &format!("istio{limit}"));
        yaml.replace("cluster: otel, timeout: 5s", "cluster: otel, timeout: 0.3s")
    }
}

impl Upstreams {
    async fn start() -> Self {
        Self {
            origin: origin(),
            last: server(|mut stream| {
                read_head(&mut stream);
                let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/x\r\ntransfer-encoding: chunked\r\n\r\n\
                              2\r\nok\r\n0\r\nx-last: end\r\nx-other: y\r\n\r\n";
                let _ = stream.write_all(answer.as_bytes());
            }),
            echo: server(|mut stream| {
                let mut buffer = [0; 1 << 10];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&buffer[..count]);
                }
            }),
            grpc: grpc_origin().await,
            dead: dead_address(),
        }
    }
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let certificate = |name: &str| {
            let mut params = CertificateParams::new(vec![format!("{name}.test")]).unwrap();
            let uri = format!("spiffe://a.test/{name}");
            let uri = SanType::URI(uri.try_into().unwrap());
            params.subject_alt_names.push(uri);
            params.distinguished_name.push(DnType::CommonName, name);
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            let key = KeyPair::generate().unwrap();
            let leaf = params.signed_by(&key, &issuer).unwrap();
            (leaf.pem(), key.serialize_pem())
        };
        let (chain, key) = certificate("server");
        let certificates = json!([{
            "certificate_chain": {"inline_string": chain},
            "private_key": {"inline_string": key},
        }]);
        let mut client = tempfile::NamedTempFile::new().unwrap();
        let (chain, key) = certificate("client");
        client.write_all((chain + &key).as_bytes()).unwrap();
        Self {
            certificates: certificates.to_string(),
            trust: ca.replace('\n', "\\n"),
            client,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_told_what_envoy_tells_them() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED services_are_told_what_envoy_tells_them: ENVOY_BIN is not set");
        return;
    };
    let (upstreams, pki) = (Upstreams::start().await, Pki::new());
    let ours = Lab::start(Manner::Polite, &upstreams, &pki).await;
    let theirs = Lab::start(Manner::Polite, &upstreams, &pki).await;
    let bench = Bench::start(&ours.yaml).await;
    let envoy = Envoy::start(&binary, &theirs.yaml, 4).await;
    drive(|listener| bench.address(listener), &pki).await;
    drive(|listener| envoy.address(listener), &pki).await;
    let expected = streams(&theirs.als, driven).await;
    let found = streams(&ours.als, driven).await;
    let names = ["of-http", "of-listener", "of-tcp", "of-tcp-dead"];
    assert!(expected.keys().eq(names), "{:?}", expected.keys());
    let mut differences = Vec::new();
    for (log, expected) in &expected {
        let found = &found[log];
        let pairs = expected.iter().rev().zip(found.iter().rev());
        for (expected, found) in pairs.filter(|(expected, found)| expected != found) {
            differences.push(format!("{log}: Envoy {expected:#?}\nours {found:#?}"));
        }
    }
    let expected = records(&theirs.otel, 3 * TOLD).await;
    let found = records(&ours.otel, 3 * TOLD).await;
    for (expected, found) in expected.iter().zip(&found) {
        if expected != found {
            differences.push(format!("Envoy {expected:#?}\nours {found:#?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

/// One of each kind of requests and connections.
async fn drive(address: impl Fn(&str) -> SocketAddr, pki: &Pki) {
    for request in REQUESTS {
        exchange(address("http"), request).await;
    }
    twice(address("http")).await;
    call(address("http")).await;
    let (tls, client) = (address("tls"), pki.client.path().to_owned());
    tokio::task::spawn_blocking(move || {
        let mut openssl = Command::new("openssl")
            .args([
                "s_client",
                "-quiet",
                "-tls1_3",
                "-servername",
                "server.test",
            ])
            .args(["-connect", &tls.to_string(), "-cert"])
            .arg(&client)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let request = REQUESTS[0].as_bytes();
        openssl.stdin.as_mut().unwrap().write_all(request).unwrap();
        let output = openssl.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.starts_with("HTTP/1.1 200 "), "{output}{errors}");
    })
    .await
    .unwrap();
    for listener in ["tcp", "tcp-dead"] {
        let address = address(listener);
        tokio::task::spawn_blocking(move || {
            let mut stream = connect(address);
            // Who is refused cannot write.
            let _ = stream.write_all(b"hello");
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        })
        .await
        .unwrap();
    }
}

/// Two requests of one connection, one after the other.
async fn twice(address: SocketAddr) {
    let talk = move || {
        let mut stream = connect(address);
        for _ in 0..2 {
            let request = b"GET /direct HTTP/1.1\r\nHost: a.test\r\n\r\n";
            stream.write_all(request).unwrap();
            assert!(!read_head(&mut stream).is_empty());
            stream.read_exact(&mut [0; "hello".len()]).unwrap();
        }
    };
    tokio::task::spawn_blocking(talk).await.unwrap();
}

/// A call of gRPC.
async fn call(address: SocketAddr) {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::post("http://a.test/grpc/call")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut body) = client.send_request(request, false).unwrap();
    let message = Bytes::from_static(b"\0\0\0\0\x03abc");
    body.send_data(message, true).unwrap();
    let mut body = response.await.unwrap().into_body();
    while let Some(data) = body.data().await {
        data.unwrap();
    }
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "5");
    drop(client);
    connection.abort();
}

async fn grpc_origin() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        let mut body = request.into_body();
                        while let Some(Ok(_)) = body.data().await {}
                        let head = Response::builder().header("content-type", "application/grpc");
                        let mut stream = respond.send_response(head.body(()).unwrap(), false)?;
                        stream.send_data(Bytes::from_static(b"\0\0\0\0\x02ok"), false)?;
                        let status = ("grpc-status".parse().unwrap(), "5".parse().unwrap());
                        stream.send_trailers(HeaderMap::from_iter([status]))
                    });
                }
            });
        }
    });
    address
}

#[derive(Clone, Debug, PartialEq)]
enum Entry {
    Http(Box<HttpAccessLogEntry>),
    Tcp(Box<TcpAccessLogEntry>),
}

type Logs = BTreeMap<String, Vec<Entry>>;

/// Whether these are the logs of what [`drive`] does.
fn driven(logs: &Logs) -> bool {
    let count = |log| logs.get(log).map_or(0, Vec::len);
    let [listener, tcp, dead] = ["of-listener", "of-tcp", "of-tcp-dead"].map(count);
    // Those of who only looked for a listener are like the last.
    listener == 1 && tcp == 1 && dead > 0 && count("of-http") == TOLD
}

/// The entries of each log, once they are as they should be.
async fn streams(als: &LogCollector, are_there: impl Fn(&Logs) -> bool) -> Logs {
    for _ in 0..3000 {
        let logs = logs(&als.told());
        if are_there(&logs) {
            return logs;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{:#?}", logs(&als.told()));
}

fn logs(told: &[Told]) -> Logs {
    let read = |told: &Told| match StreamAccessLogsMessage::decode(&*told.message)
        .unwrap()
        .log_entries
        .unwrap()
    {
        LogEntries::HttpLogs(logs) => {
            let entries = logs.log_entry.into_iter();
            entries.map(|it| Entry::Http(Box::new(it))).collect()
        }
        LogEntries::TcpLogs(logs) => {
            let entries = logs.log_entry.into_iter();
            entries
                .map(|it| Entry::Tcp(Box::new(it)))
                .collect::<Vec<_>>()
        }
    };
    let mut names = BTreeMap::new();
    let mut logs = Logs::new();
    for told in told {
        assert_eq!(
            told.path,
            "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
        );
        let message = StreamAccessLogsMessage::decode(&*told.message).unwrap();
        if let Some(identifier) = message.identifier {
            let node = identifier.node.unwrap();
            assert_eq!((&*node.id, &*node.cluster), ("node-1", "group"));
            assert_eq!(node.locality.unwrap().zone, "z");
            assert!(node.metadata.unwrap().fields.contains_key("NAME"));
            names.insert(told.request, identifier.log_name);
        }
        let log = logs.entry(names[&told.request].clone()).or_default();
        // Somebody only looked whether there was a listener.
        let was_used = |entry: &Entry| match entry {
            Entry::Http(_) => true,
            Entry::Tcp(entry) => {
                let passed = entry.connection_properties.as_ref().unwrap();
                let common = entry.common_properties.as_ref().unwrap();
                passed.received_bytes > 0 || common.response_flags.is_some()
            }
        };
        let entries = read(told).into_iter().filter(was_used);
        log.extend(entries.map(normal));
    }
    logs
}

/// Without what differs from run to run.
fn normal(mut entry: Entry) -> Entry {
    let common = match &mut entry {
        Entry::Http(entry) => {
            let request = entry.request.as_mut().unwrap();
            request.request_id = shape(&request.request_id);
            if request.path.starts_with("/grpc") {
                without_frames(entry);
            }
            entry.common_properties.as_mut().unwrap()
        }
        Entry::Tcp(entry) => entry.common_properties.as_mut().unwrap(),
    };
    normal_common(common);
    entry
}

/// Bytes that only Envoy counts: those of frames of HTTP/2.
fn without_frames(entry: &mut HttpAccessLogEntry) {
    let common = entry.common_properties.as_mut().unwrap();
    common.upstream_wire_bytes_sent = 0;
    common.upstream_wire_bytes_received = 0;
    let (request, response) = (entry.request.as_mut(), entry.response.as_mut());
    let (request, response) = (request.unwrap(), response.unwrap());
    request.upstream_header_bytes_sent = 0;
    response.upstream_header_bytes_received = 0;
    if entry.protocol_version == i32::from(HttpVersion::Http2) {
        common.downstream_wire_bytes_sent = 0;
        common.downstream_wire_bytes_received = 0;
        request.downstream_header_bytes_received = 0;
        response.downstream_header_bytes_sent = 0;
    }
}

fn normal_common(common: &mut AccessLogCommon) {
    for address in [
        &mut common.downstream_remote_address,
        &mut common.downstream_direct_remote_address,
        &mut common.downstream_local_address,
        &mut common.upstream_local_address,
    ] {
        without_port(address);
    }
    for time in [
        &mut common.time_to_last_rx_byte,
        &mut common.time_to_first_upstream_tx_byte,
        &mut common.time_to_last_upstream_tx_byte,
        &mut common.time_to_first_upstream_rx_byte,
        &mut common.time_to_last_upstream_rx_byte,
        &mut common.time_to_first_downstream_tx_byte,
        &mut common.time_to_last_downstream_tx_byte,
        &mut common.duration,
    ] {
        *time = time.map(|_| Duration::default());
    }
    common.start_time = common.start_time.map(|_| Timestamp::default());
    common.stream_id = shape(&common.stream_id);
}

fn without_port(address: &mut Option<Address>) {
    if let Some(Address {
        address: Some(AddressKind::SocketAddress(socket)),
    }) = address
        && let Some(PortSpecifier::PortValue(port @ 1..)) = &mut socket.port_specifier
    {
        *port = 1;
    }
}

/// Of an id that is made up.
fn shape(id: &str) -> String {
    id.chars()
        .map(|c| if c.is_ascii_hexdigit() { 'x' } else { c })
        .collect()
}

/// All records as text, once there are `count`, by the logger that they are of.
async fn records(otel: &LogCollector, count: usize) -> Vec<String> {
    let read = |told: &Told| {
        let message = ExportLogsServiceRequest::decode(&*told.message).unwrap();
        let [logs] = &message.resource_logs[..] else {
            panic!("{message:#?}");
        };
        let [scope] = &logs.scope_logs[..] else {
            panic!("{message:#?}");
        };
        let resource = logs.resource.clone().unwrap_or_default();
        let key = told.headers.get("x-key").cloned();
        let records = scope.log_records.iter().map(|record| {
            let mut record = record.clone();
            assert_ne!(record.time_unix_nano, 0);
            record.time_unix_nano = 1;
            format!("{} {key:?} {resource:#?} {record:#?}", told.path)
        });
        records.collect()
    };
    let mut records: Vec<String> = otel.entries(count, read).await;
    // Each report is heard by a task of its own, so that those of one logger may change places.
    records.sort_by_cached_key(|text| {
        let is_istio = text.contains("istio ");
        (!text.starts_with(EXPORT), is_istio, text.clone())
    });
    records
}

/// A real Envoy alone has no filter that knows of peers.
#[tokio::test(flavor = "multi_thread")]
async fn services_are_told_who_asked() {
    let (upstreams, pki) = (Upstreams::start().await, Pki::new());
    let lab = Lab::start(Manner::Polite, &upstreams, &pki).await;
    let filter = r#"{name: peers, typed_config: {"@type": type.googleapis.com/io.istio.http.peer_metadata.Config, downstream_discovery: [{istio_headers: {}}]}}"#;
    let filters = format!("http_filters:\n          - {filter}\n          - name: lua");
    let yaml = lab
        .yaml
        .replace("http_filters:\n          - name: lua", &filters);
    let bench = Bench::start(&yaml).await;
    let told: Struct = from_yaml("WORKLOAD_NAME: sleep\nNAMESPACE: default").unwrap();
    let told = BASE64_STANDARD.encode(told.encode_to_vec());
    let request = format!(
        "GET /direct HTTP/1.1\r\nHost: a.test\r\nX-Envoy-Peer-Metadata-Id: sleep\r\n\
         X-Envoy-Peer-Metadata: {told}\r\nConnection: close\r\n\r\n"
    );
    exchange(bench.address("http"), &request).await;
    let logs = streams(&lab.als, |logs| logs.contains_key("of-http")).await;
    let [Entry::Http(entry)] = &logs["of-http"][..] else {
        panic!("{logs:#?}");
    };
    let common = entry.common_properties.as_ref().unwrap();
    let peer: Struct = unpack(&common.filter_state_objects["downstream_peer"]).unwrap();
    let expected: Struct = from_yaml("workload: sleep\nnamespace: default").unwrap();
    assert_eq!(peer, expected);
    assert_eq!(common.filter_state_objects.len(), 1);
    let records = records(&lab.otel, 3).await;
    let of_istio = records.iter().find(|it| it.contains("istio ")).unwrap();
    let json = r#"{\"@type\":\"type.googleapis.com/google.protobuf.Struct\",\"value\":{\"namespace\":\"default\",\"workload\":\"sleep\"}}"#;
    assert!(of_istio.contains(json), "{of_istio}");
}

/// What is sent until all of it has met its fate.
const COUNT: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_no_help_touches_no_request() {
    let (upstreams, pki) = (Upstreams::start().await, Pki::new());
    for manner in [
        Manner::Polite,
        Manner::Silent,
        Manner::Reset,
        Manner::GoAway,
        Manner::Error,
        Manner::Nonsense,
        Manner::Endless,
    ] {
        let lab = Lab::start(manner, &upstreams, &pki).await;
        match manner {
            Manner::Polite => told(&lab.yaml, (COUNT, 0)).await,
            _ => told(&lab.impatient(), (0, COUNT)).await,
        }
    }
    let lab = Lab::start(Manner::Polite, &upstreams, &pki).await;
    let port = |address: SocketAddr| format!("port_value: {}}}", address.port());
    let dead = port(upstreams.dead);
    let dead = [&lab.als, &lab.otel]
        .iter()
        .fold(lab.impatient(), |yaml, it| {
            yaml.replace(&port(it.address), &dead)
        });
    told(&dead, (0, COUNT)).await;
    let absent = lab.impatient().replace(
        "cluster_name: als, authority",
        "cluster_name: absent, authority",
    );
    let absent = absent.replace(
        "cluster_name: otel, authority",
        "cluster_name: absent, authority",
    );
    told(
        &absent.replace("cluster: otel,", "cluster: absent,"),
        (0, COUNT),
    )
    .await;
}

/// Entries that services take, and that they do not get, of so many requests.
async fn told(yaml: &str, (written, dropped): (usize, usize)) {
    let bench = Bench::start(yaml).await;
    let request = "GET /direct HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    for _ in 0..COUNT {
        let answer = exchange(bench.address("http"), request).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    let scope = "grpc_access_log";
    counted(&bench, &format!("{scope}.grpc_entries_flushed"), written).await;
    counted(
        &bench,
        &format!("{scope}.grpc_entries_flush_failed"),
        dropped,
    )
    .await;
    for scope in [
        scope,
        "open_telemetry_access_log",
        "open_telemetry_access_log.own",
        "open_telemetry_access_log.istio",
    ] {
        counted(&bench, &format!("{scope}.logs_written"), written).await;
        counted(&bench, &format!("{scope}.logs_dropped"), dropped).await;
    }
}

async fn counted(bench: &Bench, name: &str, expected: usize) {
    let name = format!("access_logs.{name}");
    let count = || {
        let metrics = bench.proxy.stats().metrics(false);
        let found = metrics.iter().find(|metric| metric.name == name);
        found.map(|it| it.value.clone())
    };
    let expected = Some(Value::Counter(expected as u64));
    for _ in 0..3000 {
        if count() == expected {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{name}: {:?}, not {expected:?}", count());
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_sent_together_when_it_is_time_or_they_are_many() {
    let (upstreams, pki) = (Upstreams::start().await, Pki::new());
    let request = "GET /direct HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let lab = Lab::start(Manner::Polite, &upstreams, &pki).await;
    let slow = lab.yaml.replace(
        "buffer_flush_interval: 0.05s",
        "buffer_flush_interval: 3600s",
    );
    // Each is sent by itself, but for what comes while it is on its way.
    let single = slow.replace(
        "log_name: of-http,",
        "log_name: of-http, buffer_size_bytes: 0,",
    );
    let bench = Bench::start(&single).await;
    for count in 1..=3 {
        exchange(bench.address("http"), request).await;
        streams(&lab.als, |logs| {
            logs.get("of-http").is_some_and(|it| it.len() == count)
        })
        .await;
    }
    // The others wait for more, or for their time.
    assert!(lab.otel.told().is_empty());
    drop(bench);
    let lab = Lab::start(Manner::Polite, &upstreams, &pki).await;
    let slow = lab.yaml.replace(
        "buffer_flush_interval: 0.05s",
        "buffer_flush_interval: 3600s",
    );
    let bench = Bench::start(&slow).await;
    let long = request.replace(
        "Host:",
        &format!("User-Agent: {}\r\nHost:", "x".repeat(2 << 10)),
    );
    for _ in 0..4 {
        exchange(bench.address("http"), &long).await;
    }
    let four = |logs: &Logs| logs.get("of-http").is_some_and(|it| it.len() == 4);
    streams(&lab.als, four).await;
    assert_eq!(lab.als.told().len(), 1);
}
