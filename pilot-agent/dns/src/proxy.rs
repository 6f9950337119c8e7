//! The proxy from start to end.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use ithildin_panics::essential;
use ithildin_proto::nds::NameTable;
use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
    task::JoinSet,
};
use tracing::{info, warn};

use crate::{
    resolv_conf::ResolvConf,
    service::{Service, Status},
    table::{Place, Table},
    tcp, udp,
    upstream::Upstream,
};

/// Both addresses of it, as far as the host has them.
const LOCALHOST: &str = "localhost";
/// Room for the queries that come while one push is compiled.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

#[derive(Clone, Debug)]
pub struct Options {
    /// An address or `localhost`.
    pub host: String,
    pub port: u16,
    /// The workload's namespace, and the domain of its node as `default.svc.cluster.local`: they
    /// decide which short names there are.
    pub namespace: String,
    pub domain: String,
    /// Whom to ask for what the table does not know. Those that are ourselves are left out.
    pub resolver: ResolvConf,
    /// Ask all servers at once, else one after the other in random order.
    pub parallel: bool,
    /// How long each server may take.
    pub timeout: Duration,
    /// Before the first table, forward all questions. Otherwise they fail, so that no client takes
    /// a name of the mesh for unknown.
    pub forward_before_table: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0:?} is neither an address nor localhost; the DNS proxy listens on one of these")]
    Host(String),
    #[error("cannot listen on {address} over {transport}: {source}")]
    Bind {
        address: SocketAddr,
        transport: &'static str,
        source: io::Error,
    },
    #[error("no loopback address to listen on")]
    NoLoopback,
}

/// A running proxy; dropped, it ends.
#[derive(Debug)]
pub struct DnsProxy {
    addresses: Vec<SocketAddr>,
    service: Arc<Service>,
    _tasks: JoinSet<()>,
}

impl DnsProxy {
    /// Listens over UDP and TCP and follows `table`. The last table is kept when its sender goes.
    ///
    /// # Errors
    /// What keeps it from listening.
    pub fn start(
        options: Options,
        table: watch::Receiver<Option<Arc<NameTable>>>,
    ) -> Result<Self, StartError> {
        let sockets = bind(&options)?;
        let addresses: Vec<_> = sockets.iter().map(|sockets| sockets.address).collect();
        let servers = upstreams(&options.resolver.servers, &addresses);
        info!(
            ?addresses,
            ?servers,
            search = options.resolver.search,
            "the DNS proxy listens"
        );
        let service = Arc::new(Service {
            table: ArcSwapOption::empty(),
            upstream: Upstream::new(servers, options.parallel, options.timeout),
            forward_before_table: options.forward_before_table,
            requests: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        for sockets in sockets {
            let udp = udp::serve(sockets.udp, Arc::clone(&service));
            tasks.spawn(essential("DNS over UDP", udp));
            let tcp = tcp::serve(sockets.tcp, Arc::clone(&service));
            tasks.spawn(essential("DNS over TCP", tcp));
        }
        let place = Place {
            namespace: options.namespace,
            domain: options.domain,
            search: options.resolver.search,
        };
        let following = follow(table, place, Arc::clone(&service));
        tasks.spawn(essential("names of the mesh", following));
        Ok(Self {
            addresses,
            service,
            _tasks: tasks,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn status(&self) -> Status {
        Status(Arc::clone(&self.service))
    }
}

/// Compiles each table that comes, beside the runtime's threads: a large one takes a while.
async fn follow(
    mut tables: watch::Receiver<Option<Arc<NameTable>>>,
    place: Place,
    service: Arc<Service>,
) {
    loop {
        let source = tables.borrow_and_update().clone();
        if let Some(source) = source {
            let place = place.clone();
            let compiled = tokio::task::spawn_blocking(move || Table::new(source, &place)).await;
            match compiled {
                Ok(table) => service.table.store(Some(Arc::new(table))),
                Err(error) => warn!(%error, "a table of names is not taken; the last one stays"),
            }
        }
        if tables.changed().await.is_err() {
            return;
        }
    }
}

struct Sockets {
    address: SocketAddr,
    udp: UdpSocket,
    tcp: TcpListener,
}

fn bind(options: &Options) -> Result<Vec<Sockets>, StartError> {
    if options.host != LOCALHOST {
        let ip: IpAddr = options
            .host
            .parse()
            .map_err(|_| StartError::Host(options.host.clone()))?;
        return Ok(vec![Sockets::bind(SocketAddr::new(ip, options.port))?]);
    }
    let mut bound = Vec::new();
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        match Sockets::bind(SocketAddr::new(ip, options.port)) {
            Ok(sockets) => bound.push(sockets),
            Err(StartError::Bind { source, .. }) if is_without(&source) => {}
            Err(error) => return Err(error),
        }
    }
    match bound.is_empty() {
        true => Err(StartError::NoLoopback),
        false => Ok(bound),
    }
}

/// Whether the host has no address of this family.
fn is_without(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

impl Sockets {
    fn bind(address: SocketAddr) -> Result<Self, StartError> {
        let error = |transport| {
            move |source| StartError::Bind {
                address,
                transport,
                source,
            }
        };
        Ok(Self {
            address,
            udp: bind_udp(address).map_err(error("UDP"))?,
            tcp: bind_tcp(address).map_err(error("TCP"))?,
        })
    }
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    // As much as the kernel allows.
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The servers without ourselves, whom we would ask for ever.
fn upstreams(servers: &[SocketAddr], own: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_own = |server: &SocketAddr| {
        let reaches = |address: &SocketAddr| {
            let ip = address.ip();
            let any_of_ours = ip.is_unspecified() && server.ip().is_loopback();
            address.port() == server.port()
                && (ip == server.ip() || any_of_ours || server.ip().is_unspecified())
        };
        own.iter().any(reaches)
    };
    let (own, others): (Vec<_>, Vec<_>) = servers.iter().copied().partition(is_own);
    if !own.is_empty() {
        warn!(servers = ?own, "name servers that are this proxy itself are not asked");
    }
    if others.is_empty() {
        warn!("there is no name server to ask for names outside of the mesh");
    }
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_asks_itself() {
        let parse = |list: &[&str]| -> Vec<SocketAddr> {
            list.iter()
                .map(|address| address.parse().unwrap())
                .collect()
        };
        let servers = parse(&["127.0.0.1:53", "10.96.0.10:53", "0.0.0.0:53", "[::1]:53"]);
        let others = |own: &[&str]| upstreams(&servers, &parse(own));
        assert_eq!(others(&["127.0.0.1:15053", "[::1]:15053"]), servers);
        assert_eq!(
            others(&["127.0.0.1:53"]),
            parse(&["10.96.0.10:53", "[::1]:53"])
        );
        assert_eq!(
            others(&["127.0.0.1:53", "[::1]:53"]),
            parse(&["10.96.0.10:53"])
        );
        assert_eq!(others(&["[::]:53"]), parse(&["10.96.0.10:53"]));
    }
}
