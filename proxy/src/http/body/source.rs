//! Where a body comes from.

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll};

use bytes::Bytes;
use h2::RecvStream;
use ithildin_http1::{BodyDecoder, BodyEvent, Framing, Known};

use super::{BodyError, Part, held::Held};
use crate::http::{headers::Headers, tape::Tape, wire::Wire};

/// The most that is thrown away of a body so that its connection can go on, in bytes.
const SKIP: usize = 64 * 1024;

/// A body that is not yet read.
pub(in crate::http) enum Source<'a, 'w> {
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
pub(in crate::http) struct Taped<'a, 'w> {
    body: Source<'a, 'w>,
    tape: Rc<Tape>,
    /// What is left to be sent again.
    replay: Option<Bytes>,
}

impl<'a, 'w> Source<'a, 'w> {
    pub(in crate::http) fn wire(wire: &'a Wire<'w>, framing: Framing, trailers: bool) -> Self {
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
    pub(in crate::http) fn raw(wire: &'a Wire<'w>) -> Self {
        Self::wire(wire, Framing::Close, false)
    }

    pub(in crate::http) fn http2(stream: RecvStream) -> Self {
        match stream.is_end_stream() {
            true => Self::Empty,
            false => Self::Http2 { stream, taken: 0 },
        }
    }

    /// Keeps on the tape what is sent from now on.
    pub(in crate::http) fn record(&mut self, tape: &Rc<Tape>) {
        *self = Self::Taped(Box::new(Taped {
            body: std::mem::replace(self, Self::Empty),
            tape: Rc::clone(tape),
            replay: None,
        }));
    }

    /// Back to the begin, if [`Tape::can_replay`] says so.
    pub(in crate::http) fn rewind(&mut self) {
        if let Self::Taped(taped) = self {
            taped.replay = taped.tape.replay();
        }
    }

    /// Whether no further data will come; there may be trailers yet.
    pub(in crate::http) fn is_ended(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::Wire { decoder, .. } => decoder.is_done(),
            Self::Http2 { stream, .. } => stream.is_end_stream(),
            Self::Taped(taped) => match &taped.replay {
                Some(left) => left.is_empty() && !taped.tape.has_trailers(),
                None => taped.body.is_ended(),
            },
            Self::Held(held) => held.is_ended(),
        }
    }

    /// The last part was passed on: its sender may go on, also with other streams, whose window it shares,
    /// when this was the last one.
    pub(super) fn passed(&mut self) -> Result<(), BodyError> {
        match self {
            Self::Http2 { stream, taken } => Ok(give_credit(stream, taken)?),
            Self::Taped(taped) => taped.body.passed(),
            Self::Held(held) => held.passed(),
            Self::Empty | Self::Bytes(_) | Self::Wire { .. } => Ok(()),
        }
    }

    /// Throws away what is there already of a body that nobody wants; whether that was all.
    pub(in crate::http) async fn skip_ready(&mut self) -> bool {
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
    pub(in crate::http) async fn next(&mut self) -> Result<Part, BodyError> {
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

impl Headers {
    fn from_trailers(trailers: Vec<(Bytes, Bytes)>) -> Self {
        let mut headers = Self::default();
        for (name, value) in trailers {
            headers.push_raw(Known::Other, name, value);
        }
        headers
    }
}
