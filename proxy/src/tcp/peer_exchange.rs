//! Metadata exchange around one TCP session: the peer's frame is taken off before its bytes go on.

use std::{
    future::poll_fn,
    io,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use crate::{
    io::Stream,
    istio::{Hello, PeerExchange, Workload},
    worker::Downstream,
};

/// One read; a frame is rarely longer.
const READ: usize = 4096;

/// Greets a client whose bytes are for whoever follows, and takes its greeting off.
pub(crate) async fn greet_client(downstream: &mut Downstream) -> io::Result<()> {
    let exchange = downstream.connection.chain.peer_exchange.as_ref();
    let stream = &mut downstream.stream;
    let read_ahead = std::mem::take(&mut downstream.read_ahead);
    let mut greeting = Greeting::begin(exchange, stream, read_ahead).await?;
    poll_fn(|cx| greeting.poll(cx, stream)).await?;
    downstream.read_ahead = greeting.read_ahead;
    Ok(())
}

/// What comes from one side before its bytes.
pub(super) struct Greeting {
    /// `None`: nothing does, or it is over.
    exchange: Option<Arc<PeerExchange>>,
    /// What was read and is for the other side.
    pub(super) read_ahead: BytesMut,
    peer: Option<Arc<Workload>>,
}

impl Greeting {
    /// Sends our frame where both sides have agreed on it.
    pub(super) async fn begin(
        exchange: Option<&Arc<PeerExchange>>,
        stream: &mut Stream,
        read_ahead: BytesMut,
    ) -> io::Result<Self> {
        let alpn = stream.session().and_then(|tls| tls.alpn());
        let exchange = exchange.filter(|it| alpn == Some(&*it.protocol)).cloned();
        if let Some(exchange) = &exchange {
            stream.write_all(&exchange.frame).await?;
            stream.flush().await?;
        }
        Ok(Self {
            exchange,
            read_ahead,
            peer: None,
        })
    }

    /// Who the peer is, as it tells; `None` while it may yet tell.
    pub(super) fn peer(&self) -> Option<&Option<Arc<Workload>>> {
        self.exchange.is_none().then_some(&self.peer)
    }

    /// Reads the peer's frame; ready when there is nothing more to wait for.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<io::Result<()>> {
        while let Some(exchange) = &self.exchange {
            let hello = match self.read_ahead.is_empty() {
                true => Hello::Unfinished,
                false => exchange.read(&mut self.read_ahead),
            };
            match hello {
                Hello::Unfinished => {
                    self.read_ahead.reserve(READ);
                    // A peer that ends here has said all that it has to say.
                    if ready!(stream.poll_read_into(cx, &mut self.read_ahead))? == 0 {
                        self.exchange = None;
                    }
                }
                Hello::Absent => self.exchange = None,
                Hello::Peer(peer) => {
                    self.peer = peer.map(|peer| Arc::new(*peer));
                    self.exchange = None;
                }
                Hello::TooLong => {
                    let message = "the frame of its metadata exchange is too long";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, message)));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
