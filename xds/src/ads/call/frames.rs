//! gRPC's length-prefixed messages, taken from data in pieces of any size.
//!
//! No memory is taken on the word of a length: a message grows with what arrives of it, and one that arrives
//! in one piece is not copied. Nothing is kept of a message that was taken.

use bytes::{Buf, Bytes};
use tonic::Status;

/// A flag, and the length as a number of four bytes, the most significant one first.
const HEAD: usize = 5;

pub(super) struct Frames {
    limit: usize,
    /// Data that was received and not looked at.
    data: Bytes,
    /// Of the message whose head has been read.
    length: Option<usize>,
    /// The beginning of a head or of a message that is not whole yet.
    held: Vec<u8>,
}

impl Frames {
    /// `limit`: of one message, in bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            data: Bytes::new(),
            length: None,
            held: Vec::new(),
        }
    }

    /// Takes data, once what came before is used up: when [`Frames::next`] says that there is no message.
    pub(super) fn push(&mut self, data: Bytes) {
        debug_assert!(self.data.is_empty(), "data would be lost");
        self.data = data;
    }

    /// The next whole message.
    ///
    /// # Errors
    /// A message that is compressed, which nobody asked for, or too long.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let length = match self.length {
            Some(length) => length,
            None => {
                let Some(head) = self.part(HEAD) else {
                    return Ok(None);
                };
                *self.length.insert(self.length_of(head)?)
            }
        };
        let message = self.part(length);
        if message.is_some() {
            self.length = None;
        }
        Ok(message)
    }

    /// Whether an end would cut a message.
    pub(super) fn is_amid(&self) -> bool {
        self.length.is_some() || !self.held.is_empty()
    }

    /// The next `length` bytes, once all are there.
    fn part(&mut self, length: usize) -> Option<Bytes> {
        if self.held.is_empty() && self.data.len() >= length {
            return Some(self.data.split_to(length));
        }
        let missing = length - self.held.len();
        let more = self.data.split_to(missing.min(self.data.len()));
        self.held.extend_from_slice(&more);
        (self.held.len() == length).then(|| std::mem::take(&mut self.held).into())
    }

    fn length_of(&self, mut head: Bytes) -> Result<usize, Status> {
        match head.get_u8() {
            0 => {}
            1 => {
                return Err(Status::internal(
                    "the message is compressed, without our asking",
                ));
            }
            flag => return Err(Status::internal(format!("no message of gRPC: flag {flag}"))),
        }
        let length = head.get_u32() as usize;
        if length > self.limit {
            let limit = self.limit;
            let text = format!("a message of {length} bytes is over the limit of {limit}");
            return Err(Status::out_of_range(text));
        }
        Ok(length)
    }
}
