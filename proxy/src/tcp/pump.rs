//! One direction of a tunnel.
//!
//! A buffer is held only while it has bytes to write. What one read may bring grows while reads
//! fill it, and shrinks when they do not: large reads are what a bulk flow's speed comes from.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

use crate::io::{BufferPool, Stream};

/// The first size of a read, in bytes.
const SMALLEST: usize = 64 * 1024;

/// The largest size of a read: beyond it, nothing was gained.
const LARGEST: usize = 1024 * 1024;

/// Reads that bring less than a quarter, before the size is halved.
const SMALL_READS: u32 = 8;

/// Which side broke.
#[derive(Debug)]
pub(crate) enum PumpError {
    Source(io::Error),
    Sink(io::Error),
}

/// Bytes on their way from one stream to another.
#[derive(Debug)]
pub(crate) struct Pump {
    buffer: BytesMut,
    /// Size of the next read.
    size: usize,
    largest: usize,
    small_reads: u32,
    state: State,
    /// Bytes written so far.
    pub(crate) passed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The source ended: what is buffered is still to be written.
    Ending,
    Ended,
}

impl Pump {
    /// `read_ahead` goes first; at most `limit` bytes are buffered, if that is not too few to be
    /// of use.
    pub(crate) fn new(read_ahead: BytesMut, limit: usize) -> Self {
        let largest = limit.clamp(SMALLEST / 4, LARGEST);
        Self {
            buffer: read_ahead,
            size: SMALLEST.min(largest),
            largest,
            small_reads: 0,
            state: State::Open,
            passed: 0,
        }
    }

    /// Takes what was read before it began.
    pub(crate) fn take_over(&mut self, read_ahead: &mut BytesMut) {
        if !read_ahead.is_empty() {
            self.buffer = std::mem::take(read_ahead);
        }
    }

    /// Moves what can be moved; ready when the source has ended and `to` is told so.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &BufferPool,
        from: &mut Stream,
        to: &mut Stream,
    ) -> Poll<Result<(), PumpError>> {
        while self.state != State::Ended {
            ready!(self.poll_write(cx, to)).map_err(PumpError::Sink)?;
            match self.state {
                State::Open => ready!(self.poll_read(cx, buffers, from, to))?,
                State::Ending | State::Ended => {
                    self.put_back(buffers);
                    let shut = shut(Pin::new(&mut *to).poll_shutdown(cx));
                    ready!(shut).map_err(PumpError::Sink)?;
                    self.state = State::Ended;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.advance(written);
            self.passed += written as u64;
        }
        Poll::Ready(Ok(()))
    }

    /// One read. The buffer is empty here; while there is nothing to read, none is held.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &BufferPool,
        from: &mut Stream,
        to: &mut Stream,
    ) -> Poll<Result<(), PumpError>> {
        let readable = from.poll_readable(cx).map_err(PumpError::Source)?;
        if readable.is_pending() {
            self.put_back(buffers);
            // What TLS holds back must go before we wait.
            ready!(Pin::new(to).poll_flush(cx)).map_err(PumpError::Sink)?;
            return Poll::Pending;
        }
        if self.buffer.capacity() < self.size {
            self.put_back(buffers);
            self.buffer = buffers.take_bulk(self.size);
        }
        self.buffer.clear();
        let read = from.poll_read_limited(cx, &mut self.buffer, self.size);
        match read {
            Poll::Pending => {
                self.put_back(buffers);
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => {
                self.state = State::Ending;
                Poll::Ready(Ok(()))
            }
            // TLS without close_notify: for a tunnel it is the end, as a FIN is.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.state = State::Ending;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(PumpError::Source(error))),
            Poll::Ready(Ok(read)) => {
                self.adapt(read);
                Poll::Ready(Ok(()))
            }
        }
    }

    fn adapt(&mut self, read: usize) {
        if read >= self.size {
            self.size = (self.size * 2).min(self.largest);
            self.small_reads = 0;
        } else if read < self.size / 4 {
            self.small_reads += 1;
            if self.small_reads >= SMALL_READS {
                self.size = (self.size / 2).max(SMALLEST.min(self.largest));
                self.small_reads = 0;
            }
        }
    }

    fn put_back(&mut self, buffers: &BufferPool) {
        let buffer = std::mem::take(&mut self.buffer);
        if buffer.capacity() > 0 {
            buffers.give_bulk(buffer);
        }
    }
}

/// A peer that is gone already needs no end.
fn shut(result: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
    result.map(|result| match result {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_follows_the_flow() {
        let mut pump = Pump::new(BytesMut::new(), usize::MAX);
        assert_eq!(pump.size, SMALLEST);
        for _ in 0..10 {
            pump.adapt(pump.size);
        }
        assert_eq!(pump.size, LARGEST);
        for _ in 0..SMALL_READS * 10 {
            pump.adapt(1000);
        }
        assert_eq!(pump.size, SMALLEST);
    }

    #[test]
    fn the_size_stays_within_the_limit() {
        let mut pump = Pump::new(BytesMut::new(), 32 * 1024);
        for _ in 0..10 {
            pump.adapt(pump.size);
        }
        assert_eq!(pump.size, 32 * 1024);
        for _ in 0..SMALL_READS * 10 {
            pump.adapt(0);
        }
        assert_eq!(pump.size, 32 * 1024);
    }
}
