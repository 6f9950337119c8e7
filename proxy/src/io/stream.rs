//! A byte stream of the data path: plaintext or TLS over a socket, or the inside of a tunnel, under
//! the control of its [`Live`] cell.

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{BufMut, BytesMut};
use ithildin_tls::{Peer, TlsStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::{Live, Registration, Socket, Tunnel};

/// A connection that carries bytes.
pub struct Stream {
    transport: Transport,
    registration: Registration,
}

enum Transport {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
    Tunnel(Box<Tunnel>),
}

impl Stream {
    pub fn plain(socket: Socket, registration: Registration) -> Self {
        Self {
            transport: Transport::Plain(socket),
            registration,
        }
    }

    pub fn tls(stream: TlsStream<Socket>, registration: Registration) -> Self {
        Self {
            transport: Transport::Tls(Box::new(stream)),
            registration,
        }
    }

    pub fn tunnel(tunnel: Tunnel, registration: Registration) -> Self {
        Self {
            transport: Transport::Tunnel(Box::new(tunnel)),
            registration,
        }
    }

    /// The cell through which the connection is drained or closed.
    pub fn live(&self) -> &Rc<Live> {
        self.registration.live()
    }

    /// Our address; `None` for a Unix socket and a tunnel.
    pub fn local(&self) -> Option<SocketAddr> {
        self.socket()?.local()
    }

    /// See [`Socket::reset_on_close`]; a tunnel is cut off at once.
    pub fn reset_on_close(&mut self) {
        match &mut self.transport {
            Transport::Plain(socket) => socket.reset_on_close(),
            Transport::Tls(stream) => stream.get_ref().reset_on_close(),
            Transport::Tunnel(tunnel) => tunnel.reset(),
        }
    }

    /// The TLS session, if there is one.
    pub fn session(&self) -> Option<&TlsStream<Socket>> {
        match &self.transport {
            Transport::Plain(_) | Transport::Tunnel(_) => None,
            Transport::Tls(stream) => Some(stream),
        }
    }

    /// The verified peer, if there is one.
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        self.session().and_then(TlsStream::peer)
    }

    /// Resolves when a read is worth a try, without holding a buffer meanwhile. It may be wrong:
    /// who then finds nothing gives its buffer back and waits anew.
    pub async fn readable(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// See [`readable`](Self::readable).
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.live().check()?;
        let ready = match &mut self.transport {
            Transport::Plain(socket) => socket.poll_readable(cx),
            Transport::Tls(stream) => stream.poll_readable(cx),
            Transport::Tunnel(tunnel) => tunnel.poll_readable(cx),
        };
        self.pending(cx, ready)
    }

    /// Reads once into the spare capacity of `buffer`; 0 is the end of the stream.
    pub async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read_into(cx, buffer)).await
    }

    /// See [`read`](Self::read). The caller reserves: a full buffer grows by little.
    pub fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        pin!(self.read_buf(buffer)).poll(cx)
    }

    /// Reads once, at most `limit` bytes.
    pub fn poll_read_limited(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let mut limited = buffer.limit(limit);
        pin!(self.read_buf(&mut limited)).poll(cx)
    }

    /// Whether an idle connection can be used again: the peer neither closed it nor sent anything.
    /// Costs no system call when the reactor saw nothing.
    pub fn is_reusable(&mut self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        if self.live().is_draining() {
            return false;
        }
        let is_silent = match &mut self.transport {
            // The reactor may remember readiness of bytes that were read since.
            Transport::Plain(socket) => socket.poll_arrived(cx).is_pending(),
            Transport::Tls(stream) => stream.poll_readable(cx).is_pending(),
            Transport::Tunnel(_) => return false,
        };
        if !is_silent {
            self.live().end_by_peer();
        }
        is_silent
    }

    fn socket(&self) -> Option<&Socket> {
        match &self.transport {
            Transport::Plain(socket) => Some(socket),
            Transport::Tls(stream) => Some(stream.get_ref()),
            Transport::Tunnel(_) => None,
        }
    }

    /// Counts what a write took.
    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(Ok(count)) => self.live().sent(*count),
            Poll::Ready(Err(_)) => self.live().end_by_peer(),
            Poll::Pending => {}
        }
    }

    /// A pending operation wakes when the connection is closed from outside, too.
    fn pending<T>(&self, cx: &Context<'_>, poll: Poll<T>) -> Poll<T> {
        if poll.is_pending() {
            self.live().register(cx);
        }
        poll
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.live().check()?;
        let before = buf.filled().len();
        let is_full = buf.remaining() == 0;
        let read = match &mut this.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
            Transport::Tunnel(tunnel) => tunnel.poll_read(cx, buf),
        };
        match &read {
            Poll::Ready(Ok(())) => match buf.filled().len() - before {
                0 if !is_full => this.live().end_by_peer(),
                count => this.live().received(count),
            },
            Poll::Ready(Err(_)) => this.live().end_by_peer(),
            Poll::Pending => {}
        }
        this.pending(cx, read)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.live().check()?;
        let written = match &mut this.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
            Transport::Tunnel(tunnel) => tunnel.poll_write(cx, buf),
        };
        this.wrote(&written);
        this.pending(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.live().check()?;
        let written = match &mut this.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, bufs),
            Transport::Tunnel(tunnel) => {
                let first = bufs.iter().find(|part| !part.is_empty());
                tunnel.poll_write(cx, first.map_or(&[], |part| part))
            }
        };
        this.wrote(&written);
        this.pending(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(socket) => socket.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
            Transport::Tunnel(_) => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.live().check()?;
        let flushed = match &mut this.transport {
            Transport::Plain(_) => Poll::Ready(Ok(())),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            Transport::Tunnel(tunnel) => tunnel.poll_flush(cx),
        };
        this.pending(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.live().end_by_us();
        let shut = match &mut this.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            Transport::Tunnel(tunnel) => tunnel.poll_shutdown(cx),
        };
        this.pending(cx, shut)
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("tls", &self.session().is_some())
            .field("local", &self.local())
            .finish()
    }
}
