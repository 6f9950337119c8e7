//! Answers for names of the mesh per second of processor time, over real UDP sockets.
//!
//! The proxy has a thread of its own, whose processor time is what counts: reading and sending datagrams
//! in the kernel included, the client's work not.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, UdpSocket},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use ithildin_dns::{DnsProxy, Options, ResolvConf};
use ithildin_proto::nds::{NameTable, name_table::NameInfo};
use tokio::sync::{oneshot, watch};

/// Services in the table.
const SERVICES: usize = 1000;
/// Queries that wait for their answer at any time, far fewer than the socket has room for.
const WINDOW: usize = 64;
const RUN: Duration = Duration::from_secs(3);
/// What the proxy is meant to reach.
const TARGET: f64 = 50_000.0;

fn main() {
    let (ready, started) = mpsc::channel();
    let (stop, stopped) = oneshot::channel();
    let proxy = thread::spawn(move || serve(&ready, stopped));
    let address = started.recv().expect("the proxy starts");
    let forms = [
        ("full name", ".shop.svc.cluster.local."),
        ("short name", "."),
        ("search domain", ".shop.shop.svc.cluster.local."),
    ];
    let mut figures = Vec::new();
    for (what, suffix) in forms {
        let name = |n| format!("service-{n}{suffix}");
        let queries: Vec<_> = (0..SERVICES).map(|n| query(&name(n))).collect();
        let before = processor_time(&address);
        let answers = ask(address.1, &queries);
        let seconds = (processor_time(&address) - before).as_secs_f64();
        let figure = answers as f64 / seconds;
        println!(
            "{what:>14}: {answers} answers in {seconds:.2} s of processor time, {figure:.0} per second"
        );
        figures.push(figure);
    }
    let _ = stop.send(());
    proxy.join().expect("the proxy ends");
    let least = figures.into_iter().fold(f64::INFINITY, f64::min);
    println!("{:>14}: {least:.0}, target {TARGET:.0}", "least");
}

/// Runs a proxy; sends the thread's id and the address.
fn serve(ready: &mpsc::Sender<(String, SocketAddr)>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let (_tables, table) = watch::channel(Some(Arc::new(table())));
        let proxy = (0..50).find_map(|_| {
            let port = fastrand::u16(10_000..32_000);
            DnsProxy::start(options(port), table.clone()).ok()
        });
        let proxy = proxy.expect("a free port");
        while !proxy.status().is_ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let thread = fs::read_link("/proc/thread-self")
            .expect("/proc")
            .display()
            .to_string();
        ready
            .send((thread, proxy.addresses()[0]))
            .expect("the bench waits");
        let _ = stopped.await;
    });
}

fn options(port: u16) -> Options {
    Options {
        host: "127.0.0.1".to_owned(),
        port,
        namespace: "shop".to_owned(),
        domain: "shop.svc.cluster.local".to_owned(),
        resolver: ResolvConf {
            servers: Vec::new(),
            search: Some("shop.svc.cluster.local".to_owned()),
        },
        parallel: false,
        timeout: Duration::from_secs(5),
        forward_before_table: false,
    }
}

fn table() -> NameTable {
    let service = |n: usize| {
        let info = NameInfo {
            ips: vec![format!("10.0.{}.{}", n / 250, n % 250 + 1)],
            registry: "Kubernetes".to_owned(),
            shortname: format!("service-{n}"),
            namespace: "shop".to_owned(),
            ..NameInfo::default()
        };
        (format!("service-{n}.shop.svc.cluster.local"), info)
    };
    NameTable {
        table: (0..SERVICES).map(service).collect::<BTreeMap<_, _>>(),
        name_info: None,
    }
}

fn query(name: &str) -> Vec<u8> {
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(name).expect("a name");
    message.add_query(Query::query(name, RecordType::A));
    message.to_vec().expect("a query")
}

/// Asks for [`RUN`]; returns how many answers with addresses came.
fn ask(address: SocketAddr, queries: &[Vec<u8>]) -> usize {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.connect(address).expect("the proxy");
    client
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    let mut queries = queries.iter().cycle();
    let mut send = || {
        client
            .send(queries.next().expect("there are queries"))
            .expect("sent")
    };
    for _ in 0..WINDOW {
        send();
    }
    let mut buffer = [0; 512];
    let (mut answers, end) = (0, Instant::now() + RUN);
    while Instant::now() < end {
        let length = client.recv(&mut buffer).expect("an answer");
        // NOERROR, with answers.
        assert!(length > 12 && buffer[3] & 0x0f == 0 && buffer[7] > 0);
        answers += 1;
        send();
    }
    answers
}

/// What the proxy's thread has used so far.
fn processor_time((thread, _): &(String, SocketAddr)) -> Duration {
    let text = fs::read_to_string(format!("/proc/{thread}/schedstat")).expect("schedstat");
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect("the first figure is the time on a processor"))
}
