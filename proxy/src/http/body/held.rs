//! A body of which a part is read ahead of its use, for who judges or changes a message by it.

use bytes::{Bytes, BytesMut};

use super::{BodyError, Part, Source};
use crate::{http::headers::Headers, worker::Share};

/// A body, and its first part.
pub(in crate::http) struct Held<'a, 'w> {
    body: Source<'a, 'w>,
    first: BytesMut,
    /// Its trailers, if `first` is all of it.
    end: Option<Headers>,
    /// What `first` takes of the memory for such parts.
    share: Share,
}

/// What is there of a body that is read ahead.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::http) enum Ahead {
    More,
    Whole,
    /// There is no memory for more of it.
    NoRoom,
}

impl Source<'_, '_> {
    /// Makes room for parts that are read ahead of their use, as far as `share` grows.
    pub(in crate::http) fn hold(&mut self, share: Share) {
        *self = Self::Held(Box::new(Held {
            body: std::mem::replace(self, Self::Empty),
            first: BytesMut::new(),
            end: None,
            share,
        }));
    }

    /// Reads one more part ahead, after [`hold`](Self::hold).
    pub(in crate::http) async fn read_ahead(&mut self) -> Result<Ahead, BodyError> {
        match self {
            Self::Held(held) => Box::pin(held.read_ahead()).await,
            _ => Ok(Ahead::NoRoom),
        }
    }

    /// What was read ahead.
    pub(in crate::http) fn ahead(&self) -> &[u8] {
        match self {
            Self::Held(held) => &held.first,
            _ => &[],
        }
    }

    /// The trailers, once all before them was read ahead.
    pub(in crate::http) fn trailers_ahead(&mut self) -> Option<&mut Headers> {
        match self {
            Self::Held(held) => held.end.as_mut(),
            _ => None,
        }
    }

    /// Puts other data in the place of all that there is, which was read ahead, or was none.
    pub(in crate::http) fn replace(&mut self, data: Bytes) {
        match self {
            Self::Held(held) => held.first = data.into(),
            _ => *self = Self::Bytes(data),
        }
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

    pub(super) fn is_ended(&self) -> bool {
        let ends = match &self.end {
            Some(trailers) => trailers.is_empty(),
            None => self.body.is_ended(),
        };
        ends && self.first.is_empty()
    }

    pub(super) fn passed(&mut self) -> Result<(), BodyError> {
        self.body.passed()
    }

    pub(super) async fn next(&mut self) -> Result<Part, BodyError> {
        if !self.first.is_empty() {
            return Ok(Part::Data(std::mem::take(&mut self.first).freeze()));
        }
        match &mut self.end {
            Some(trailers) => Ok(Part::End(std::mem::take(trailers))),
            None => self.body.next().await,
        }
    }
}
