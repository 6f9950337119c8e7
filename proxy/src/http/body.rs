//! Bodies on the move: from either protocol to either protocol, one part at a time.
//!
//! Invariant: the next part is asked for only when the one before is written, so that a slow
//! reader slows its writer down and nothing piles up between.

use std::{
    future::poll_fn,
    io,
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use ithildin_http1::{BodyDecoder, BodyEvent, Framing, Known, encode};

use super::{
    headers::Headers,
    tape::Tape,
    wire::{Wire, WireError},
};
use crate::worker::Share;

/// The most that is thrown away of a body so that its connection can go on, in bytes.
const SKIP: usize = 64 * 1024;

/// Where a body comes from.
pub(super) enum Source<'a, 'w> {
    Empty,
    /// Our own words.
    Bytes(Bytes),
    Wire {
        wire: &'a Wire<'w>,
        decoder: BodyDecoder,
        /// Whether its trailers are worth anything.
        trailers: bool,
    },
    Http2 {
        stream: RecvStream,
        /// Bytes of the last part: the peer may send as many more once they are written.
        taken: usize,
    },
    /// One that may have to be sent again.
    Taped(Box<Taped<'a, 'w>>),
    /// One of which a part was read ahead.
    Held(Box<Held<'a, 'w>>),
}

/// A body, and what was sent of it.
pub(super) struct Taped<'a, 'w> {
    body: Source<'a, 'w>,
    tape: Rc<Tape>,
    /// What is left to be sent again.
    replay: Option<Bytes>,
}

/// A body, and its first part.
pub(super) struct Held<'a, 'w> {
    body: Source<'a, 'w>,
    first: BytesMut,
    /// Its trailers, if `first` is all of it.
    end: Option<Headers>,
    /// What `first` takes of the memory for such parts.
    share: Share,
}

/// What is there of a body that is read ahead.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    More,
    Whole,
    /// There is no memory for more of it.
    NoRoom,
}

/// One part of a body.
pub(super) enum Part {
    Data(Bytes),
    End(Headers),
}

/// Why a body stops in the middle.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl<'a, 'w> Source<'a, 'w> {
    pub(super) fn wire(wire: &'a Wire<'w>, framing: Framing, trailers: bool) -> Self {
        match framing {
            Framing::None => Self::Empty,
            framing => Self::Wire {
                wire,
                decoder: BodyDecoder::new(framing),
                trailers,
            },
        }
    }

    /// All that comes until the end of the connection.
    pub(super) fn raw(wire: &'a Wire<'w>) -> Self {
        Self::wire(wire, Framing::Close, false)
    }

    pub(super) fn http2(stream: RecvStream) -> Self {
        match stream.is_end_stream() {
            true => Self::Empty,
            false => Self::Http2 { stream, taken: 0 },
        }
    }

    /// Keeps on the tape what is sent from now on.
    pub(super) fn record(&mut self, tape: &Rc<Tape>) {
        *self = Self::Taped(Box::new(Taped {
            body: std::mem::replace(self, Self::Empty),
            tape: Rc::clone(tape),
            replay: None,
        }));
    }

    /// Back to the begin, if [`Tape::can_replay`] says so.
    pub(super) fn rewind(&mut self) {
        if let Self::Taped(taped) = self {
            taped.replay = taped.tape.replay();
        }
    }

    /// Makes room for parts that are read ahead of their use, as far as `share` grows.
    pub(super) fn hold(&mut self, share: Share) {
        *self = Self::Held(Box::new(Held {
            body: std::mem::replace(self, Self::Empty),
            first: BytesMut::new(),
            end: None,
            share,
        }));
    }

    /// Reads one more part ahead, after [`hold`](Self::hold).
    pub(super) async fn read_ahead(&mut self) -> Result<Ahead, BodyError> {
        match self {
            Self::Held(held) => Box::pin(held.read_ahead()).await,
            _ => Ok(Ahead::NoRoom),
        }
    }

    /// What was read ahead.
    pub(super) fn ahead(&self) -> &[u8] {
        match self {
            Self::Held(held) => &held.first,
            _ => &[],
        }
    }

    /// The trailers, once all before them was read ahead.
    pub(super) fn trailers_ahead(&mut self) -> Option<&mut Headers> {
        match self {
            Self::Held(held) => held.end.as_mut(),
            _ => None,
        }
    }

    /// Puts other data in the place of all that there is, which was read ahead, or was none.
    pub(super) fn replace(&mut self, data: Bytes) {
        match self {
            Self::Held(held) => held.first = data.into(),
            _ => *self = Self::Bytes(data),
        }
    }

    /// Whether no further data will come; there may be trailers yet.
    pub(super) fn is_ended(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::Wire { decoder, .. } => decoder.is_done(),
            Self::Http2 { stream, .. } => stream.is_end_stream(),
            Self::Taped(taped) => match &taped.replay {
                Some(left) => left.is_empty() && !taped.tape.has_trailers(),
                None => taped.body.is_ended(),
            },
            Self::Held(held) => {
                held.first.is_empty()
                    && match &held.end {
                        Some(trailers) => trailers.is_empty(),
                        None => held.body.is_ended(),
                    }
            }
        }
    }

    /// The last part was passed on: its sender may go on, also with other streams, whose window it shares,
    /// when this was the last one.
    fn passed(&mut self) -> Result<(), BodyError> {
        match self {
            Self::Http2 { stream, taken } => Ok(give_credit(stream, taken)?),
            Self::Taped(taped) => taped.body.passed(),
            Self::Held(held) => held.body.passed(),
            Self::Empty | Self::Bytes(_) | Self::Wire { .. } => Ok(()),
        }
    }

    /// Throws away what is there already of a body that nobody wants; whether that was all.
    pub(super) async fn skip_ready(&mut self) -> bool {
        let mut skipped = 0;
        poll_fn(|cx| {
            while skipped < SKIP {
                match pin!(self.next()).poll(cx) {
                    Poll::Ready(Ok(Part::Data(data))) => skipped += data.len(),
                    Poll::Ready(Ok(Part::End(_))) => return Poll::Ready(true),
                    Poll::Ready(Err(_)) | Poll::Pending => break,
                }
            }
            Poll::Ready(self.is_ended())
        })
        .await
    }

    /// Can be dropped and called again without loss.
    pub(super) async fn next(&mut self) -> Result<Part, BodyError> {
        match self {
            Self::Empty => Ok(Part::End(Headers::default())),
            Self::Bytes(bytes) if bytes.is_empty() => Ok(Part::End(Headers::default())),
            Self::Bytes(bytes) => Ok(Part::Data(std::mem::take(bytes))),
            Self::Wire {
                wire,
                decoder,
                trailers,
            } => match wire.body(decoder).await? {
                BodyEvent::Data(data) => Ok(Part::Data(data)),
                BodyEvent::End(_) if !*trailers => Ok(Part::End(Headers::default())),
                BodyEvent::End(fields) => Ok(Part::End(Headers::from_trailers(fields))),
                BodyEvent::NeedMore => Ok(Part::Data(Bytes::new())),
            },
            Self::Http2 { stream, taken } => {
                give_credit(stream, taken)?;
                if let Some(data) = stream.data().await {
                    let data = data?;
                    *taken = data.len();
                    return Ok(Part::Data(data));
                }
                let trailers = stream.trailers().await?;
                Ok(Part::End(
                    trailers.map(Headers::from_map).unwrap_or_default(),
                ))
            }
            // Boxed: it contains itself.
            Self::Taped(taped) => Box::pin(taped.next()).await,
            Self::Held(held) => Box::pin(held.next()).await,
        }
    }
}

fn give_credit(stream: &mut RecvStream, taken: &mut usize) -> Result<(), h2::Error> {
    match std::mem::take(taken) {
        0 => Ok(()),
        credit => stream.flow_control().release_capacity(credit),
    }
}

impl Taped<'_, '_> {
    async fn next(&mut self) -> Result<Part, BodyError> {
        if let Some(left) = &mut self.replay {
            return Ok(match left.is_empty() {
                true => Part::End(self.tape.trailers()),
                false => Part::Data(std::mem::take(left)),
            });
        }
        let part = self.body.next().await?;
        self.tape.record(&part, self.body.is_ended());
        Ok(part)
    }
}

impl Held<'_, '_> {
    async fn read_ahead(&mut self) -> Result<Ahead, BodyError> {
        if self.end.is_some() {
            return Ok(Ahead::Whole);
        }
        match self.body.next().await? {
            Part::End(trailers) => {
                self.end = Some(trailers);
                Ok(Ahead::Whole)
            }
            // It is kept all the same, since it is read.
            Part::Data(data) => {
                let fits = self.share.grow(data.len());
                self.first.extend_from_slice(&data);
                Ok(if fits { Ahead::More } else { Ahead::NoRoom })
            }
        }
    }

    async fn next(&mut self) -> Result<Part, BodyError> {
        if !self.first.is_empty() {
            return Ok(Part::Data(std::mem::take(&mut self.first).freeze()));
        }
        match &mut self.end {
            Some(trailers) => Ok(Part::End(std::mem::take(trailers))),
            None => self.body.next().await,
        }
    }
}

/// Where a body goes.
pub(super) enum Sink<'a, 'w> {
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
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
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
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Wire { wire, head, .. } if !head.is_empty() => {
                wire.write(&mut [std::mem::take(head)]).await
            }
            _ => Ok(()),
        }
    }

    async fn data(&mut self, data: Bytes, last: bool) -> io::Result<()> {
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

    async fn end(&mut self, ending: Headers) -> io::Result<()> {
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

/// Which side broke.
#[derive(Debug, thiserror::Error)]
pub(super) enum PumpError {
    #[error("the sender: {0}")]
    Source(BodyError),
    #[error("the receiver: {0}")]
    Sink(io::Error),
}

/// Moves a whole body. `progress` is told of each part before it is passed on.
pub(super) async fn pump(
    source: &mut Source<'_, '_>,
    sink: &mut Sink<'_, '_>,
    progress: impl Fn(&Part),
) -> Result<(), PumpError> {
    loop {
        let part = next_or_flush(source, sink).await?;
        progress(&part);
        match part {
            Part::Data(data) if data.is_empty() => {}
            Part::Data(data) => {
                // A chunked body may still have trailers after its last data.
                let last = source.is_ended();
                sink.data(data, last).await.map_err(PumpError::Sink)?;
                source.passed().map_err(PumpError::Source)?;
                if last {
                    return Ok(());
                }
            }
            Part::End(mut trailers) => {
                trailers.strip_forwarding();
                return sink.end(trailers).await.map_err(PumpError::Sink);
            }
        }
    }
}

/// A head goes out with the first part, unless that keeps it waiting.
async fn next_or_flush(
    source: &mut Source<'_, '_>,
    sink: &mut Sink<'_, '_>,
) -> Result<Part, PumpError> {
    {
        let mut next = pin!(source.next());
        let first = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
        if let Poll::Ready(part) = first {
            return part.map_err(PumpError::Source);
        }
    }
    sink.flush().await.map_err(PumpError::Sink)?;
    let mut next = pin!(source.next());
    poll_fn(|cx| {
        if let Poll::Ready(part) = next.as_mut().poll(cx) {
            return Poll::Ready(part.map_err(PumpError::Source));
        }
        let gone = || PumpError::Sink(io::ErrorKind::ConnectionAborted.into());
        sink.poll_gone(cx).map(|()| Err(gone()))
    })
    .await
}

impl Headers {
    /// Takes away what tells of a client, which only we may say, and only in a head.
    fn strip_forwarding(&mut self) {
        self.retain(|field| {
            !matches!(
                Known::of(&field.name.as_bytes().to_ascii_lowercase()),
                Known::XForwardedClientCert
                    | Known::XForwardedFor
                    | Known::XForwardedHost
                    | Known::XForwardedPort
                    | Known::XForwardedProto
                    | Known::XEnvoy
                    | Known::Te
            )
        });
    }

    fn from_trailers(trailers: Vec<(Bytes, Bytes)>) -> Self {
        let mut headers = Self::default();
        for (name, value) in trailers {
            headers.push_raw(Known::Other, name, value);
        }
        headers
    }
}
