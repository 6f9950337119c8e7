//! A proxy on ports of its own, a name server to be its upstream, and a client.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use ithildin_dns::{DnsProxy, Options, ResolvConf, StartError};
use ithildin_proto::nds::{NameTable, name_table::NameInfo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
const ATTEMPTS: usize = 50;

/// A proxy and the sender of its table.
pub(crate) struct Lab {
    pub(crate) proxy: DnsProxy,
    pub(crate) address: SocketAddr,
    pub(crate) tables: watch::Sender<Option<Arc<NameTable>>>,
}

impl Lab {
    /// A proxy with the hosts' table.
    pub(crate) async fn new(hosts: &[(&str, &[&str])], servers: &[SocketAddr]) -> Self {
        let lab = Self::with(options(servers)).await;
        lab.push(hosts).await;
        lab
    }

    /// A proxy without a table.
    pub(crate) async fn with(options: Options) -> Self {
        for _ in 0..ATTEMPTS {
            let (tables, table) = watch::channel(None);
            // Below the ports that the kernel gives away.
            let port = fastrand::u16(10_000..32_000);
            let host = Ipv4Addr::LOCALHOST.to_string();
            match DnsProxy::start(
                Options {
                    host,
                    port,
                    ..options.clone()
                },
                table,
            ) {
                Ok(proxy) => {
                    let address = proxy.addresses()[0];
                    return Self {
                        proxy,
                        address,
                        tables,
                    };
                }
                Err(StartError::Bind { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("no free port");
    }

    /// Pushes a table and waits until it is the one that answers.
    pub(crate) async fn push(&self, hosts: &[(&str, &[&str])]) {
        let table = hosts.iter().map(|(host, ips)| {
            let info = NameInfo {
                ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
                registry: "External".to_owned(),
                ..NameInfo::default()
            };
            ((*host).to_owned(), info)
        });
        let table: BTreeMap<_, _> = table.collect();
        let count = table.len();
        let table = NameTable {
            table,
            name_info: None,
        };
        self.tables.send_replace(Some(Arc::new(table)));
        let status = self.proxy.status();
        let hosts = |dump: &serde_json::Value| {
            let table = dump.get("table").and_then(serde_json::Value::as_object);
            table.map_or(0, serde_json::Map::len)
        };
        let there = || status.dump().as_ref().map(hosts);
        let waited = timeout(PATIENCE, async {
            while there() != Some(count) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        waited.await.expect("the table is taken");
    }

    pub(crate) async fn udp(&self, message: &Message) -> Message {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(self.address).await.unwrap();
        client.send(&message.to_vec().unwrap()).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let received = timeout(PATIENCE, client.recv(&mut buffer)).await;
        let length = received.expect("an answer in time").unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    pub(crate) async fn tcp(&self, message: &Message) -> Message {
        let mut client = Client::connect(self.address).await;
        client.send(message).await;
        client.receive().await.expect("an answer")
    }
}

pub(crate) fn options(servers: &[SocketAddr]) -> Options {
    Options {
        host: String::new(),
        port: 0,
        namespace: "default".to_owned(),
        domain: "default.svc.cluster.local".to_owned(),
        resolver: ResolvConf {
            servers: servers.to_vec(),
            search: Some("default.svc.cluster.local".to_owned()),
        },
        parallel: false,
        timeout: Duration::from_secs(5),
        forward_before_table: false,
    }
}

/// A connection of a client.
pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    pub(crate) async fn send(&mut self, message: &Message) {
        self.0.write_all(&framed(message)).await.unwrap();
    }

    /// The next message; `None` at the end of the stream.
    pub(crate) async fn receive(&mut self) -> Option<Message> {
        let receive = async {
            let length = self.0.read_u16().await.ok()?;
            let mut bytes = vec![0; usize::from(length)];
            self.0.read_exact(&mut bytes).await.ok()?;
            Some(Message::from_vec(&bytes).unwrap())
        };
        timeout(PATIENCE, receive).await.expect("in time")
    }
}

pub(crate) fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.to_vec().unwrap();
    let mut frame = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(bytes);
    frame
}

pub(crate) fn question(id: u16, name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// The addresses of an answer, sorted.
pub(crate) fn addresses(message: &Message) -> Vec<String> {
    let mut found: Vec<String> = message
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(ip) => Some(ip.to_string()),
            RData::AAAA(ip) => Some(ip.to_string()),
            _ => None,
        })
        .collect();
    found.sort();
    found
}

/// A reply to `request`.
pub(crate) fn reply(request: &Message, code: ResponseCode, ips: &[Ipv4Addr]) -> Message {
    let mut reply = Message::response(request.id, request.op_code);
    reply.metadata.response_code = code;
    reply.queries.clone_from(&request.queries);
    let name = request.queries[0].name();
    for ip in ips {
        let address = RData::A((*ip).into());
        reply.add_answer(Record::from_rdata(name.clone(), 60, address));
    }
    reply
}

/// A name server that answers as `behave` says, over UDP and TCP; no answer for none.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

type Behave = fn(&Message) -> Vec<Vec<u8>>;

impl Server {
    pub(crate) async fn new(behave: Behave) -> Self {
        let (udp, tcp) = both().await;
        let address = udp.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, behave, Arc::clone(&asked)));
        tasks.spawn(serve_tcp(tcp, behave, Arc::clone(&asked)));
        Self {
            address,
            asked,
            _tasks: tasks,
        }
    }

    /// How many queries it got.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn both() -> (UdpSocket, TcpListener) {
    for _ in 0..ATTEMPTS {
        let address = (Ipv4Addr::LOCALHOST, fastrand::u16(10_000..32_000));
        if let (Ok(udp), Ok(tcp)) = (
            UdpSocket::bind(address).await,
            TcpListener::bind(address).await,
        ) {
            return (udp, tcp);
        }
    }
    panic!("no free port");
}

async fn serve_udp(socket: UdpSocket, behave: Behave, asked: Arc<AtomicUsize>) {
    let mut buffer = vec![0; 65_535];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        asked.fetch_add(1, Ordering::Relaxed);
        let request = Message::from_vec(&buffer[..length]).unwrap();
        for answer in behave(&request) {
            socket.send_to(&answer, client).await.unwrap();
        }
    }
}

async fn serve_tcp(listener: TcpListener, behave: Behave, asked: Arc<AtomicUsize>) {
    // Kept open: who gets no answer is to wait.
    let mut clients = Vec::new();
    while let Ok((stream, _)) = listener.accept().await {
        let mut client = Client(stream);
        if let Some(request) = client.receive().await {
            asked.fetch_add(1, Ordering::Relaxed);
            for answer in behave(&request) {
                let length = u16::try_from(answer.len()).unwrap();
                client.0.write_all(&length.to_be_bytes()).await.unwrap();
                client.0.write_all(&answer).await.unwrap();
            }
        }
        clients.push(client);
    }
}
