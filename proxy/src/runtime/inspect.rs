//! The listener filters: is it TLS, and what does the ClientHello ask for?

use std::future::poll_fn;

use bytes::BytesMut;
use ithildin_tls::{Inspected, PendingTls, inspect};
use tokio::net::TcpStream;

use crate::{config::Listener, io::Socket, worker::Worker};

/// What the listener filters found.
pub(super) enum Opening {
    Tls(PendingTls<Socket>),
    /// Plaintext, or not looked at; with the bytes that were read.
    Plain(Socket, BytesMut),
}

impl Opening {
    pub(super) fn server_name(&self) -> Option<&str> {
        match self {
            Self::Tls(pending) => pending.server_name(),
            Self::Plain(..) => None,
        }
    }

    pub(super) fn alpn(&self) -> &[Vec<u8>] {
        match self {
            Self::Tls(pending) => pending.alpn(),
            Self::Plain(..) => &[],
        }
    }
}

/// The listener filters, within their time.
pub(super) async fn open(
    worker: &Worker,
    listener: &Listener,
    stream: TcpStream,
) -> Option<Opening> {
    let socket = Socket::Tcp(stream);
    if !listener.inspect_tls {
        return Some(Opening::Plain(socket, BytesMut::new()));
    }
    let stats = listener.stats.worker(worker.index);
    stats.downstream_pre_cx_active.inc();
    let opening = inspect_within(worker, listener, socket).await;
    stats.downstream_pre_cx_active.dec();
    opening
}

async fn inspect_within(worker: &Worker, listener: &Listener, socket: Socket) -> Option<Opening> {
    let stats = listener.stats.worker(worker.index);
    let limit = listener.inspect_timeout;
    // A server that speaks first has a client that waits for it: such a socket must come out of
    // this whole, so that the inspection proper begins with the first byte.
    let first_byte = poll_fn(|cx| socket.poll_arrived(cx));
    if limit.is_some() && worker.timers.timeout(limit, first_byte).await.is_none() {
        stats.downstream_pre_cx_timeout.inc();
        let go_on = listener.continue_on_inspect_timeout;
        return go_on.then(|| Opening::Plain(socket, BytesMut::new()));
    }
    let inspection = Box::pin(inspect(socket));
    match worker.timers.timeout(limit, inspection).await {
        Some(Ok(Inspected::Tls(pending))) => Some(Opening::Tls(pending)),
        Some(Ok(Inspected::Plain(socket, read))) => Some(Opening::Plain(socket, read)),
        Some(Err(error)) => {
            stats.downstream_listener_filter_error.inc();
            tracing::debug!(listener = %listener.name, %error, "listener filters failed");
            None
        }
        None => {
            stats.downstream_pre_cx_timeout.inc();
            None
        }
    }
}
