//! Bytes inside HTTP: the body of one request and of its response, as a stream in both directions.
//!
//! A proxy that answered CONNECT over HTTP/1 needs none of this: its connection is the stream.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use ithildin_http1::{BodyDecoder, BodyEvent, Framing, encode};
use tokio::io::{AsyncWrite, ReadBuf};

use super::Stream;

/// The most that one write puts into a frame or chunk, in bytes: what a TLS record holds.
const MAX_WRITE: usize = 16 * 1024;

/// One read of the connection below, in bytes.
const READ: usize = 16 * 1024;

/// The two bodies.
pub enum Tunnel {
    /// A stream of an HTTP/2 connection.
    Http2(Http2Tunnel),
    /// Over HTTP/1, where POST takes the place of CONNECT.
    Http1(Http1Tunnel),
}

/// The data of one HTTP/2 stream.
pub struct Http2Tunnel {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Received and not yet read.
    left: Bytes,
}

/// A chunked request and its response.
pub struct Http1Tunnel {
    stream: Stream,
    /// Of the response.
    decoder: BodyDecoder,
    /// Received and not yet decoded.
    ahead: BytesMut,
    /// Decoded and not yet read.
    left: Bytes,
    /// Encoded and not yet sent.
    out: BytesMut,
    is_ended: bool,
}

impl Tunnel {
    pub fn http2(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self::Http2(Http2Tunnel {
            send,
            receive,
            left: Bytes::new(),
        })
    }

    /// `framing` is the response's, of which `ahead` was read already.
    pub fn http1(stream: Stream, framing: Framing, ahead: BytesMut) -> Self {
        Self::Http1(Http1Tunnel {
            stream,
            decoder: BodyDecoder::new(framing),
            ahead,
            left: Bytes::new(),
            out: BytesMut::new(),
            is_ended: false,
        })
    }

    /// What is cut off must not look whole to the peer.
    pub(super) fn reset(&mut self) {
        match self {
            Self::Http2(tunnel) => tunnel.send.send_reset(Reason::CONNECT_ERROR),
            Self::Http1(tunnel) => tunnel.stream.reset_on_close(),
        }
    }

    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Http2(tunnel) => tunnel.poll_readable(cx),
            Self::Http1(tunnel) => tunnel.poll_readable(cx),
        }
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_readable(cx))?;
        let left = match self {
            Self::Http2(tunnel) => &mut tunnel.left,
            Self::Http1(tunnel) => &mut tunnel.left,
        };
        let now = left.split_to(left.len().min(buf.remaining()));
        buf.put_slice(&now);
        if let Self::Http2(tunnel) = self {
            let credit = tunnel.receive.flow_control().release_capacity(now.len());
            credit.map_err(io::Error::other)?;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let data = &data[..data.len().min(MAX_WRITE)];
        match self {
            _ if data.is_empty() => Poll::Ready(Ok(0)),
            Self::Http2(tunnel) => tunnel.poll_write(cx, data),
            Self::Http1(tunnel) => {
                ready!(tunnel.poll_flush(cx))?;
                encode::chunk_start(&mut tunnel.out, data.len());
                tunnel.out.extend_from_slice(data);
                tunnel.out.extend_from_slice(encode::CHUNK_END);
                Poll::Ready(Ok(data.len()))
            }
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Http2(_) => Poll::Ready(Ok(())),
            Self::Http1(tunnel) => tunnel.poll_flush(cx),
        }
    }

    /// Ends the request's body.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Http2(tunnel) => {
                let ended = tunnel.send.send_data(Bytes::new(), true);
                Poll::Ready(ended.map_err(io::Error::other))
            }
            Self::Http1(tunnel) => {
                if !tunnel.is_ended {
                    tunnel.is_ended = true;
                    tunnel.out.extend_from_slice(encode::LAST_CHUNK);
                }
                tunnel.poll_flush(cx)
            }
        }
    }
}

impl Http2Tunnel {
    /// Ready with something left, or with nothing at the end.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.left.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(data)) => self.left = data,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(data.len());
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(capacity) => capacity.map_err(io::Error::other)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let now = data.len().min(self.send.capacity());
        let sent = self
            .send
            .send_data(Bytes::copy_from_slice(&data[..now]), false);
        Poll::Ready(sent.map(|()| now).map_err(io::Error::other))
    }
}

impl Http1Tunnel {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.left.is_empty() {
            match self
                .decoder
                .decode(&mut self.ahead)
                .map_err(io::Error::other)?
            {
                BodyEvent::Data(data) => self.left = data,
                BodyEvent::End(_) => break,
                BodyEvent::NeedMore => {
                    self.ahead.reserve(READ);
                    if ready!(self.stream.poll_read_into(cx, &mut self.ahead))? == 0 {
                        self.decoder.end_of_stream().map_err(io::Error::other)?;
                        break;
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}
