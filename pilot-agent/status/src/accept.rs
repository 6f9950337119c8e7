//! Sockets, and the connections on them.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tracing::{debug, warn};

use crate::{
    connections::{Connections, MAX_CONNECTIONS, Place},
    options::Port,
    proxy_protocol,
    routes::Routes,
};

/// Connections that the kernel holds for us.
const BACKLOG: i32 = 1024;
/// The longest head of a request; the kubelet's have the headers that a probe's owner gave.
const MAX_HEAD: usize = 32 << 10;
/// A client that sends no whole head for so long is hung up on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket for `port` at all addresses of all families that there are.
pub(crate) fn listen(port: u16) -> io::Result<TcpListener> {
    match bind(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into()) {
        // The kernel has no IPv6, or it is switched off.
        Err(error) if is_without_ipv6(&error) => {
            bind(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into())
        }
        bound => bound,
    }
}

fn is_without_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

fn bind(domain: Domain, addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves until the socket fails for good; says how.
pub(crate) async fn serve(listener: TcpListener, port: Port, routes: Arc<Routes>) -> io::Error {
    let connections = Connections::new(MAX_CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let place = connections.enter();
                tokio::spawn(connection(stream, peer, port, Arc::clone(&routes), place));
            }
            Err(error) if is_for_good(&error) => return error,
            Err(error) => {
                warn!(%port, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether the socket itself is at fault, and not a client or a shortage.
fn is_for_good(error: &io::Error) -> bool {
    const EBADF: i32 = 9;
    const ENOTSOCK: i32 = 88;
    error.kind() == io::ErrorKind::InvalidInput
        || matches!(error.raw_os_error(), Some(EBADF | ENOTSOCK))
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    port: Port,
    routes: Arc<Routes>,
    place: Arc<Place>,
) {
    tokio::select! {
        () = requests(stream, peer, port, &routes, &place) => {}
        () = place.evicted() => debug!(%port, %peer, "a connection leaves for a newer one"),
    }
}

async fn requests(
    mut stream: TcpStream,
    peer: SocketAddr,
    port: Port,
    routes: &Arc<Routes>,
    place: &Arc<Place>,
) {
    if routes.has_proxy_header(port) {
        let stripped = timeout(HEAD_TIMEOUT, proxy_protocol::strip(&mut stream));
        let Ok(Ok(())) = stripped.await else {
            debug!(%port, %peer, "a connection has no header of the PROXY protocol");
            return;
        };
    }
    let service = service_fn(|request: Request<Incoming>| {
        let routes = Arc::clone(routes);
        let busy = place.busy();
        async move {
            let response = routes.answer(port, peer, &request).await;
            Ok::<_, Infallible>(response.map(|body| body.keeping(busy)))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        // A client that has said all is still answered.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%port, %peer, %error, "a connection has failed");
    }
}
