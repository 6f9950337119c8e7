//! The TLS connection: a socket and rustls' buffered connection, driven by hand.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use bytes::BytesMut;
use ithildin_spiffe::SpiffeId;
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{Refusal, ServerContext};

/// The verified peer.
#[derive(Debug)]
pub struct Peer {
    /// Leaf first, as presented.
    pub chain: Vec<CertificateDer<'static>>,
    pub id: Option<SpiffeId>,
    /// Of the leaf.
    pub not_after: SystemTime,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// We refused the peer.
    #[error("{0}")]
    Refused(Refusal),
    /// The peer refused us; the text names its alert.
    #[error("the peer sent the alert {0}")]
    Alert(String),
    /// We have no identity or no trust material.
    #[error("{0}")]
    NotReady(String),
    #[error("tls protocol error: {0}")]
    Protocol(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// What a connection turned out to be.
pub enum Inspected<S = TcpStream> {
    Tls(PendingTls<S>),
    /// Not TLS: the bytes read so far come before what `S` still holds.
    Plain(S, BytesMut),
}

/// A connection whose ClientHello has been read, and nothing answered yet.
pub struct PendingTls<S = TcpStream> {
    _io: S,
}

/// Reads until it is clear whether the peer speaks TLS, and if so its whole ClientHello, over any
/// number of packets.
pub async fn inspect<S: AsyncRead + AsyncWrite + Unpin>(_io: S) -> io::Result<Inspected<S>> {
    todo!()
}

impl<S: AsyncRead + AsyncWrite + Unpin> PendingTls<S> {
    /// SNI, lower-case.
    pub fn server_name(&self) -> Option<&str> {
        todo!()
    }

    /// The offered protocols in order.
    pub fn alpn(&self) -> &[Vec<u8>] {
        todo!()
    }

    /// Gives up on terminating: the socket and the bytes that were read from it.
    pub fn into_raw(self) -> (S, BytesMut) {
        todo!()
    }

    /// Finishes the handshake. On refusal the alert is flushed before this returns.
    pub async fn accept(self, _context: &ServerContext) -> Result<TlsStream<S>, HandshakeError> {
        todo!()
    }
}

/// An established TLS connection. Reads take a buffer only when there is something to read:
/// see [`TlsStream::poll_readable`].
pub struct TlsStream<S = TcpStream> {
    io: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        todo!()
    }

    pub fn alpn(&self) -> Option<&[u8]> {
        todo!()
    }

    pub fn server_name(&self) -> Option<&str> {
        todo!()
    }

    /// `TLSv1.3` or `TLSv1.2`.
    pub fn version(&self) -> &'static str {
        todo!()
    }

    /// OpenSSL's name of the cipher suite.
    pub fn cipher(&self) -> &'static str {
        todo!()
    }

    pub fn resumed(&self) -> bool {
        todo!()
    }

    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// Ready when plaintext can be read, or the stream ended, without holding a buffer meanwhile.
    pub fn poll_readable(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        todo!()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        todo!()
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        todo!()
    }
}
