//! Message bodies: the bytes of a connection in, data and trailers out.

use bytes::{Buf, Bytes, BytesMut};

use crate::{error::ParseError, head::Framing};

/// Envoy's bound of a chunk extension is the head's; nobody sends any.
const MAX_CHUNK_LINE: usize = 256;
/// Bound of all trailers together, in bytes.
const MAX_TRAILERS: usize = 16 * 1024;
const MAX_TRAILER_FIELDS: usize = 64;

/// What the decoder found.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyEvent {
    Data(Bytes),
    /// The end; with the trailers of a chunked body, names in lower case.
    End(Vec<(Bytes, Bytes)>),
    /// More bytes are needed.
    NeedMore,
}

/// Decodes one body.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    Close,
    Done,
}

impl BodyDecoder {
    pub fn new(framing: Framing) -> Self {
        Self {
            state: match framing {
                Framing::None | Framing::Length(0) => State::Done,
                Framing::Length(length) => State::Length(length),
                Framing::Chunked => State::ChunkSize,
                Framing::Close => State::Close,
            },
        }
    }

    /// Whether the whole body was taken.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes what can be taken off the front of `buffer`; bytes of a next message stay in it.
    ///
    /// # Errors
    /// The connection cannot be used any more.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<BodyEvent, ParseError> {
        loop {
            match self.state {
                State::Done => return Ok(BodyEvent::End(Vec::new())),
                _ if buffer.is_empty() => return Ok(BodyEvent::NeedMore),
                State::Close => return Ok(BodyEvent::Data(buffer.split().freeze())),
                State::Length(left) => {
                    let data = take(buffer, left);
                    let left = left - data.len() as u64;
                    self.state = if left == 0 {
                        State::Done
                    } else {
                        State::Length(left)
                    };
                    return Ok(BodyEvent::Data(data));
                }
                State::ChunkSize => {
                    let Some(size) = chunk_size(buffer)? else {
                        return Ok(BodyEvent::NeedMore);
                    };
                    self.state = match size {
                        0 => State::Trailers,
                        size => State::ChunkData(size),
                    };
                }
                State::ChunkData(left) => {
                    let data = take(buffer, left);
                    let left = left - data.len() as u64;
                    self.state = if left == 0 {
                        State::ChunkEnd
                    } else {
                        State::ChunkData(left)
                    };
                    return Ok(BodyEvent::Data(data));
                }
                State::ChunkEnd => {
                    if !b"\r\n".starts_with(&buffer[..buffer.len().min(2)]) {
                        return Err(ParseError::Chunk);
                    }
                    if buffer.len() < 2 {
                        return Ok(BodyEvent::NeedMore);
                    }
                    buffer.advance(2);
                    self.state = State::ChunkSize;
                }
                State::Trailers => {
                    let Some(trailers) = trailers(buffer)? else {
                        return Ok(BodyEvent::NeedMore);
                    };
                    self.state = State::Done;
                    return Ok(BodyEvent::End(trailers));
                }
            }
        }
    }

    /// The peer closed. That ends a body without framing of its own; any other is cut short.
    ///
    /// # Errors
    /// [`ParseError::Truncated`].
    pub fn end_of_stream(&mut self) -> Result<(), ParseError> {
        match self.state {
            State::Close | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(ParseError::Truncated),
        }
    }
}

fn take(buffer: &mut BytesMut, at_most: u64) -> Bytes {
    let length = usize::try_from(at_most)
        .unwrap_or(usize::MAX)
        .min(buffer.len());
    buffer.split_to(length).freeze()
}

/// `chunk-size [chunk-ext] CRLF`; extensions are dropped.
fn chunk_size(buffer: &mut BytesMut) -> Result<Option<u64>, ParseError> {
    let Some(end) = memchr::memchr(b'\n', buffer) else {
        return match buffer.len() > MAX_CHUNK_LINE {
            true => Err(ParseError::ChunkExtension),
            false => Ok(None),
        };
    };
    if end > MAX_CHUNK_LINE {
        return Err(ParseError::ChunkExtension);
    }
    let Some(line) = buffer[..end].strip_suffix(b"\r") else {
        return Err(ParseError::Chunk);
    };
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    // Sixteen digits are 64 bits; whoever sends more wants an overflow.
    if digits == 0 || digits > 16 {
        return Err(ParseError::Chunk);
    }
    let extension = line[digits..].trim_ascii_start();
    let plain = |b: &u8| *b == b'\t' || (0x20..0x7f).contains(b);
    if !(extension.is_empty() || extension[0] == b';') || !extension.iter().all(plain) {
        return Err(ParseError::Chunk);
    }
    let size = std::str::from_utf8(&line[..digits])
        .ok()
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or(ParseError::Chunk)?;
    buffer.advance(end + 1);
    Ok(Some(size))
}

/// Names that have no business after the body (RFC 9110, section 6.5.1).
const FORBIDDEN_TRAILERS: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn trailers(buffer: &mut BytesMut) -> Result<Option<Vec<(Bytes, Bytes)>>, ParseError> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let status = httparse::parse_headers(buffer, &mut lines).map_err(|_| ParseError::Trailers)?;
    let httparse::Status::Complete((length, fields)) = status else {
        return match buffer.len() > MAX_TRAILERS {
            true => Err(ParseError::Trailers),
            false => Ok(None),
        };
    };
    let bare = |at: usize| at == 0 || buffer[at - 1] != b'\r';
    if length > MAX_TRAILERS || memchr::memchr_iter(b'\n', &buffer[..length]).any(bare) {
        return Err(ParseError::Trailers);
    }
    let fields = fields
        .iter()
        .map(|field| {
            (
                Bytes::from(field.name.to_ascii_lowercase()),
                Bytes::copy_from_slice(field.value),
            )
        })
        .filter(|(name, _)| !FORBIDDEN_TRAILERS.iter().any(|f| f.as_bytes() == &name[..]))
        .collect();
    buffer.advance(length);
    Ok(Some(fields))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Decoded = (Vec<u8>, Vec<(Bytes, Bytes)>, usize);

    /// Feeds `bytes` in pieces of `step`; returns data, trailers and what was left over.
    fn decode(framing: Framing, bytes: &[u8], step: usize) -> Result<Decoded, ParseError> {
        let mut decoder = BodyDecoder::new(framing);
        let mut buffer = BytesMut::new();
        let mut data = Vec::new();
        let mut pieces = bytes.chunks(step);
        loop {
            match decoder.decode(&mut buffer)? {
                BodyEvent::Data(bytes) => data.extend_from_slice(&bytes),
                BodyEvent::End(trailers) => {
                    let left = buffer.len() + pieces.map(<[u8]>::len).sum::<usize>();
                    return Ok((data, trailers, left));
                }
                BodyEvent::NeedMore => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => {
                        decoder.end_of_stream()?;
                        return Ok((data, Vec::new(), 0));
                    }
                },
            }
        }
    }

    #[test]
    fn chunks_and_trailers_in_any_pieces() {
        let text = b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-T: 1\r\nHost: x\r\n\r\nGET";
        for step in 1..text.len() {
            let (data, trailers, left) = decode(Framing::Chunked, text, step).unwrap();
            assert_eq!(data, b"hello world");
            assert_eq!(trailers, [("x-t".into(), "1".into())]);
            assert_eq!(left, 3);
        }
    }

    #[test]
    fn bad_chunks_are_refused() {
        let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(300));
        let cases: &[(&str, ParseError)] = &[
            ("5\nhello\r\n0\r\n\r\n", ParseError::Chunk),
            ("0x5\r\nhello\r\n0\r\n\r\n", ParseError::Chunk),
            ("+5\r\nhello\r\n0\r\n\r\n", ParseError::Chunk),
            (" 5\r\nhello\r\n0\r\n\r\n", ParseError::Chunk),
            ("5 x\r\nhello\r\n0\r\n\r\n", ParseError::Chunk),
            ("\r\nhello\r\n0\r\n\r\n", ParseError::Chunk),
            ("5\r\nhello0\r\n\r\n", ParseError::Chunk),
            ("5\r\nhello\n0\r\n\r\n", ParseError::Chunk),
            ("11111111111111111\r\n", ParseError::Chunk),
            ("5;a\0b\r\nhello\r\n0\r\n\r\n", ParseError::Chunk),
            (&long, ParseError::ChunkExtension),
            ("0\r\na b\r\n\r\n", ParseError::Trailers),
            ("0\r\nA: b\n\n", ParseError::Trailers),
            ("5\r\nhel", ParseError::Truncated),
            ("5\r\nhello\r\n0\r\n", ParseError::Truncated),
        ];
        for (text, expected) in cases {
            for step in [1, 3, text.len()] {
                let refused = decode(Framing::Chunked, text.as_bytes(), step).unwrap_err();
                assert_eq!(refused, *expected, "{text:?} in pieces of {step}");
            }
        }
    }

    #[test]
    fn lengths_are_exact() {
        assert_eq!(
            decode(Framing::Length(3), b"abcd", 2).unwrap(),
            (b"abc".to_vec(), vec![], 1)
        );
        assert_eq!(
            decode(Framing::Length(5), b"abcd", 2).unwrap_err(),
            ParseError::Truncated
        );
        assert_eq!(decode(Framing::Close, b"abcd", 3).unwrap().0, b"abcd");
        assert_eq!(decode(Framing::None, b"abcd", 4).unwrap().2, 4);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_alike_in_any_pieces(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            step in 1usize..20,
        ) {
            let text = [&b"3\r\nabc\r\n"[..], &bytes].concat();
            let whole = decode(Framing::Chunked, &text, text.len());
            let pieces = decode(Framing::Chunked, &text, step);
            prop_assert_eq!(whole.is_ok(), pieces.is_ok());
            if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
                prop_assert_eq!(whole, pieces);
            }
        }
    }
}
