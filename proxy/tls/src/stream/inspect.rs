//! Finding out whether a peer speaks TLS, and what it asks for, before anything is answered.

use std::{future::poll_fn, io, pin::Pin, task::ready};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{
    ClientHello, FirstBytes, Protocols, TlsStream, handshake, hello::MAX_CLIENT_HELLO,
    session::with_scratch,
};
use crate::{HandshakeError, ServerContext};

/// What a connection turned out to be.
#[derive(Debug)]
pub enum Inspected<S = TcpStream> {
    Tls(PendingTls<S>),
    /// Not TLS: the bytes read so far come before what `S` still holds. Empty if the peer closed
    /// without a word.
    Plain(S, BytesMut),
}

/// A connection whose ClientHello has been read, and nothing answered yet.
#[derive(Debug)]
pub struct PendingTls<S = TcpStream> {
    pub(super) io: S,
    /// All that was read.
    pub(super) raw: BytesMut,
    pub(super) hello: ClientHello,
}

/// Reads until it is clear whether the peer speaks TLS, and if so its whole ClientHello, over any
/// number of packets. The caller bounds the time.
///
/// # Errors
/// `InvalidData` for a ClientHello that is too large, `UnexpectedEof` for half a one, and those of
/// the socket.
pub async fn inspect<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> io::Result<Inspected<S>> {
    inspect_from(io, BytesMut::new()).await
}

/// As [`inspect`], where `raw` was read from `io` before.
///
/// # Errors
/// See [`inspect`].
pub async fn inspect_from<S: AsyncRead + AsyncWrite + Unpin>(
    mut io: S,
    mut raw: BytesMut,
) -> io::Result<Inspected<S>> {
    loop {
        match ClientHello::read(&raw) {
            FirstBytes::Other => return Ok(Inspected::Plain(io, raw)),
            FirstBytes::Tls(hello) => return Ok(Inspected::Tls(PendingTls { io, raw, hello })),
            FirstBytes::Incomplete if raw.len() > MAX_CLIENT_HELLO => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the peer's ClientHello is longer than 16 KiB",
                ));
            }
            FirstBytes::Incomplete => {}
        }
        if read_some(&mut io, &mut raw).await? == 0 {
            if raw.is_empty() {
                return Ok(Inspected::Plain(io, raw));
            }
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the peer closed in the middle of its ClientHello",
            ));
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> PendingTls<S> {
    /// `raw` is all that was read from `io`, and `hello` what it says. Bytes that are no TLS may
    /// come with an empty one: the handshake then fails with the alert that is due.
    pub fn new(io: S, raw: BytesMut, hello: ClientHello) -> Self {
        Self { io, raw, hello }
    }

    /// See [`ClientHello::server_name`].
    pub fn server_name(&self) -> Option<&str> {
        self.hello.server_name()
    }

    /// See [`ClientHello::alpn`].
    pub fn alpn(&self) -> Protocols<'_> {
        self.hello.alpn()
    }

    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// Gives up on terminating: the socket and the bytes that were read from it.
    pub fn into_raw(self) -> (S, BytesMut) {
        (self.io, self.raw)
    }

    /// Finishes the handshake. On refusal the alert is flushed before this returns.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn accept(self, context: &ServerContext) -> Result<TlsStream<S>, HandshakeError> {
        // Boxed: a handshake's future is large, and most of a connection's life comes after it.
        Box::pin(handshake::accept(self, context)).await
    }
}

async fn read_some<S: AsyncRead + Unpin>(io: &mut S, raw: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|cx| {
        with_scratch(MAX_CLIENT_HELLO, |scratch| {
            ready!(Pin::new(&mut *io).poll_read(cx, scratch))?;
            raw.extend_from_slice(scratch.filled());
            std::task::Poll::Ready(Ok(scratch.filled().len()))
        })
    })
    .await
}
