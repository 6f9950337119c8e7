//! The agent's DNS proxy behind the rules: real queries of a real resolver.

use std::{
    io::{Read, Write},
    net::UdpSocket,
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RData, Record, RecordType},
};
use ithildin_dns::{DnsProxy, Options, ResolvConf};
use ithildin_proto::nds::{NameTable, name_table::NameInfo};
use tokio::sync::{oneshot, watch};

use crate::{
    net::{APP, Link, Namespace, OUTSIDE, PROXY, ROOT},
    tools::{capture, with_each},
};

/// The world's name server.
const SERVER: &str = "192.0.2.10";
const SERVICE: &str = "10.1.0.1";
const WORLD: &str = "198.51.100.7";
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn the_proxy_answers_for_the_mesh_and_asks_for_the_rest() {
    with_each("the DNS proxy", |tool, link| {
        let flags = "-i * -b * --redirect-dns --capture-all-dns";
        capture(link, tool, flags).unwrap();
        let server = link.outside.udp(ROOT, SERVER, 53);
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let (stop, stopped) = oneshot::channel();
        let (started, ready) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| link.pod.enter_as(PROXY, || serve(&started, stopped)));
            ready.recv_timeout(PATIENCE).unwrap();
            for asked in [OUTSIDE, SERVER] {
                let reply = link.pod.enter_as(APP, || ask(asked, "web.default."));
                assert_eq!(reply, SERVICE, "{tool:?} {asked}");
            }
            scope.spawn(|| answer_one(&server));
            let reply = link.pod.enter_as(APP, || ask(SERVER, "www.example.org."));
            assert_eq!(reply, WORLD, "{tool:?}");
            assert_eq!(ask_over_tcp(link, "web.default."), SERVICE, "{tool:?}");
            let resolved = getent(&link.pod, "web.default");
            assert!(resolved.starts_with(SERVICE), "{tool:?}: {resolved:?}");
            stop.send(()).unwrap();
        });
    });
}

/// Runs the proxy until it is told to stop.
fn serve(started: &std::sync::mpsc::Sender<()>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let info = NameInfo {
            ips: vec![SERVICE.to_owned()],
            registry: "Kubernetes".to_owned(),
            shortname: "web".to_owned(),
            namespace: "default".to_owned(),
            ..NameInfo::default()
        };
        let table = NameTable {
            table: [("web.default.svc.cluster.local".to_owned(), info)].into(),
            name_info: None,
        };
        let (_tables, table) = watch::channel(Some(Arc::new(table)));
        let options = Options {
            host: "localhost".to_owned(),
            port: 15053,
            namespace: "default".to_owned(),
            domain: "default.svc.cluster.local".to_owned(),
            resolver: ResolvConf {
                servers: vec![format!("{SERVER}:53").parse().unwrap()],
                search: None,
            },
            parallel: false,
            timeout: PATIENCE,
            forward_before_table: false,
        };
        let proxy = DnsProxy::start(options, table).unwrap();
        while !proxy.status().is_ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        started.send(()).unwrap();
        let _ = stopped.await;
    });
}

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn address(bytes: &[u8]) -> String {
    let message = Message::from_vec(bytes).unwrap();
    match message.answers.last().map(|record| &record.data) {
        Some(RData::A(ip)) => ip.to_string(),
        _ => panic!("{message}"),
    }
}

/// The answer comes from whom it was asked of, or it does not come.
fn ask(server: &str, name: &str) -> String {
    let client = UdpSocket::bind("0.0.0.0:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect((server, 53)).unwrap();
    client.send(&question(name)).unwrap();
    let mut buffer = [0; 512];
    let length = client.recv(&mut buffer).unwrap();
    address(&buffer[..length])
}

fn ask_over_tcp(link: &Link, name: &str) -> String {
    let mut client = link.pod.connect(APP, SERVER, 53).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let question = question(name);
    let length = u16::try_from(question.len()).unwrap();
    client.write_all(&length.to_be_bytes()).unwrap();
    client.write_all(&question).unwrap();
    let mut length = [0; 2];
    client.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    client.read_exact(&mut answer).unwrap();
    address(&answer)
}

/// What an application's resolver finds, whatever server this machine's `resolv.conf` names.
fn getent(pod: &Namespace, name: &str) -> String {
    let output = pod.enter_as(APP, || {
        Command::new("getent").args(["ahostsv4", name]).output()
    });
    String::from_utf8(output.unwrap().stdout).unwrap()
}

/// The world's answer to the next query that reaches it.
fn answer_one(server: &UdpSocket) {
    let mut buffer = [0; 512];
    let (length, client) = server.recv_from(&mut buffer).unwrap();
    let request = Message::from_vec(&buffer[..length]).unwrap();
    let mut reply = Message::response(request.id, OpCode::Query);
    reply.queries.clone_from(&request.queries);
    let ip: std::net::Ipv4Addr = WORLD.parse().unwrap();
    let name = request.queries[0].name().clone();
    reply.add_answer(Record::from_rdata(name, 60, RData::A(ip.into())));
    server.send_to(&reply.to_vec().unwrap(), client).unwrap();
}
