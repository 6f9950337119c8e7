//! A connected socket: TCP or Unix.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// A connected stream socket.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Our address; `None` for a Unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Ready when bytes can be read, or the peer closed, or the connection broke. Costs no system
    /// call, and takes no buffer.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_read_ready(cx),
            Self::Unix(socket) => socket.poll_read_ready(cx),
        }
    }

    /// Whether the peer has sent something, or gone, as far as the reactor knows. Costs no system
    /// call while the reactor saw nothing.
    pub fn is_quiet(&self, cx: &mut Context<'_>) -> bool {
        if self.poll_readable(cx).is_pending() {
            return true;
        }
        // The reactor may hold readiness of bytes that were read since: ask the kernel.
        let mut byte = [0u8];
        match self {
            Self::Tcp(socket) => would_block(ready_peek(socket, cx, &mut byte)),
            // A Unix socket has no peek in tokio; a read that finds nothing clears readiness.
            Self::Unix(socket) => would_block(socket.try_io(Interest::READABLE, || {
                socket2::SockRef::from(socket)
                    .peek(&mut [std::mem::MaybeUninit::uninit()])
                    .map(|_| ())
            })),
        }
    }
}

fn ready_peek(socket: &TcpStream, cx: &mut Context<'_>, byte: &mut [u8]) -> io::Result<()> {
    match socket.poll_peek(cx, &mut ReadBuf::new(byte)) {
        Poll::Ready(result) => result.map(|_| ()),
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

fn would_block(result: io::Result<()>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
