//! Connections as they come to a socket. A failed accept is not the end of the socket, and neither
//! peers that say nothing nor their number may exhaust us.

use std::{io, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::sleep,
};
use tonic::transport::server::Connected;
use tracing::warn;

use crate::sever::Severable;

/// Connections at a time on one socket; further ones wait in the kernel. A node has a few hundred
/// workloads, and an Envoy needs one connection.
const MAX_CONNECTIONS: usize = 1024;
/// Pause after a failed accept, such as for want of file descriptors: it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket of either kind.
pub(crate) trait Listener: Send + 'static {
    type Io: AsyncRead + AsyncWrite + Connected + Send + Unpin + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

impl Listener for UnixListener {
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

/// The connections of `listener`, for ever; they are cut when the sender of `cut` is gone.
pub(crate) fn connections<L: Listener>(
    listener: L,
    cut: watch::Receiver<()>,
) -> impl Stream<Item = io::Result<Severable<L::Io>>> {
    let accepting = Accepting {
        listener,
        cut,
        places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        failing: false,
    };
    stream::unfold(accepting, |mut accepting| async move {
        let connection = accepting.next().await;
        Some((Ok(connection), accepting))
    })
}

struct Accepting<L> {
    listener: L,
    cut: watch::Receiver<()>,
    places: Arc<Semaphore>,
    /// Whether the last accept failed: one line tells of many failures in a row.
    failing: bool,
}

impl<L: Listener> Accepting<L> {
    async fn next(&mut self) -> Severable<L::Io> {
        let place = self.place().await;
        loop {
            match self.listener.accept().await {
                Ok(io) => {
                    self.failing = false;
                    return Severable::new(io, self.cut.clone(), place);
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        warn!(%error, "cannot accept connections; trying again and again");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn place(&self) -> OwnedSemaphorePermit {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return place;
        }
        warn!(
            limit = MAX_CONNECTIONS,
            "there are as many connections as are served at a time; further ones wait"
        );
        let place = Arc::clone(&self.places).acquire_owned().await;
        place.expect("the semaphore is never closed")
    }
}
