//! Handshakes per second, record throughput, and memory per idle connection: both ends of each
//! connection on one thread, over loopback TCP. For profiles and for ratios between commits.
//!
//! `cargo bench -p ithildin-tls --bench tls [-- handshakes|records|idle]`

#![expect(clippy::unwrap_used, reason = "a benchmark ends where something fails")]

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use ithildin_spiffe::TrustDomain;
use ithildin_tls::{
    ClientAuth, ClientContext, ClientParams, Identity, Inspected, Roots, ServerContext,
    ServerParams, Slot, TlsStream, TlsVersion, Trust, Validation, inspect,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

/// How long each figure is measured. The figures themselves are in processor time, so that a busy
/// machine does not matter much.
const PERIOD: Duration = Duration::from_secs(5);

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` runs benchmarks too, without this.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let only = arguments.iter().find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    if wanted("handshakes") {
        handshakes(&runtime, "full", Kind::Full);
        handshakes(&runtime, "full, chain not remembered", Kind::Unremembered);
        handshakes(&runtime, "resumed", Kind::Resumed);
    }
    if wanted("records") {
        for size in [1024, 16 * 1024, 64 * 1024, 256 * 1024, 1024 * 1024] {
            throughput(&runtime, size, size.max(16 * 1024));
        }
    }
    if wanted("idle") {
        idle(&runtime);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Full,
    /// The trust changes each time, as if each peer were new.
    Unremembered,
    Resumed,
}

fn handshakes(runtime: &Runtime, name: &str, kind: Kind) {
    runtime.block_on(async {
        let (world, listener) = (World::new(), listener().await);
        if kind == Kind::Resumed {
            world.connect(&listener).await;
        }
        let (start, cpu) = (Instant::now(), cpu_time());
        let mut count = 0;
        while start.elapsed() < PERIOD {
            match kind {
                Kind::Full => world.forget_sessions(),
                Kind::Unremembered => world.renew_trust(),
                Kind::Resumed => {}
            }
            let (server, _client) = world.connect(&listener).await;
            assert_eq!(server.resumed(), kind == Kind::Resumed);
            count += 1;
        }
        let each = (cpu_time() - cpu) / count;
        println!(
            "handshake, {name}: {each:.1?} for both ends, {:.0} per CPU-second",
            1.0 / each.as_secs_f64()
        );
    });
}

fn throughput(runtime: &Runtime, write: usize, read: usize) {
    runtime.block_on(async {
        let (world, listener) = (World::new(), listener().await);
        let (mut server, mut client) = world.connect(&listener).await;
        let (start, cpu) = (Instant::now(), cpu_time());
        let sending = async {
            let text = vec![7; write];
            while start.elapsed() < PERIOD {
                client.write_all(&text).await.unwrap();
                client.flush().await.unwrap();
            }
            client.shutdown().await.unwrap();
        };
        let receiving = async {
            let mut buf = vec![0; read];
            let (mut bytes, mut reads) = (0, 0);
            loop {
                match server.read(&mut buf).await.unwrap() {
                    0 => break (bytes, reads),
                    count => bytes += count,
                }
                reads += 1;
            }
        };
        let ((), (bytes, reads)) = tokio::join!(sending, receiving);
        let speed = bytes as f64 / (cpu_time() - cpu).as_secs_f64() / 1e9;
        println!(
            "records, writes of {write}, reads of {read}: {speed:.2} GB per CPU-second through both ends, \
             {} bytes per read",
            bytes / reads
        );
    });
}

fn idle(runtime: &Runtime) {
    const CONNECTIONS: usize = 1000;
    runtime.block_on(async {
        let (world, listener) = (World::new(), listener().await);
        let mut kept = vec![world.connect(&listener).await];
        let before = resident();
        for _ in 0..CONNECTIONS {
            world.forget_sessions();
            kept.push(world.connect(&listener).await);
        }
        let each = (resident() - before) / CONNECTIONS;
        println!(
            "idle: {each} bytes for both ends of a connection, with {} alive",
            kept.len()
        );
    });
}

/// User and system time of this process, in steps of 10 ms (proc(5), `/proc/pid/stat`).
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split(' ').collect();
    let ticks: u64 = fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap();
    Duration::from_millis(10 * ticks)
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    4096 * statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
}

async fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

struct World {
    root: CertificateDer<'static>,
    identity: Arc<Identity>,
    server: ServerContext,
    client: ClientContext,
}

impl World {
    fn new() -> Self {
        let (root, issuer) = root();
        let (server_id, client_id) = (identity(&issuer, "server"), identity(&issuer, "client"));
        let server = ServerParams {
            name: "server".into(),
            alpn: Vec::new(),
            versions: (TlsVersion::Tls13, TlsVersion::Tls13),
            cipher_suites: Vec::new(),
            curves: Vec::new(),
            client_auth: ClientAuth::Required,
            identity: Slot::new(Some(server_id)),
            alternatives: Vec::new(),
            full_scan: false,
            validation: Some(Slot::new(Some(validation(&root)))),
        };
        let client = ClientParams {
            name: "client".into(),
            alpn: Vec::new(),
            versions: (TlsVersion::Tls13, TlsVersion::Tls13),
            cipher_suites: Vec::new(),
            curves: Vec::new(),
            identity: Some(Slot::new(Some(client_id.clone()))),
            validation: Slot::new(Some(validation(&root))),
        };
        Self {
            identity: client_id,
            server: ServerContext::new(server).unwrap(),
            client: ClientContext::new(client).unwrap(),
            root,
        }
    }

    /// Connects and lets a byte through each way, so that tickets arrive.
    async fn connect(&self, listener: &TcpListener) -> (TlsStream, TlsStream) {
        let serving = async {
            let (socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            let Inspected::Tls(pending) = inspect(socket).await.unwrap() else {
                panic!("not tls");
            };
            let mut stream = pending.accept(&self.server).await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_u8(1).await.unwrap();
            stream
        };
        let connecting = async {
            let addr = listener.local_addr().unwrap();
            let socket = TcpStream::connect(addr).await.unwrap();
            socket.set_nodelay(true).unwrap();
            let mut stream = self.client.connect(socket, None, None).await.unwrap();
            stream.write_u8(1).await.unwrap();
            stream.read_u8().await.unwrap();
            stream
        };
        tokio::join!(serving, connecting)
    }

    /// A new epoch of the same identity: sessions go, judged chains stay.
    fn forget_sessions(&self) {
        let slot = self.client.params().identity.as_ref().unwrap();
        slot.store(Some(self.identity.clone()));
    }

    fn renew_trust(&self) {
        let slot = self.server.params().validation.as_ref().unwrap();
        slot.store(Some(validation(&self.root)));
        self.client
            .params()
            .validation
            .store(Some(validation(&self.root)));
    }
}

fn root() -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap().der().clone();
    (der, Issuer::new(params, key))
}

fn identity(issuer: &Issuer<'static, KeyPair>, name: &str) -> Arc<Identity> {
    let mut params = CertificateParams::default();
    let id = format!("spiffe://example.org/ns/default/sa/{name}");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    let der = params.signed_by(&key, issuer).unwrap().der().clone();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Arc::new(Identity::from_der(vec![der], key).unwrap())
}

fn validation(root: &CertificateDer<'static>) -> Arc<Validation> {
    let roots = Roots::from_der(vec![root.clone()], &[]).unwrap();
    let domain = TrustDomain::parse("example.org").unwrap();
    let bundles = BTreeMap::from([(domain, Arc::new(roots))]);
    Arc::new(Validation::new(Trust::Spiffe(bundles)))
}
