//! Whether traffic is redirected, found out by sending some.
//!
//! A connection to 127.0.0.6 on a port where nobody listens arrives at the proxy's port if the rules are in place. It
//! has to be the proxy's user who connects: what others send over loopback is left alone.

use std::{
    io::{self, ErrorKind, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tracing::{debug, info};

use crate::{
    config::{Config, Probe},
    rules::INBOUND_SOURCE_V6,
};

const LISTEN_BACKLOG: i32 = 16;
/// Between attempts; rules of a CNI plugin may come late.
const PAUSE: Duration = Duration::from_millis(100);

/// Traffic is not redirected. The process exits with 126 then, by which Istio's CNI repair knows such Pods.
#[derive(Debug, thiserror::Error)]
pub enum NotRedirected {
    #[error(
        "traffic of this Pod is not redirected to the proxy: a connection to {target} did not arrive at a port of the \
         proxy within {timeout:?}. With Istio CNI this happens when the Pod starts before the node is ready: delete the \
         Pod, or let cni.repair.deletePods do it; without, run istio-iptables without --skip-rule-apply first"
    )]
    Timeout {
        target: SocketAddr,
        timeout: Duration,
    },
    #[error("cannot listen on {address} to check that traffic is redirected: {source}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// Connects until a connection arrives redirected.
pub(crate) fn run(config: &Config, probe: Probe) -> Result<(), NotRedirected> {
    let (local, target) = match probe.ipv6 {
        false => (
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv4Addr::new(127, 0, 0, 6).into(),
        ),
        true => (
            IpAddr::from(Ipv6Addr::LOCALHOST),
            IpAddr::from(INBOUND_SOURCE_V6),
        ),
    };
    let target = SocketAddr::new(target, probe.port);
    let listeners = listen(local, [config.outbound_port, config.inbound_port])?;
    let end = Instant::now() + probe.timeout;
    while Instant::now() < end {
        if let Err(error) = connect(local, target, end) {
            debug!(%error, %target, "no connection");
        }
        for listener in &listeners {
            if arrived(listener, probe) {
                info!(%target, "traffic is redirected");
                return Ok(());
            }
        }
        thread::sleep(PAUSE);
    }
    Err(NotRedirected::Timeout {
        target,
        timeout: probe.timeout,
    })
}

/// Listens on the ports of the proxy; one that is taken does no harm as long as another is free.
fn listen(address: IpAddr, ports: [u16; 2]) -> Result<Vec<Socket>, NotRedirected> {
    let mut listeners = Vec::new();
    let mut refused = None;
    for port in ports {
        let address = SocketAddr::new(address, port);
        match listener(address) {
            Ok(listener) => listeners.push(listener),
            Err(source) => refused = Some(NotRedirected::Listen { address, source }),
        }
    }
    match refused {
        Some(error) if listeners.is_empty() => Err(error),
        _ => Ok(listeners),
    }
}

fn listener(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // The proxy's own listeners may be there.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket)
}

fn connect(local: IpAddr, target: SocketAddr, end: Instant) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    // Chosen by the kernel, the source could be the one that rules leave alone.
    socket.bind(&SocketAddr::new(local, 0).into())?;
    let left = end.saturating_duration_since(Instant::now()).max(PAUSE);
    socket.connect_timeout(&target.into(), left)
}

/// Whether the connection is here that was meant for the probe's port.
fn arrived(listener: &Socket, probe: Probe) -> bool {
    loop {
        let mut connection = match listener.accept() {
            Ok((connection, _)) => connection,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => {
                debug!(%error, "no connection accepted");
                return false;
            }
        };
        let meant = match probe.ipv6 {
            false => connection.original_dst_v4(),
            true => connection.original_dst_v6(),
        };
        let port = meant.ok().and_then(|address| address.as_socket());
        let port = port.map(|address| address.port()).unwrap_or_default();
        // Told to whoever connects, for those who look for a fault.
        let _ = write!(connection, "{port}");
        if port == probe.port {
            return true;
        }
    }
}
