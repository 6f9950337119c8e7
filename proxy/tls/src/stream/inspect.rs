//! Finding out whether a peer speaks TLS, and what it asks for, before anything is answered.

use std::{future::poll_fn, io, pin::Pin, task::ready};

use bytes::BytesMut;
use rustls::server::{Accepted, Acceptor};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::{TlsStream, handshake, session::with_scratch};
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
    pub(super) hello: Box<Hello>,
}

#[derive(Debug)]
pub(super) struct Hello {
    pub(super) accepted: Accepted,
    server_name: Option<String>,
    pub(super) alpn: Vec<Vec<u8>>,
    /// How much of the raw bytes rustls has taken.
    pub(super) taken: usize,
}

/// The largest ClientHello that is read, in bytes; Envoy's limit. Post-quantum ones take 1.5 KB.
const MAX_CLIENT_HELLO: usize = 16 * 1024;

/// Reads until it is clear whether the peer speaks TLS, and if so its whole ClientHello, over any
/// number of packets. The caller bounds the time.
///
/// # Errors
/// `InvalidData` for a ClientHello that is malformed or too large, `UnexpectedEof` for half a one,
/// and those of the socket.
pub async fn inspect<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> io::Result<Inspected<S>> {
    // Boxed: it holds rustls' state while it waits, and a connection's future should not.
    Box::pin(inspect_inner(io)).await
}

async fn inspect_inner<S: AsyncRead + AsyncWrite + Unpin>(mut io: S) -> io::Result<Inspected<S>> {
    let mut raw = BytesMut::new();
    let mut acceptor = Acceptor::default();
    let mut taken = 0;
    loop {
        if read_some(&mut io, &mut raw).await? == 0 {
            if raw.is_empty() {
                return Ok(Inspected::Plain(io, raw));
            }
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the peer closed in the middle of its ClientHello",
            ));
        }
        if !may_be_client_hello(&raw) {
            return Ok(Inspected::Plain(io, raw));
        }
        while taken < raw.len() {
            taken += acceptor.read_tls(&mut &raw[taken..])?;
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = Box::new(Hello::new(accepted, taken));
                    return Ok(Inspected::Tls(PendingTls { io, raw, hello }));
                }
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    alert.write_all(&mut bytes)?;
                    // The peer may be gone; what matters is the first error.
                    let _ = io.write_all(&bytes).await;
                    let _ = io.flush().await;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
        if raw.len() > MAX_CLIENT_HELLO {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the peer's ClientHello is longer than 16 KiB",
            ));
        }
    }
}

impl Hello {
    fn new(accepted: Accepted, taken: usize) -> Self {
        let hello = accepted.client_hello();
        let server_name = hello.server_name().map(str::to_owned);
        let alpn = hello
            .alpn()
            .into_iter()
            .flatten()
            .map(<[u8]>::to_vec)
            .collect();
        Self {
            accepted,
            server_name,
            alpn,
            taken,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> PendingTls<S> {
    /// SNI, lower-case.
    pub fn server_name(&self) -> Option<&str> {
        self.hello.server_name.as_deref()
    }

    /// The offered protocols in order.
    pub fn alpn(&self) -> &[Vec<u8>] {
        &self.hello.alpn
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

/// Whether these first bytes can be those of a handshake record with a ClientHello in it.
fn may_be_client_hello(raw: &[u8]) -> bool {
    const HANDSHAKE: u8 = 22;
    const VERSION_MAJOR: u8 = 3;
    const CLIENT_HELLO: u8 = 1;
    [(0, HANDSHAKE), (1, VERSION_MAJOR), (5, CLIENT_HELLO)]
        .into_iter()
        .all(|(index, expected)| raw.get(index).is_none_or(|byte| *byte == expected))
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
