//! Where a body goes.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use h2::SendStream;
use ithildin_http1::{Framing, encode};

use crate::http::{headers::Headers, wire::Wire};

/// What writes a body.
pub(in crate::http) enum Sink<'a, 'w> {
    Wire {
        wire: &'a Wire<'w>,
        framing: Framing,
        /// The message's head until its first part takes it along.
        head: Bytes,
        trailers: bool,
        /// Whether the peer says nothing meanwhile, so that its end may be looked for.
        watched: bool,
    },
    Http2(SendStream<Bytes>),
    /// As it is, and its end is the end of our direction.
    Raw(&'a Wire<'w>),
    /// The head said that there is no body.
    Done,
}

impl Sink<'_, '_> {
    /// Whether the peer went away while there is nothing to send.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Wire {
                wire,
                watched: true,
                ..
            } => wire.poll_closed(cx),
            Self::Http2(stream) => stream.poll_reset(cx).map(|_| ()),
            Self::Wire { .. } | Self::Raw(_) | Self::Done => Poll::Pending,
        }
    }

    /// Sends what waits for a first part that does not come.
    pub(in crate::http) async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Wire { wire, head, .. } if !head.is_empty() => {
                wire.write(&mut [std::mem::take(head)]).await
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn data(&mut self, data: Bytes, last: bool) -> io::Result<()> {
        match self {
            Self::Wire {
                wire,
                framing: Framing::Chunked,
                head,
                ..
            } => {
                let mut start = BytesMut::with_capacity(18);
                encode::chunk_start(&mut start, data.len());
                let end = if last {
                    &b"\r\n0\r\n\r\n"[..]
                } else {
                    encode::CHUNK_END
                };
                let head = std::mem::take(head);
                wire.write(&mut [head, start.freeze(), data, Bytes::from_static(end)])
                    .await
            }
            Self::Wire { wire, head, .. } => wire.write(&mut [std::mem::take(head), data]).await,
            Self::Http2(stream) => send_data(stream, data, last).await,
            Self::Raw(wire) => {
                wire.write(&mut [data]).await?;
                match last {
                    true => wire.shutdown().await,
                    false => Ok(()),
                }
            }
            Self::Done => Ok(()),
        }
    }

    pub(super) async fn end(&mut self, ending: Headers) -> io::Result<()> {
        match self {
            Self::Wire {
                wire,
                framing: Framing::Chunked,
                head,
                trailers,
                ..
            } => {
                let mut end = BytesMut::new();
                let send = *trailers;
                let fields = ending.iter().filter(|_| send);
                encode::trailers(&mut end, fields.map(|f| (f.name.as_bytes(), &f.value[..])));
                wire.write(&mut [std::mem::take(head), end.freeze()]).await
            }
            Self::Wire { .. } => self.flush().await,
            Self::Http2(stream) if ending.is_empty() => stream
                .send_data(Bytes::new(), true)
                .map_err(io::Error::other),
            Self::Http2(stream) => stream
                .send_trailers(ending.into_map())
                .map_err(io::Error::other),
            Self::Raw(wire) => wire.shutdown().await,
            Self::Done => Ok(()),
        }
    }
}

/// Sends as the peer's flow control allows.
async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes, last: bool) -> io::Result<()> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        if stream.capacity() == 0 {
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(capacity) => capacity.map_err(io::Error::other)?,
                None => return Err(io::ErrorKind::BrokenPipe.into()),
            };
        }
        let now = data.split_to(stream.capacity().min(data.len()));
        let end = last && data.is_empty();
        stream.send_data(now, end).map_err(io::Error::other)?;
    }
    Ok(())
}
