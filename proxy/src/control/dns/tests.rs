//! Name servers that stall, lie, or have much to say.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::LazyLock,
    thread,
};

use hickory_resolver::{
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::{
        op::Message,
        rr::rdata::{A, CNAME},
    },
};

use super::*;

/// Attempts to find a port that is free over both transports.
const ATTEMPTS: usize = 100;

/// Addresses that fit into the longest answer there is.
const MANY: usize = 1800;

/// Far more than an answer takes.
const SOON: Duration = Duration::from_secs(10);

const REAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const FORGED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// Serves this process, beside all runtimes.
static SERVER: LazyLock<SocketAddr> = LazyLock::new(|| {
    let both = (0..ATTEMPTS).find_map(|_| {
        let tcp = TcpListener::bind("127.0.0.1:0").ok()?;
        let udp = UdpSocket::bind(tcp.local_addr().ok()?).ok()?;
        Some((tcp, udp))
    });
    let (tcp, udp) = both.expect("there is a free port");
    let address = tcp.local_addr().unwrap();
    thread::spawn(move || serve_udp(&udp));
    thread::spawn(move || {
        for stream in tcp.incoming() {
            thread::spawn(move || serve_tcp(stream.unwrap()));
        }
    });
    address
});

/// One that asks the server of this file.
pub(in crate::control) fn resolver() -> Arc<TokioResolver> {
    let with_port = |mut connection: ConnectionConfig| {
        connection.port = SERVER.port();
        connection
    };
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let server = NameServerConfig::new(
        SERVER.ip(),
        true,
        connections.into_iter().map(with_port).collect(),
    );
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let provider = TokioRuntimeProvider::default();
    let mut builder = TokioResolver::builder_with_config(config, provider);
    builder.options_mut().cache_size = 0;
    Arc::new(builder.build().unwrap())
}

fn serve_udp(socket: &UdpSocket) {
    let mut buffer = [0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut buffer) {
        for answer in answers(&buffer[..length], false) {
            socket.send_to(&answer, client).unwrap();
        }
    }
}

fn serve_tcp(mut stream: TcpStream) {
    loop {
        let mut length = [0; 2];
        if stream.read_exact(&mut length).is_err() {
            return;
        }
        let mut question = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut question).unwrap();
        for answer in answers(&question, true) {
            let length = u16::try_from(answer.len()).unwrap();
            let _ = stream.write_all(&length.to_be_bytes());
            if host(&question) == "drip" {
                for byte in &answer {
                    thread::sleep(Duration::from_secs(1));
                    if stream.write_all(&[*byte]).is_err() {
                        return;
                    }
                }
            }
            let _ = stream.write_all(&answer);
        }
    }
}

/// The first label.
fn host(question: &[u8]) -> String {
    let question = Message::from_vec(question).unwrap();
    let name = question.queries[0].name().to_string();
    name.split('.').next().unwrap().to_owned()
}

/// What is said to a question, in order; what the case is says the name.
fn answers(bytes: &[u8], over_tcp: bool) -> Vec<Vec<u8>> {
    let question = Message::from_vec(bytes).unwrap();
    let asked = question.queries[0].name().clone();
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let reply = |change: &dyn Fn(&mut Message)| {
        let mut reply = Message::response(question.id, question.op_code);
        reply.queries.clone_from(&question.queries);
        change(&mut reply);
        reply.to_vec().unwrap()
    };
    let a = |owner: &Name, ip: Ipv4Addr| Record::from_rdata(owner.clone(), 60, RData::A(A(ip)));
    let alias = |from: &Name, to: &Name| {
        Record::from_rdata(from.clone(), 60, RData::CNAME(CNAME(to.clone())))
    };
    let IpAddr::V4(real) = REAL else {
        unreachable!()
    };
    let good = || {
        reply(&|it| {
            it.add_answer(a(&asked, real));
        })
    };
    let only = |records: &[Record]| {
        vec![reply(&|it| {
            it.add_answers(records.iter().cloned());
        })]
    };
    let (evil, target) = (name("evil.test."), name("target.test."));
    match host(bytes).as_str() {
        "silent" => vec![],
        "ids" => {
            let forged = reply(&|it| {
                it.metadata.id = it.metadata.id.wrapping_add(1);
                it.add_answer(a(&asked, FORGED));
            });
            vec![forged.clone(), forged, vec![], vec![1, 2], good()]
        }
        "question" => {
            let forged = reply(&|it| {
                it.queries[0].set_name(evil.clone());
                it.add_answer(a(&asked, FORGED));
            });
            let none = reply(&|it| it.queries.clear());
            vec![forged, none, good()]
        }
        "other" => only(&[a(&evil, FORGED)]),
        "beside" => only(&[a(&evil, FORGED), a(&asked, real)]),
        "alias" => only(&[alias(&asked, &target), a(&target, real), a(&evil, FORGED)]),
        "ring" => only(&[alias(&asked, &evil), alias(&evil, &asked)]),
        "itself" => only(&[alias(&asked, &asked)]),
        "chain" => only(&[alias(&asked, &name("chain.").append_name(&asked).unwrap())]),
        "additional" => vec![reply(&|it| {
            it.add_answer(a(&evil, FORGED));
            it.additionals.push(a(&asked, real));
        })],
        "class" => {
            let mut record = a(&asked, FORGED);
            record.dns_class = hickory_resolver::proto::rr::DNSClass::CH;
            only(&[record])
        }
        "nothing" => only(&[]),
        "garbage" => vec![[&bytes[..2], &[0xff; 600]].concat()],
        "drip" | "many" | "wordless" | "cut" if !over_tcp => {
            vec![reply(&|it| it.metadata.truncation = true)]
        }
        "cut" => vec![reply(&|it| it.metadata.truncation = true)],
        "wordless" => vec![reply(&|it| {
            it.queries.clear();
            it.add_answer(a(&asked, real));
        })],
        "many" => {
            let nth = |n: usize| Ipv4Addr::from(0x0a00_0000 + u32::try_from(n).unwrap());
            let records: Vec<_> = (0..MANY).map(|n| a(&asked, nth(n))).collect();
            only(&records)
        }
        _ => vec![good()],
    }
}

async fn found(host: &str) -> Result<Vec<IpAddr>, Arc<str>> {
    resolve(&resolver(), host, &DnsSpec::test()).await.0
}

#[tokio::test]
async fn an_answer_is_of_use_for_its_own_name() {
    for host in [
        "good.test",
        "good.test.",
        "GOOD.test",
        "ids.test",
        "question.test",
        "beside.test",
        "alias.test",
    ] {
        let found = timeout(SOON, found(host)).await;
        assert_eq!(found.expect(host).as_deref(), Ok(&[REAL][..]), "{host}");
    }
    let of_no_use = [
        "other",
        "additional",
        "ring",
        "itself",
        "chain",
        "class",
        "nothing",
        "garbage",
        "cut",
        "drip",
    ];
    let lookups = of_no_use.map(|host| async move {
        let host = format!("{host}.test");
        let found = timeout(LONGEST_LOOKUP + SOON, found(&host)).await;
        let error = found.expect(&host).unwrap_err();
        assert!(error.starts_with("cannot resolve "), "{host}: {error}");
        assert!(error.len() < 300, "{host}: {error}");
    });
    futures_util::future::join_all(lookups).await;
    let many = found("many.test").await.unwrap();
    assert_eq!(many.len(), MANY);
}

/// What breaks the library over one name breaks nothing else.
#[tokio::test]
async fn an_answer_without_a_question_is_survived() {
    let _ = timeout(LONGEST_LOOKUP + SOON, found("wordless.test"))
        .await
        .unwrap();
    assert_eq!(found("good.test").await.as_deref(), Ok(&[REAL][..]));
}

#[tokio::test]
async fn silence_has_an_end() {
    let begun = Instant::now();
    let error = found("silent.test").await.unwrap_err();
    assert!(error.contains("silent.test"), "{error}");
    let took = begun.elapsed();
    assert!(took <= LONGEST_LOOKUP + Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_name_of_the_hosts_file_needs_no_search() {
    let mut hosts = Hosts::default();
    let file = "10.0.1.50 app.example.org app\nfd00::1 six.test\n";
    hosts.read_hosts_conf(file.as_bytes()).unwrap();
    let found = |host, kind| from_hosts(&hosts, host, kind).map(|(addresses, _)| addresses);
    let v4: IpAddr = [10, 0, 1, 50].into();
    for host in ["app.example.org", "App.Example.org.", "app"] {
        assert_eq!(found(host, RecordType::A), Some(vec![v4]), "{host}");
    }
    assert_eq!(
        found("six.test", RecordType::AAAA),
        Some(vec!["fd00::1".parse().unwrap()])
    );
    assert_eq!(found("six.test", RecordType::A), None);
    assert_eq!(
        found("app.example.org.svc.cluster.local", RecordType::A),
        None
    );
    assert_eq!(found("not a name..", RecordType::A), None);
}
