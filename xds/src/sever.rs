//! Connections that end when their server does: discovery streams have no end of their own. They
//! end too if the peer does not begin, since HTTP/2's own signs of life start only then.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, watch},
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;

/// How long a peer may take for its first words.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// The first words: the preface, and the head of the SETTINGS frame (RFC 9113, section 3.4).
const OPENING_BYTES: usize = 24 + 9;

/// A connection whose peer seems to hang up once the sender of `cut` is gone.
pub(crate) struct Severable<S> {
    io: S,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Until the peer has said its first words.
    opening: Option<Opening>,
    _place: OwnedSemaphorePermit,
}

struct Opening {
    heard: usize,
    deadline: Pin<Box<Sleep>>,
}

impl<S> Severable<S> {
    /// The connection gives `place` back when it ends.
    pub(crate) fn new(io: S, mut cut: watch::Receiver<()>, place: OwnedSemaphorePermit) -> Self {
        let cut = async move { while cut.changed().await.is_ok() {} };
        Self {
            io,
            cut: Box::pin(cut),
            opening: Some(Opening {
                heard: 0,
                deadline: Box::pin(sleep(OPENING_TIMEOUT)),
            }),
            _place: place,
        }
    }

    /// Whether the connection is to end now.
    fn poll_end(&mut self, context: &mut Context<'_>) -> bool {
        if self.cut.as_mut().poll(context).is_ready() {
            // The future is spent: another one that is ready at once takes its place.
            self.cut = Box::pin(std::future::ready(()));
            return true;
        }
        let opening = self.opening.as_mut();
        opening.is_some_and(|opening| opening.deadline.as_mut().poll(context).is_ready())
    }

    fn hear(&mut self, count: usize) {
        if let Some(opening) = &mut self.opening {
            opening.heard += count;
            if opening.heard >= OPENING_BYTES {
                self.opening = None;
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Severable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.poll_end(context) {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        self.hear(buffer.filled().len() - before);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Severable<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<S: Connected> Connected for Severable<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}
