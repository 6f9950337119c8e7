//! The TLS connection: a socket and rustls' buffered connection, driven by hand.
//!
//! Invariants: no buffer of ours is held between polls; at most 64 KiB of ciphertext wait for the
//! socket; the end of the stream without `close_notify` is an error and not an end.

mod error;
pub(crate) mod handshake;
mod hello;
mod inspect;
mod session;

use std::{
    io::{self, IoSlice, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{Connection, HandshakeKind};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

pub use error::HandshakeError;
pub use hello::{ClientHello, FirstBytes, MAX_CLIENT_HELLO, Protocols};
pub use inspect::{Inspected, PendingTls, inspect, inspect_from};
use session::{FillError, Plaintext, Session};

use crate::{
    Identity, Peer, Slot,
    context::{Epochs, Shown},
    provider,
};

/// An established TLS connection. Reads take a buffer only when there is something to read:
/// see [`TlsStream::poll_readable`].
#[derive(Debug)]
pub struct TlsStream<S = TcpStream> {
    io: S,
    session: Session,
    peer: Option<Arc<Peer>>,
    shown: Option<Shown>,
    epochs: Epochs,
    closing: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    fn new(
        io: S,
        session: Session,
        peer: Option<Arc<Peer>>,
        shown: Option<Shown>,
        epochs: Epochs,
    ) -> Self {
        Self {
            io,
            session,
            peer,
            shown,
            epochs,
            closing: false,
        }
    }

    /// The verified peer; `None` if it showed no certificate.
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        self.peer.as_ref()
    }

    /// What we showed the peer, or had to show.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.shown.as_ref().map(|shown| &shown.identity)
    }

    /// Where that comes from, and where it is withdrawn.
    pub fn identity_slot(&self) -> Option<&Arc<Slot<Identity>>> {
        self.shown.as_ref().map(|shown| &shown.slot)
    }

    /// Epochs of identity and of validation that the handshake used; compare with the context's.
    pub fn epochs(&self) -> (u64, u64) {
        self.epochs
    }

    /// The negotiated protocol.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.session.connection.alpn_protocol()
    }

    /// The SNI that the client sent; `None` on our own client connections.
    pub fn server_name(&self) -> Option<&str> {
        match &*self.session.connection {
            Connection::Server(server) => server.server_name(),
            Connection::Client(_) => None,
        }
    }

    /// `TLSv1.3` or `TLSv1.2`.
    pub fn version(&self) -> &'static str {
        provider::version_name(self.session.connection.protocol_version())
    }

    /// OpenSSL's name of the cipher suite.
    pub fn cipher(&self) -> &'static str {
        provider::suite_name(self.session.connection.negotiated_cipher_suite())
    }

    /// Its number in IANA's registry.
    pub fn cipher_number(&self) -> Option<u16> {
        let suite = self.session.connection.negotiated_cipher_suite()?;
        Some(suite.suite().into())
    }

    /// BoringSSL's name of the key exchange group.
    pub fn group(&self) -> &'static str {
        provider::group_name(self.session.connection.negotiated_key_exchange_group())
    }

    /// Whether the handshake resumed a session.
    pub fn resumed(&self) -> bool {
        self.session.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// Ready when plaintext can be read, or the stream ended or failed, without holding a buffer
    /// meanwhile.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.session.plaintext() {
                Ok(Plaintext::None) => {}
                // The reader that comes next gets the error.
                Ok(Plaintext::Ready | Plaintext::Closed) | Err(_) => return Poll::Ready(Ok(())),
            }
            ready!(self.poll_fill(cx, &mut ReadBuf::new(&mut [])))?;
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, sink: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match ready!(self.session.poll_fill(&mut self.io, cx, sink)) {
            Ok(_) => Poll::Ready(Ok(())),
            Err(FillError::Io(error)) => Poll::Ready(Err(error)),
            Err(FillError::Tls(error)) => {
                // The alert goes out if the socket takes it now; there is no later.
                let _ = self.session.poll_flush(&mut self.io, cx);
                Poll::Ready(Err(HandshakeError::from(error).into()))
            }
        }
    }

    /// Encrypts by `write`, which yields 0 if there is no room, and sends what the socket takes.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&mut rustls::Writer<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        loop {
            let count = write(&mut self.session.connection.writer())?;
            let flushed = self.session.poll_flush(&mut self.io, cx)?;
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            ready!(flushed);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        loop {
            this.session.drain(buf);
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            if let Plaintext::Closed = this.session.plaintext()? {
                return Poll::Ready(Ok(()));
            }
            let filled = this.poll_fill(cx, buf);
            // What was decrypted before an error comes first; the error stays and comes again.
            if buf.filled().len() == before {
                ready!(filled)?;
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.get_mut().poll_send(cx, |writer| writer.write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        self.get_mut()
            .poll_send(cx, |writer| writer.write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.session.poll_flush(&mut this.io, cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closing {
            this.closing = true;
            this.session.connection.send_close_notify();
        }
        let closed = match this.session.poll_flush(&mut this.io, cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => ready!(Pin::new(&mut this.io).poll_shutdown(cx)),
            Poll::Ready(error) => error,
        };
        Poll::Ready(match closed {
            // A peer that said goodbye first need not wait for ours.
            Err(error) if is_gone(&error) && this.session.peer_has_closed() => Ok(()),
            closed => closed,
        })
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
}

#[cfg(test)]
mod tests;
