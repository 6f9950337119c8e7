//! rustls' buffered connection, fed and emptied by hand.
//!
//! Ciphertext passes through per-thread scratch that is borrowed only within one poll, so that an
//! idle connection holds no buffer of ours.

use std::{
    cell::Cell,
    io::{self, BufRead, IoSlice, Write},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Ciphertext read in one system call at most. Pages that no read ever reaches cost nothing.
const SCRATCH: usize = 256 * 1024;

/// The least that is read below rustls, which itself asks for 4 KiB: one full record with its
/// overhead (RFC 8446, section 5.2).
const MIN_READ: usize = 16 * 1024 + 256 + 5;

/// rustls takes no more ciphertext while it holds more plaintext than this.
const PLAINTEXT_LIMIT: usize = 16 * 1024;

/// Ciphertext that may wait for the socket to take it, per connection.
const WRITE_LIMIT: usize = 64 * 1024;

/// A rustls connection, and ciphertext that was read and did not fit into it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: Box<Connection>,
    surplus: Vec<u8>,
    /// The error that ended the connection, once there was one.
    failed: Option<Box<rustls::Error>>,
}

/// What there is to read.
pub(super) enum Plaintext {
    Ready,
    None,
    /// The peer closed its side with `close_notify`.
    Closed,
}

impl Session {
    pub(super) fn new(connection: Connection) -> Self {
        let mut connection = Box::new(connection);
        connection.set_buffer_limit(Some(WRITE_LIMIT));
        Self {
            connection,
            surplus: Vec::new(),
            failed: None,
        }
    }

    /// Whether plaintext waits inside rustls.
    ///
    /// # Errors
    /// `UnexpectedEof` when the peer went away without `close_notify`.
    pub(super) fn plaintext(&mut self) -> io::Result<Plaintext> {
        match self.connection.reader().fill_buf() {
            Ok([]) => Ok(Plaintext::Closed),
            Ok(_) => Ok(Plaintext::Ready),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Plaintext::None),
            Err(error) => Err(error),
        }
    }

    /// Reads ciphertext once, if there is any, and takes it into rustls; decrypted bytes go on to
    /// `sink` as long as it has room. Yields the number of ciphertext bytes; 0 at the end.
    pub(super) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
        sink: &mut ReadBuf<'_>,
    ) -> Poll<Result<usize, FillError>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(FillError::Tls((**error).clone())));
        }
        if !self.surplus.is_empty() {
            let surplus = std::mem::take(&mut self.surplus);
            return Poll::Ready(self.feed(&surplus, sink).map(|()| surplus.len()));
        }
        let want = MIN_READ.max(sink.remaining()).min(SCRATCH);
        with_scratch(want, |scratch| {
            ready!(Pin::new(io).poll_read(cx, scratch)).map_err(FillError::Io)?;
            let count = scratch.filled().len();
            if count == 0 {
                // So that rustls knows; it has nothing to process.
                self.connection
                    .read_tls(&mut io::empty())
                    .map_err(FillError::Io)?;
            } else {
                self.feed(scratch.filled(), sink)?;
            }
            Poll::Ready(Ok(count))
        })
    }

    /// Takes ciphertext that was read elsewhere, after what rustls has taken before and not looked at.
    pub(super) fn feed(
        &mut self,
        mut ciphertext: &[u8],
        sink: &mut ReadBuf<'_>,
    ) -> Result<(), FillError> {
        loop {
            let waiting = self.process(sink)?;
            if ciphertext.is_empty() {
                return Ok(());
            }
            if waiting > PLAINTEXT_LIMIT {
                self.surplus = ciphertext.to_vec();
                return Ok(());
            }
            let taken = self.connection.read_tls(&mut ciphertext);
            if taken.map_err(FillError::Io)? == 0 {
                // After close_notify whatever follows is ignored (RFC 8446, section 6.1).
                return Ok(());
            }
        }
    }

    /// Decrypts what rustls has taken; yields how much plaintext waits that found no room.
    fn process(&mut self, sink: &mut ReadBuf<'_>) -> Result<usize, FillError> {
        let state = self.connection.process_new_packets().map_err(|error| {
            self.failed = Some(Box::new(error.clone()));
            FillError::Tls(error)
        })?;
        let waiting = state.plaintext_bytes_to_read();
        Ok(if waiting > 0 {
            waiting - self.drain(sink)
        } else {
            0
        })
    }

    /// Moves waiting plaintext to `sink`; yields how much.
    pub(super) fn drain(&mut self, sink: &mut ReadBuf<'_>) -> usize {
        let before = sink.filled().len();
        let mut reader = self.connection.reader();
        while sink.remaining() > 0 {
            // Chunk by chunk and not by `read`, which wants an initialised buffer.
            let Ok(chunk) = reader.fill_buf() else { break };
            let count = chunk.len().min(sink.remaining());
            if count == 0 {
                break;
            }
            sink.put_slice(&chunk[..count]);
            reader.consume(count);
        }
        sink.filled().len() - before
    }

    /// Whether the peer sent `close_notify`, and all before it has been read.
    pub(super) fn peer_has_closed(&mut self) -> bool {
        matches!(self.plaintext(), Ok(Plaintext::Closed))
    }

    #[cfg(test)]
    pub(super) fn keeps_ciphertext(&self) -> bool {
        !self.surplus.is_empty()
    }

    /// Writes out all ciphertext that waits.
    pub(super) fn poll_flush<S: AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            let mut writer = PollWriter { io, cx };
            match self.connection.write_tls(&mut writer) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Why ciphertext could not be taken in.
#[derive(Debug)]
pub(super) enum FillError {
    Io(io::Error),
    Tls(rustls::Error),
}

type Scratch = Box<[MaybeUninit<u8>]>;

thread_local! {
    static SCRATCH_BUFFER: Cell<Option<Scratch>> = const { Cell::new(None) };
}

/// Lends `size` bytes of this thread's scratch.
pub(super) fn with_scratch<T>(size: usize, work: impl FnOnce(&mut ReadBuf<'_>) -> T) -> T {
    // Taken and put back, so that a stream over a stream gets one of its own.
    let scratch = SCRATCH_BUFFER.take();
    let mut scratch = scratch.unwrap_or_else(|| Box::new_uninit_slice(SCRATCH));
    let result = work(&mut ReadBuf::uninit(&mut scratch[..size.min(SCRATCH)]));
    SCRATCH_BUFFER.set(Some(scratch));
    result
}

/// A blocking writer's face on an asynchronous one: not ready is `WouldBlock`.
struct PollWriter<'a, 'cx, S> {
    io: &'a mut S,
    cx: &'a mut Context<'cx>,
}

impl<S: AsyncWrite + Unpin> Write for PollWriter<'_, '_, S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        unpolled(Pin::new(&mut *self.io).poll_write(self.cx, buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match bufs {
            // One send is cheaper than a writev of one.
            [single] => self.write(single),
            _ if self.io.is_write_vectored() => {
                unpolled(Pin::new(&mut *self.io).poll_write_vectored(self.cx, bufs))
            }
            [first, ..] => self.write(first),
            [] => Ok(0),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        unpolled(Pin::new(&mut *self.io).poll_flush(self.cx))
    }
}

fn unpolled<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
