//! An HTTP/1 connection, downstream or upstream: a stream and the bytes read ahead of need.
//!
//! A message is read while another is written, so the stream is borrowed only inside a poll.

use std::{
    cell::{Cell, RefCell, RefMut},
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use ithildin_http1::{BodyDecoder, BodyEvent, ParseError};
use tokio::io::AsyncWrite;

use crate::io::{BufferPool, Stream};

/// Read at least this much at once, in bytes: one TLS record.
const READ_SIZE: usize = 16 * 1024;

/// What went wrong on one side.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] ParseError),
}

pub(super) struct Wire<'w> {
    stream: RefCell<&'w mut Stream>,
    buffer: RefCell<BytesMut>,
    buffers: &'w BufferPool,
    read: Cell<u64>,
    written: Cell<u64>,
    is_reset: Cell<bool>,
}

impl<'w> Wire<'w> {
    pub(super) fn new(
        stream: &'w mut Stream,
        read_ahead: BytesMut,
        buffers: &'w BufferPool,
    ) -> Self {
        let read = Cell::new(read_ahead.len() as u64);
        Self {
            stream: RefCell::new(stream),
            buffer: RefCell::new(read_ahead),
            buffers,
            read,
            written: Cell::new(0),
            is_reset: Cell::new(false),
        }
    }

    /// Bytes taken from the peer so far, without those read ahead of need, and bytes sent to it.
    pub(super) fn passed(&self) -> (u64, u64) {
        let ahead = self.buffer.borrow().len() as u64;
        (self.read.get().saturating_sub(ahead), self.written.get())
    }

    /// Ends the use of the stream; what was read ahead of need remains.
    pub(super) fn into_read_ahead(self) -> BytesMut {
        self.buffer.into_inner()
    }

    /// The stream, for a tunnel. Nothing else may use it meanwhile.
    pub(super) fn borrow(&self) -> RefMut<'_, &'w mut Stream> {
        self.stream.borrow_mut()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.stream.borrow().live().is_draining()
    }

    pub(super) fn has_read_ahead(&self) -> bool {
        !self.buffer.borrow().is_empty()
    }

    /// Looks at what was read ahead.
    pub(super) fn with_buffer<T>(&self, f: impl FnOnce(&mut BytesMut) -> T) -> T {
        f(&mut self.buffer.borrow_mut())
    }

    /// Gives the read buffer back if nothing is in it: an idle connection holds none.
    pub(super) fn release_buffer(&self) {
        let mut buffer = self.buffer.borrow_mut();
        if buffer.is_empty() && buffer.capacity() > 0 {
            self.buffers.give(std::mem::take(&mut *buffer));
        }
    }

    /// Waits for the first bytes of a message without holding a buffer; 0 is the end, `None` says
    /// that we should drain instead.
    pub(super) async fn first_bytes(&self) -> io::Result<Option<usize>> {
        poll_fn(|cx| {
            let filled = self.poll_fill(cx);
            if filled.is_pending() {
                self.release_buffer();
                if self.is_draining() {
                    return Poll::Ready(Ok(None));
                }
            }
            filled.map_ok(Some)
        })
        .await
    }

    /// Resolves when the peer closes; never if it sends more instead.
    pub(super) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_read_ahead() {
            return Poll::Pending;
        }
        match self.poll_fill(cx) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        }
    }

    /// Reads more bytes; 0 is the end.
    pub(super) async fn fill(&self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    fn poll_fill(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.borrow_mut();
        ready!(stream.poll_readable(cx))?;
        let mut buffer = self.buffer.borrow_mut();
        if buffer.capacity() == 0 {
            *buffer = self.buffers.take();
        }
        buffer.reserve(READ_SIZE);
        let count = ready!(stream.poll_read_into(cx, &mut buffer))?;
        self.read.set(self.read.get() + count as u64);
        Poll::Ready(Ok(count))
    }

    /// The next part of a message's body.
    pub(super) async fn body(&self, decoder: &mut BodyDecoder) -> Result<BodyEvent, WireError> {
        loop {
            let event = decoder.decode(&mut self.buffer.borrow_mut())?;
            if event != BodyEvent::NeedMore {
                return Ok(event);
            }
            if self.fill().await? == 0 {
                decoder.end_of_stream()?;
                return Ok(BodyEvent::End(Vec::new()));
            }
        }
    }

    /// Writes all of `parts` in order.
    pub(super) async fn write(&self, parts: &mut [Bytes]) -> io::Result<()> {
        poll_fn(|cx| self.poll_write(cx, parts)).await
    }

    fn poll_write(&self, cx: &mut Context<'_>, parts: &mut [Bytes]) -> Poll<io::Result<()>> {
        let mut stream = self.stream.borrow_mut();
        while let Some(first) = parts.iter().position(|part| !part.is_empty()) {
            let rest = &mut parts[first..];
            let mut written = if rest.len() == 1 {
                ready!(Pin::new(&mut **stream).poll_write(cx, &rest[0]))?
            } else {
                let mut slices = [io::IoSlice::new(&[]); MAX_PARTS];
                let count = rest.len().min(MAX_PARTS);
                for (slice, part) in slices.iter_mut().zip(rest.iter()) {
                    *slice = io::IoSlice::new(part);
                }
                ready!(Pin::new(&mut **stream).poll_write_vectored(cx, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written.set(self.written.get() + written as u64);
            for part in rest {
                let taken = written.min(part.len());
                part.advance(taken);
                written -= taken;
            }
        }
        Pin::new(&mut **stream).poll_flush(cx)
    }

    /// Lets the connection end in a reset when it is dropped.
    pub(super) fn reset(&self) {
        self.stream.borrow_mut().reset_on_close();
        self.is_reset.set(true);
    }

    pub(super) fn is_reset(&self) -> bool {
        self.is_reset.get()
    }

    /// Ends our direction.
    pub(super) async fn shutdown(&self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut **self.stream.borrow_mut()).poll_shutdown(cx)).await
    }
}

/// The most that one message part is written in: head, chunk start, data, chunk end.
const MAX_PARTS: usize = 4;
